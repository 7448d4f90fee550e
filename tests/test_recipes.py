import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import slow_but

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.programs
SHORT = ["--epochs-scale", "0.02"]
FROM_RESNET = [*SHORT, "--units", "2", "--pretrained", "FOLDER/resnet_baseline/stages/00-resnet/model.keras"]
SHRUNK = {
    "resnet_baseline": [*SHORT, "--units", "2"],
    "from_scratch": [*SHORT, "--units", "2", "--scorer", "gumbel_softmax", "--entropy-across", "0.1"],
    "controller_only": FROM_RESNET,
    "batch_replication": FROM_RESNET,
    "top_k": [
        *SHORT,
        "--units",
        "2",
        "--k",
        "1",
        "2",
        "--pretrained",
        "FOLDER/from_scratch/stages/00-train/model.keras",
    ],
    "two_phase": ["--epochs-scale", "0.1", "--phase-steps", "220", "--units", "1", "--rules", "steps"],
    "shortened": [*SHORT, "--architectures", "1-1-5"],
    "pool_size": [*SHORT, "--pools", "3x2"],
    "relaxation": [*SHORT, "--units", "2"],
    "incremental": FROM_RESNET,
    "efficient": [*FROM_RESNET, "--epochs-scale", "0.1", "--compute-target", "0.8", "--teacher"],
    "any_budget": [*FROM_RESNET, "--epochs-scale", "0.1", "--compute", "0.9"],
    "systems": [*FROM_RESNET, "--system", "skipnet", "--strengths", "0.03"],
    "static_control": [*FROM_RESNET, "--compute", "0.9", "--budgets", "FOLDER/any_budget"],
    "one_budget": [*FROM_RESNET, "--compute", "0.9", "--budgets", "FOLDER/any_budget"],
    "fixed_routes": [
        *SHORT,
        "--units",
        "2",
        "--pretrained",
        "FOLDER/efficient/stages/03-efficient/model.keras",
        "--teacher",
        "FOLDER/resnet_baseline/stages/00-resnet/model.keras",
    ],
}
"""Recipes, and the flags that make their quick preset shorter still."""
QUICK = {"resnet_baseline", "relaxation"}
"""Those that each change is tested with: what all others start from, and the paper's pipeline."""
SECOND_PART = {"from_scratch", "top_k", "two_phase", "shortened", "pool_size", "incremental"}
"""Those that take half of the others' time; of them only `incremental`, the last, starts from another's network."""
STAGES = {
    "resnet_baseline": {"resnet": None},
    "from_scratch": {"train": None},
    "controller_only": {
        "pretrain": None,
        "rnn_softmax": "pretrain",
        "cnn_softmax": "pretrain",
        "gumbel_softmax": "rnn_softmax",
        "gumbel_st": "rnn_softmax",
        "gumbel_st_relaxed": "gumbel_softmax",
    },
    "batch_replication": {
        "pretrain": None,
        "gumbel_softmax": "pretrain",
        "single": "gumbel_softmax",
        "replicated": "gumbel_softmax",
    },
    "top_k": {"pretrain": None, "top_1": "pretrain", "top_2": "pretrain"},
    "two_phase": {"new": None, "steps": "new"},
    "incremental": {
        "pretrain": None,
        "convert": "pretrain",
        "last_0": "convert",
        "last_1": "last_0",
        "at_once": "convert",
    },
    "shortened": {"resnet_1-1-5": None, "reset_1-1-5": None},
    "pool_size": {"resnet": None, "reset_3x2": None},
    "relaxation": {
        "pretrain": None,
        "convert": "pretrain",
        "gumbel_softmax": "convert",
        "gumbel_st": "gumbel_softmax",
        "hybrid_0.1": "gumbel_st",
        "finetune": "hybrid_0.1",
    },
    "efficient": {
        "pretrain": None,
        "sequential": "pretrain",
        "pruned": "sequential",
        "efficient": "pruned",
        "settled": "efficient",
    },
    "any_budget": {
        "pretrain": None,
        "any_budget": "pretrain",
        "halting": "any_budget",
        "halting_0.9": "halting",
        "static": "any_budget",
        "static_0.9": "static",
    },
    "systems": {
        "pretrain": None,
        "skipnet_first": "pretrain",
        "skipnet_0.03": "skipnet_first",
        "skipnet_0.03_settled": "skipnet_0.03",
    },
    "static_control": {"pretrain": None, "static_control_0.9": "pretrain"},
    "one_budget": {"pretrain": None, "one_budget_0.9": "pretrain", "halting_0.9": "one_budget_0.9"},
    "fixed_routes": {"teacher": None, "pretrain": None, "fixed_routes": "pretrain"},
}
"""Their stages, and what each starts from."""
RUN_ELSEWHERE = {"tune"}
"""Recipes that other tests run, here `test_tune.py`."""
NO_RECIPE = {"compare", "figures", "reproduce", "route_controls"}
"""Commands that train nothing themselves."""


