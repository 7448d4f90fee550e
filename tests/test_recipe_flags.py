"""Flags and mistakes in them: one clear line and exit code 2, before anything is trained."""

import dataclasses
import importlib
import os
import pathlib
import subprocess
import sys
import zipfile

import keras
import pytest

import any_budget
import controller_only
import efficient
import fixed_routes
import relaxation
import reset_keras as rk
import systems
import top_k
from experiment import config, interruption, runner


def parse(*flags):
    return config.parse(relaxation.RelaxationConfig, "What it does.", flags)


def error_of(capsys, action):
    with pytest.raises(SystemExit) as stopped:
        action()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_presets_differ_and_flags_go_first(monkeypatch):
    monkeypatch.setattr("sys.argv", ["recipes/relaxation.py"])
    quick, paper = parse(), parse("--preset", "paper", "--batch-size", "32")
    assert (quick.dataset, quick.units, quick.workdir) == ("digits", (3, 3), "runs/relaxation")
    assert (paper.dataset, paper.units) == ("cifar10", (5, 5, 5))
    assert (paper.pretrain_steps, paper.gumbel_steps) == (64_000, 5_000)
    assert paper.batch_size == 32


def test_the_fast_preset_is_the_papers_in_all_but_length_schedule_and_precision():
    paper, fast = parse("--preset", "paper").as_json(), parse("--preset", "fast").as_json()
    assert {name for name in paper if paper[name] != fast[name]} == set(config.FAST)
    assert {name: fast[name] for name in config.FAST} == config.FAST


def test_help_names_every_setting_with_its_defaults(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--help")
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(relaxation.RelaxationConfig):
        assert f"--{field.name.replace('_', '-')}" in text
    assert "size of a training batch, over all devices (images; default 64, fast and paper 128)" in text


@pytest.mark.parametrize(("given", "expected"), [({}, "1"), ({"TF_ENABLE_ONEDNN_OPTS": "0"}, "0")])
def test_recipes_compute_with_onednn_unless_told_otherwise(given, expected):
    code = "import os, sys, experiment; print('tensorflow' in sys.modules, os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    path = str(pathlib.Path(relaxation.__file__).parent)
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"} | given
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=path, env=environment
    )
    assert done.stdout.split() == ["False", expected]


def test_help_does_not_load_tensorflow():
    code = """
import atexit, sys
heavy = {"tensorflow", "keras", "numpy", "reset_keras"}
atexit.register(lambda: print("loaded", sorted(heavy & set(sys.modules))))
import relaxation
relaxation.parse(relaxation.RelaxationConfig, "What it does.", ["--help"])
"""
    path = str(importlib.import_module("relaxation").__file__).rsplit("/", 1)[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=path)
    assert done.stdout.strip().endswith("loaded []")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--speed", "9"], "unrecognized arguments: --speed 9"),
        (["--preset", "tiny"], "invalid choice: 'tiny'"),
        (["--start", "vgg"], "invalid choice: 'vgg'"),
        (["--pretrain-rate", "-0.1"], "--pretrain-rate: must be above 0, received -0.1"),
        (["--pretrain-rate", "nan"], "expected a finite number"),
        (["--pretrain-rate", "fast"], "expected a value of type float, received 'fast'"),
        (["--batch-size", "0"], "--batch-size: must be at least 1, received 0"),
        (["--seed", str(2**32)], "--seed: must be below 4294967295, received 4294967296"),
        (["--units", "3", "0"], "--units: must be at least 1, received 0"),
        (["--precision", "float16"], "argument --precision: invalid choice: 'float16'"),
        (["--epochs-scale", "0"], "--epochs-scale: must be above 0"),
        (["--epochs-scale", "1e308"], "--epochs-scale: must be below 1000000.0"),
        (["--temperature", "1e-38"], "--temperature: must be at least 0.0001, received 1e-38"),
        (["--epochs", "20"], "unrecognized arguments: --epochs 20"),
        (["--compute-target", "70"], "--compute-target: must be at most 1, received 70"),
        (["--policy-tolerance", "1"], "--policy-tolerance: must be below 1"),
    ],
)
def test_mistakes_in_flags(capsys, flags, message):
    line = error_of(capsys, lambda: parse(*flags))
    assert message in line
    assert "error: " in line


@pytest.fixture(scope="module")
def damaged_files(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("damaged")
    network = tmp_path / "network.keras"
    rk.ResNet((3, 3), 10, (8, 8, 1), width=4).save(network)
    rk.ResNet((2, 3), 10, (8, 8, 1), width=4).save(tmp_path / "shape.keras")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "plain.keras")
    content = network.read_bytes()
    (tmp_path / "truncated.keras").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.keras").write_bytes(b"")
    flipped = bytearray(content)
    for position in range(len(content) // 2, len(content) // 2 + 200):
        flipped[position] ^= 0xFF
    (tmp_path / "flipped.keras").write_bytes(bytes(flipped))
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("readme.txt", "no network")
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "1438"], "the batch size must be an integer from 1 to the number of training images, 1437"),
        (["--validation", "5000"], "from 10 to 1427 of the 1437 training images of 'digits' can be held out"),
        (["--dataset", "no_such_dataset"], "unknown dataset 'no_such_dataset'"),
        (["--pretrained", "{}/missing.keras"], "there is no file"),
        (["--pretrained", "{}/truncated.keras"], "damaged or incomplete"),
        (["--pretrained", "{}/empty.keras"], "damaged or incomplete"),
        (["--pretrained", "{}/flipped.keras"], "damaged or incomplete"),
        (["--pretrained", "{}/other.keras"], "is no network that can be loaded"),
        (["--pretrained", "{}/shape.keras"], "is of another shape"),
        (["--pretrained", "{}/plain.keras"], "holds a Sequential; expected a ResNet or a ReSetNet"),
        (["--workdir", "{}/network.keras/run"], "cannot be made"),
        (["--skip-rewards", "0.1", "0.1000001"], "--skip-rewards: stages are named by six digits of each value, which"),
    ],
)
def test_mistakes_that_only_the_set_up_sees(capsys, damaged_files, tmp_path, flags, message):
    settings = parse("--workdir", str(tmp_path / "run"), *(flag.format(damaged_files) for flag in flags))
    line = error_of(capsys, lambda: runner.run(settings, relaxation.stages))
    assert message in line
    assert not list((tmp_path / "run").glob("stages/*/*"))


def test_a_training_that_diverges_ends_in_words_and_its_command_is_not_advised(capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["recipes/relaxation.py"])
    with pytest.raises(SystemExit) as stopped, interruption.ended_in_words():
        raise FloatingPointError("The loss became nan in epoch 2.")
    assert stopped.value.code == 1
    told = capsys.readouterr().err.strip()
    assert (
        told
        == "relaxation.py: The loss became nan in epoch 2. (--help lists the rates; a new run has another --workdir)"
    )