def results(workdir):
    return [json.loads(path.read_text()) for path in sorted(workdir.glob("stages/*/result.json"))]


def test_every_recipe_is_here():
    recipes = {path.stem for path in (ROOT / "recipes").glob("*.py")} - NO_RECIPE
    assert recipes == {*RUN_ELSEWHERE, *SHRUNK}
    assert set(STAGES) == set(SHRUNK)


@pytest.fixture(scope="module")
def quick_recipes(tmp_path_factory):
    """The folder of their work directories, and what they print."""
    folder = tmp_path_factory.mktemp("recipes")
    return folder, run(folder, *({name} for name in QUICK))


@pytest.fixture(scope="module")
def all_recipes(quick_recipes):
    """The same of all recipes. Two processes run the others, as TensorFlow's start takes seconds."""
    folder, output = quick_recipes
    return folder, output + run(folder, SHRUNK.keys() - QUICK - SECOND_PART, SECOND_PART)


def run(folder, *parts):
    """What recipes print; each part is run by a process."""
    command = [sys.executable, str(ROOT / "tests" / "run_recipes.py"), str(folder)]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "COLUMNS": "120", "PYTHONPATH": str(ROOT)}
    processes = {}
    for names in parts:
        part = f"{min(names)}_output"
        commands = json.dumps({name: flags for name, flags in SHRUNK.items() if name in names})
        with (folder / part).open("w") as output, (folder / f"{part}_errors").open("w") as errors:
            options = {"stdout": output, "stderr": errors, "env": environment}
            processes[part] = subprocess.Popen([*command, commands.replace("FOLDER", str(folder))], **options)
    for part, process in processes.items():
        assert process.wait() == 0, (folder / f"{part}_errors").read_text()
    return "".join((folder / part).read_text() for part in processes)


def printed_by(recipe, output):
    return output.partition(f"=== {recipe}\n")[2].partition("===")[0]


@pytest.mark.parametrize("recipe", slow_but(QUICK, STAGES))
def test_each_recipe_from_start_to_end(request, recipe):
    folder, output = request.getfixturevalue("quick_recipes" if recipe in QUICK else "all_recipes")
    output = printed_by(recipe, output)
    rows = results(folder / recipe)
    assert {row["stage"]: row["start"] for row in rows} == STAGES[recipe], output
    assert all(f" {row['stage']} " in output for row in rows)
    assert (folder / recipe / "report.html").exists()


def weights_of(folder, stage):
    (path,) = folder.glob(f"stages/*-{stage}/model.keras")
    return keras.models.load_model(path)


@pytest.mark.slow
def test_stages_of_a_recipe_start_from_the_same_network(all_recipes):
    folder = all_recipes[0] / "controller_only"
    resnet = weights_of(folder, "pretrain")
    for stage in ("rnn_softmax", "cnn_softmax", "gumbel_st_relaxed"):
        reset = weights_of(folder, stage)
        pool = reset.routed_modules[0].pool
        for index in range(2):
            kernel = resnet.get_layer(f"stage0_block{index + 1}").conv1.kernel
            width = kernel.shape[-1]
            np.testing.assert_array_equal(pool.kernel1[..., index * width : (index + 1) * width], kernel)