def test_recipes_need_tensorflow(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    settings = parse("--workdir", str(tmp_path / "run"))
    line = error_of(capsys, lambda: runner.run(settings, relaxation.stages))
    assert "KERAS_BACKEND=jax: unset it" in line


def test_after_a_mistake_the_same_work_directory_can_be_used(capsys, tmp_path):
    mistaken = parse("--workdir", str(tmp_path / "run"), "--batch-size", "5000")
    error_of(capsys, lambda: runner.run(mistaken, relaxation.stages))
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_given_network_must_be_of_the_kind_that_a_recipe_starts_from(tmp_path):
    digits = rk.data.load_digits()
    rk.ReSetNet((2,), None, 10, (8, 8, 1), width=4).save(tmp_path / "reset.keras")
    flags = ["--units", "2", "--pretrained", str(tmp_path / "reset.keras")]
    for recipe, kind in ((controller_only, "ControllerOnlyConfig"), (efficient, "EfficientConfig")):
        settings = config.parse(getattr(recipe, kind), "What it does.", flags)
        with pytest.raises(ValueError, match=r"must be a ResNet here; .*reset\.keras is a ReSetNet"):
            recipe.stages(settings, digits)
    assert relaxation.stages(parse(*flags), digits)[0].prepare(None).units == (2,)
    with pytest.raises(ValueError, match="'stage0_reset' is of class RNNController, and --controller is cnn"):
        relaxation.stages(parse(*flags, "--controller", "cnn"), digits)[0].prepare(None)


def test_a_given_network_must_be_able_to_skip_where_that_is_rewarded(tmp_path):
    digits = rk.data.load_digits()
    rk.ReSetNet((2,), None, 10, (8, 8, 1), width=4, zero_unit=False).save(tmp_path / "reset.keras")
    flags = ["--units", "2", "--pretrained", str(tmp_path / "reset.keras")]
    with pytest.raises(ValueError, match=r"reset\.keras: its modules have no zero unit, so that nothing"):
        relaxation.stages(parse(*flags), digits)
    assert relaxation.stages(parse(*flags, "--skip-rewards", "0"), digits)


def test_no_more_scores_are_kept_than_a_module_has(tmp_path):
    digits = rk.data.load_digits()
    rk.ReSetNet((2,), None, 10, (8, 8, 1), width=4, zero_unit=False).save(tmp_path / "reset.keras")
    given = ["--pretrained", str(tmp_path / "reset.keras")]
    for flags, largest in ([], 3), (given, 2):
        for k in (largest, largest + 1):
            settings = config.parse(top_k.TopKConfig, "What it does.", ["--units", "2", "--k", str(k), *flags])
            if k == largest:
                assert [stage.name for stage in top_k.stages(settings, digits)] == ["pretrain", f"top_{k}"]
                continue
            with pytest.raises(ValueError, match=f"--k must be at most {largest}, .*; received {k}"):
                top_k.stages(settings, digits)


@pytest.mark.parametrize(
    ("recipe", "kind", "flags"),
    [
        (efficient, "EfficientConfig", ["--compute-target", "0.1"]),
        (any_budget, "AnyBudgetConfig", ["--compute", "1", "0.1"]),
        (systems, "SystemsConfig", ["--system", "reset", "--strengths", "0.1", "0.7"]),
    ],
)
def test_a_compute_target_out_of_reach_is_refused_before_anything_is_trained(recipe, kind, flags):
    settings = config.parse(getattr(recipe, kind), "What it does.", ["--units", "2", *flags])
    with pytest.raises(ValueError, match=r"`compute_target` must be above 0\.\d+, .*Received: compute_target=0\.1"):
        recipe.stages(settings, rk.data.load_digits())


@pytest.mark.parametrize(
    ("recipe", "kind", "stage"),
    [
        (fixed_routes, "FixedRoutesConfig", "pretrain"),
        (fixed_routes, "FixedRoutesConfig", "fixed_routes"),
        (top_k, "TopKConfig", "pretrain"),
        (top_k, "TopKConfig", "top_1"),
        (relaxation, "RelaxationConfig", "finetune"),
    ],
)
def test_the_limit_to_the_gradient_is_that_of_all_trainings_of_routed_networks(recipe, kind, stage):
    settings = config.parse(getattr(recipe, kind), "What it does.", ["--clip-norm", "0.25"])
    stages = {stage.name: stage for stage in recipe.stages(settings, rk.data.load_digits())}
    assert stages[stage].training.compile_options()["gradient_clip_norm"] == 0.25


def test_only_networks_that_route_are_trained_along_their_routes(tmp_path):
    digits = rk.data.load_digits()
    for network, kind in (
        (rk.ResNet((3,), 10, (8, 8, 1)), "a ResNet"),
        (rk.ReSetNet((2,), None, 10, (8, 8, 1)), "Softmax"),
    ):
        network.save(tmp_path / "network.keras")
        flags = ["--units", "2", "--pretrained", str(tmp_path / "network.keras")]
        settings = config.parse(fixed_routes.FixedRoutesConfig, "What it does.", flags)
        with pytest.raises(ValueError, match=f"Received: .*{kind}"):
            fixed_routes.stages(settings, digits)


@pytest.mark.parametrize(
    ("kind", "flags", "told"),
    [
        (relaxation.RelaxationConfig, ["--validation", "300", "--pretrained", "resnet.keras"], "--validation"),
        (any_budget.AnyBudgetConfig, ["--pretrained", "resnet.keras"], "--calibration"),
        (any_budget.AnyBudgetConfig, ["--validation", "9", "--pretrained", "resnet.keras"], "--validation and --calib"),
        (any_budget.AnyBudgetConfig, ["--validation", "300"], ""),
        (relaxation.RelaxationConfig, ["--pretrained", "resnet.keras"], ""),
    ],
)
def test_a_given_network_that_may_know_the_images_that_are_held_out_is_told_before_the_training(
    monkeypatch, capsys, kind, flags, told
):
    class Pipeline:
        def run(self, _):
            raise NotImplementedError

    monkeypatch.setattr(runner, "_set_up", lambda *_: (Pipeline(), []))
    with pytest.raises(NotImplementedError):
        runner.run(config.parse(kind, "", flags), None)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == bool(told)
    assert not told or f"resnet.keras may have been trained on the images that are held out by {told}" in lines[0]