def test_the_relaxation_from_start_to_end(quick_recipes):
    workdir = quick_recipes[0] / "relaxation"
    rows = results(workdir)
    assert [row["paper_steps"] for row in rows] == ["0", "1-2", "3-4", "5-6", "7-8", "9"]
    assert f"{100 * rows[-1]['accuracy']['test']:.2f}" in printed_by("relaxation", quick_recipes[1])
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines if line["event"] == "stage"] == [row["stage"] for row in rows]
    assert {"task_loss", "entropy_across", "entropy_within", "skip_reward", "skip_fraction", "l2"} < set(lines[-2])
    assert (workdir / "report.html").stat().st_size > 10_000
    assert list(workdir.glob("tensorboard/05-finetune/train/events.*"))
    assert json.loads((workdir / "config.json").read_text())["units"] == [2]


def test_networks_load_and_are_what_the_table_says(quick_recipes):
    workdir = quick_recipes[0] / "relaxation"
    digits = rk.data.load_digits()
    images = digits.normalize(digits.test.images)
    for row in results(workdir):
        (folder,) = workdir.glob(f"stages/*-{row['stage']}")
        model = keras.models.load_model(folder / "model.keras")
        outputs = model.predict(images, verbose=0)
        assert np.mean(outputs.argmax(axis=-1) == digits.test.labels) == pytest.approx(row["accuracy"]["test"])
        if row["stage"] in {"gumbel_st", "hybrid_0.1", "finetune"}:
            for routes in model.predict_routes(images, verbose=0):
                assert set(np.unique(routes["scores"])) <= {0.0, 1.0}


def test_only_controllers_change_while_the_rest_is_frozen(quick_recipes):
    convert, hybrid = (weights_of(quick_recipes[0] / "relaxation", stage) for stage in ("convert", "hybrid_0.1"))
    changed = set()
    for before, after in zip(convert.weights, hybrid.weights, strict=True):
        if not np.array_equal(before, after):
            changed.add("/".join(after.path.split("/")[1:3]))
    assert changed == {"controller/cell", "controller/dense", "scorer/temperature"}


def test_each_training_of_a_routed_network_leaves_its_history(quick_recipes):
    workdir = quick_recipes[0] / "relaxation"
    histories = {path.parent.name for path in workdir.glob("stages/*/route_history.npz")}
    assert histories == {"02-gumbel_softmax", "03-gumbel_st", "04-hybrid_0.1", "05-finetune"}
    digits = rk.data.load_digits()
    chosen = np.linspace(0, len(digits.train) - 1, 512).astype(int)  # from all of the set, which may be sorted
    probe = digits.normalize(digits.train.images[chosen])
    for name in histories:
        folder = workdir / "stages" / name
        routes = keras.models.load_model(folder / "model.keras").predict_routes(probe, verbose=0)
        with np.load(folder / "route_history.npz") as history:
            assert history["steps"][0] == 0
            assert history["steps"][-1] == history["steps"].max() > 0
            for index, route in enumerate(routes):
                np.testing.assert_allclose(history[f"module_{index}"][-1], route["scores"].mean(axis=0), atol=1e-4)


@pytest.mark.slow
def test_top_k_runs_as_many_units_as_it_says(all_recipes):
    digits = rk.data.load_digits()
    for k in (1, 2):
        model = weights_of(all_recipes[0] / "top_k", f"top_{k}")
        (routes,) = model.predict_routes(digits.normalize(digits.test.images), verbose=0)
        assert set(np.count_nonzero(routes["scores"], axis=-1).ravel()) == {k}


@pytest.mark.slow
def test_a_network_for_every_budget_costs_what_is_requested_and_has_a_static_control(all_recipes):
    rows = {row["stage"]: row for row in results(all_recipes[0] / "any_budget")}
    assert rows["any_budget"]["compute_fraction"] > 0.99
    for kind in ("halting", "static"):
        assert rows[f"{kind}_0.9"]["compute_fraction"] < 0.95  # of the images that it was chosen by at most 0.9
        assert set(rows[kind]["accuracy"]) == {"test", "calibration"}
    static = weights_of(all_recipes[0] / "any_budget", "static_0.9")
    control = weights_of(all_recipes[0] / "static_control", "static_control_0.9")
    depths = [int(module.controller.depth.value) for module in static.routed_modules]
    assert list(control.units) == depths
    (row,) = (row for row in results(all_recipes[0] / "static_control") if row["start"])
    resnet = weights_of(all_recipes[0] / "static_control", "pretrain")
    shorter = rk.models.static_twin(control)
    expected = rk.inference.macs(shorter) / rk.inference.macs(resnet)
    assert row["compute_fraction"] == pytest.approx(expected, rel=0.01)  # its heads count


@pytest.mark.slow
def test_a_network_of_one_budget_has_the_blocks_of_every_budget_and_costs_what_is_requested(all_recipes):
    halting = weights_of(all_recipes[0] / "any_budget", "halting_0.9")
    trained = weights_of(all_recipes[0] / "one_budget", "one_budget_0.9")
    assert list(trained.units) == [int(module.controller.depth.value) for module in halting.routed_modules]
    assert [module.controller.shares for module in trained.routed_modules] == [(1.0, 1.0)]
    lines = [json.loads(line) for line in (all_recipes[0] / "one_budget" / "metrics.jsonl").open()]
    of_exits = [line["early_exits_loss"] for line in lines if line["event"] == "epoch" and "early_exits_loss" in line]
    assert of_exits
    assert min(of_exits) > 0
    (row,) = (row for row in results(all_recipes[0] / "one_budget") if row["stage"] == "halting_0.9")
    assert row["compute_fraction"] < 0.95  # of ResNet-38's, on the images that it was chosen by at most 0.9


@pytest.mark.slow
def test_the_efficient_network_starts_as_the_resnet_and_costs_what_is_requested(all_recipes):
    rows = {row["stage"]: row for row in results(all_recipes[0] / "efficient")}
    assert rows["sequential"]["accuracy"] == rows["pretrain"]["accuracy"]
    assert rows["sequential"]["sequential_choice"] == 1.0
    for stage in ("pruned", "efficient", "settled"):
        assert rows[stage]["compute_fraction"] == pytest.approx(0.8, abs=0.02)


@pytest.mark.slow
def test_along_fixed_routes_neither_controllers_nor_statistics_of_pools_change(all_recipes):
    before, after = (weights_of(all_recipes[0] / "fixed_routes", stage) for stage in ("pretrain", "fixed_routes"))
    changed = set()
    for old, new in zip(before.routed_modules[0].weights, after.routed_modules[0].weights, strict=True):
        if "scorer" not in new.path and not np.array_equal(old, new):
            changed.add(new.path.split("/", 1)[1])
    affine = {f"pool/norm{index}/{name}_0" for index in (1, 2) for name in ("gamma", "beta")}
    assert changed == {"pool/kernel1", "pool/kernel2"} | affine


@pytest.mark.slow
def test_the_units_learn_from_the_teacher_of_the_command(all_recipes):
    lines = [json.loads(line) for line in (all_recipes[0] / "fixed_routes" / "metrics.jsonl").open()]
    (divergence, *_) = [line["distillation_loss"] for line in lines if line["event"] == "epoch"]
    assert divergence > 0
    teacher, resnet = (
        weights_of(all_recipes[0] / "fixed_routes", "teacher"),
        weights_of(all_recipes[0] / "resnet_baseline", "resnet"),
    )
    for ours, given in zip(teacher.weights, resnet.weights, strict=True):
        np.testing.assert_array_equal(ours, given)


@pytest.mark.slow
def test_two_phases_take_turns(all_recipes):
    lines = [json.loads(line) for line in (all_recipes[0] / "two_phase" / "metrics.jsonl").open()]
    turns = [line["trains_controllers"] for line in lines if line["event"] == "epoch" and line["stage"] == "steps"]
    assert set(turns) == {0.0, 1.0}
