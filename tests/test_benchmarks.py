"""What the benchmarks stand on; they are not run here, as a test must not depend on the time."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import reset_keras as rk
from frozen import expected_of
from networks import images_and_labels, randomize
from numpy_reference import conv3x3, relu

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="measured on TensorFlow")

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


def test_benchmarks_measure_the_clone_that_they_lie_in(tmp_path):
    (tmp_path / "reset_keras.py").touch()  # as if another one were installed
    code = "import importlib.util, clone; print(importlib.util.find_spec('reset_keras').origin)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, cwd=BENCHMARKS).stdout
    assert found.strip() == str(BENCHMARKS.parent / "reset_keras" / "__init__.py")


@pytest.mark.parametrize("script", [path for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text()])
def test_a_benchmark_looks_for_its_clone_before_it_imports_the_library(script):
    imports = [line.split()[1] for line in script.read_text().splitlines() if line.startswith(("import ", "from "))]
    of_clone = [index for index, name in enumerate(imports) if name == "clone"]
    if script.stem == "step_worker":  # which `steps.py` gives the clone that it measures
        assert not of_clone
    else:
        assert not any(name.startswith("reset_keras") for name in imports[: of_clone[0]])


def test_prescribed_routes_skip_as_often_as_they_should():
    from prescribed_controller import PrescribedController
    from timed_networks import as_trained, noise

    model = rk.ReSetNet((3,), scorer="gumbel_st", controller=PrescribedController(4, 3, (1, 2)), width=4)
    (route,) = as_trained(model)(noise(64), training=False, return_routes=True).routes
    choices = np.array(route["scores"]).argmax(axis=-1)
    np.testing.assert_array_equal((choices == 3).sum(axis=1), [1, 2] * 32)
    assert set(choices.ravel()) == {0, 1, 2, 3}


def test_a_ratio_is_that_of_the_turns():
    from rows import Row, ratio

    times = {"ours": np.array([2.0, 6.0, 30.0]), "baseline": np.array([1.0, 2.0, 10.0])}
    row = ratio(Row("a", "any", 2.5), times, "ours", "baseline")
    assert row.value == 3.0
    assert row.spread == (2.5, 3.0)
    assert row.met is False
    assert ratio(Row("a", "any", 2.5, at_least=True), times, "ours", "baseline").met is True
    other = ratio(Row("a", "GPU" if rk.distribution.has_gpu() is False else "CPU", 2.5), times, "ours", "baseline")
    assert (other.value, other.met) == (None, None)


def test_the_table_shows_targets_met_missed_and_open(tmp_path, monkeypatch, capsys):
    import measurements
    import speed
    from rows import Row

    rows = [
        Row("first", "any", 1.05, value=1.04, spread=(1.0, 1.1)),
        Row("second", "any", 0.9, at_least=True, value=0.5, spread=(0.4, 0.6)),
        Row("third", "GPU", 25, unit="s"),
        Row("fourth", "an abacus", 1.05, value=1.04, spread=(1.0, 1.1)),
    ]
    monkeypatch.setitem(measurements.GROUPS, "import", lambda rounds: rows[:rounds])
    monkeypatch.setattr(sys, "argv", ["speed.py", "--only", "import", "--rounds", "4", "--output", str(tmp_path)])
    speed.main()
    table = (tmp_path / "speed.md").read_text()
    lines = {line.split("|")[1].strip(): line for line in table.splitlines() if line.count("|") > 5}
    assert "met" in lines["first"]
    assert "1.04x" in lines["first"]
    assert "missed" in lines["second"]
    assert ">= 0.9x" in lines["second"]
    assert "open" in lines["third"]
    assert table in capsys.readouterr().out
    written = json.loads((tmp_path / "speed.json").read_text())
    assert "for another device" in lines["fourth"]
    assert [row["met"] for row in written["rows"]] == [True, False, None, None]


def test_a_killed_run_keeps_what_it_measured(tmp_path, monkeypatch, capsys):
    import measurements
    import speed
    from rows import Row

    def killed(rounds):
        raise KeyboardInterrupt

    monkeypatch.setitem(measurements.GROUPS, "input", lambda rounds: [Row("first", "any", 1.0, value=0.5)])
    monkeypatch.setitem(measurements.GROUPS, "import", killed)
    monkeypatch.setattr(sys, "argv", ["speed.py", "--only", "input", "import", "--output", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        speed.main()
    assert [row["value"] for row in json.loads((tmp_path / "speed.json").read_text())["rows"]] == [0.5]
    assert "| first" in (tmp_path / "speed.md").read_text()
    monkeypatch.setitem(measurements.GROUPS, "import", lambda rounds: [Row("second", "any", 1.0)])
    capsys.readouterr()
    speed.main()
    assert capsys.readouterr().out.count("| first ") == 1
    assert len(json.loads((tmp_path / "speed.json").read_text())["rows"]) == 2


def test_a_group_that_fails_is_left_out_and_the_others_are_measured(tmp_path, monkeypatch, capsys):
    import measurements
    import speed
    from rows import Row

    monkeypatch.setitem(measurements.GROUPS, "input", lambda rounds: 1 / 0)
    monkeypatch.setitem(measurements.GROUPS, "import", lambda rounds: [Row("second", "any", 1.0, value=0.5)])
    monkeypatch.setattr(sys, "argv", ["speed.py", "--only", "input", "import", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="not measured, as they failed: input"):
        speed.main()
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert [row["what"] for row in json.loads((tmp_path / "speed.json").read_text())["rows"]] == ["second"]


def test_what_has_no_target_on_this_device_is_not_made(monkeypatch):
    import measurements

    monkeypatch.setattr(measurements, "HERE", "GPU")
    monkeypatch.setattr(measurements, "freeze", lambda *_, **__: pytest.fail("a network was made"))
    assert [(row.where, row.value) for row in measurements.inference_1(3)] == [("CPU", None)] * 5


def test_without_pytorch_its_rows_stay_open(monkeypatch, capsys):
    import measurements
    from rows import Row

    monkeypatch.setattr(measurements, "HERE", ("any", "CPU"))
    monkeypatch.setattr(measurements.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(measurements, "freeze", lambda *_, **__: pytest.fail("a network was made"))
    (row,) = measurements.inference(1, {"pytorch": [Row("over PyTorch", "CPU", 1.0)]}, 3)
    assert row.value is None
    assert "PyTorch is not installed" in capsys.readouterr().out


def test_a_part_of_the_groups_does_not_replace_the_table_of_all(tmp_path, monkeypatch):
    import measurements
    import speed
    from rows import Row

    monkeypatch.setitem(measurements.GROUPS, "import", lambda rounds: [Row("first", "any", 1.0, value=0.5)])
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["speed.py", "--only", "import"])
    speed.main()
    assert [folder.name for folder in (tmp_path / "results").iterdir()] == ["speed-import"]


def test_a_turn_of_several_batches_is_waited_for():
    from onnx_measurements import run_all

    given = []
    assert run_all(lambda batch: given.append(batch) or len(given), np.arange(3)) == 3
    assert given == [0, 1, 2]


def test_litert_files_stay_open_where_nothing_runs_them(monkeypatch, capsys):
    import measurements

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "ai_edge_litert" else find_spec(name, *rest)
    )
    rows = measurements.litert(1)
    assert [row.met for row in rows] == [None] * 8
    assert "pip install '.[benchmarks]'" in capsys.readouterr().out


@pytest.mark.slow
def test_what_a_tile_is_measured_with_are_the_routes_that_it_is_given():
    pytest.importorskip("jax")
    import tiles

    images, choices, weights = tiles.arguments(4, 16, 6, "float32")
    expected = np.asarray(images, "float64")
    for choice in np.asarray(choices):
        for image, unit in enumerate(choice):
            if unit < tiles.NUM_UNITS:
                kernel1, bias1, kernel2, bias2 = (np.asarray(part[unit], "float64") for part in weights)
                hidden = relu(conv3x3(expected[image][None], kernel1) + bias1)
                expected[image] += (conv3x3(hidden, kernel2) + bias2)[0]
        expected = relu(expected)
    assert set(np.asarray(choices).ravel()) == set(range(tiles.NUM_UNITS + 1))
    tile, *_ = tiles.candidates(4, 16)
    outputs = tiles.routed_iterations(tile, interpret=True)(images, choices, weights)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_the_fastest_tile_comes_first():
    import tiles

    ratios = {"a": np.array([1.0, 9.0, 1.1]), "b": np.array([0.9, 0.8, 7.0]), "c": np.array([0.1, 2.0, 3.0])}
    assert tiles.fastest(ratios) == ["b", "a", "c"]


def test_precisions_are_compared_seed_by_seed():
    from precision import line

    assert line("a", [90.0, 92.0, 94.0], [91.0, 92.0, 93.5]) == "| a | 3 | 92.00 | 92.17 | +0.17 | 0.44 |"
    assert line("a", [90.0], [89.5]) == "| a | 1 | 90.00 | 89.50 | -0.50 | - |"


def test_rules_for_halting_are_compared_on_a_file_that_is_whole(tmp_path, monkeypatch, capsys):
    import halting_rules

    (tmp_path / "model.keras").write_bytes(b"PK")
    for name, message in (
        ("model.keras", "model.keras is damaged or incomplete"),
        ("nix.keras", "nix.keras, nor a trained network of that name"),
    ):
        monkeypatch.setattr(sys, "argv", ["halting_rules.py", str(tmp_path / name), "--dataset", "digits"])
        with pytest.raises(SystemExit) as stopped:
            halting_rules.main()
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def every_budget():
    """A network for every budget, images, what it says of them, and all that rules look at.

    Tests set the depths of its modules and the threshold of the last one, on which none of this depends.
    """
    from halting_rules import Halting

    resnet = randomize(rk.ResNet((3, 3, 3), 4, (8, 8, 1), width=4))
    images, _ = images_and_labels(64)
    classifier = resnet.layers[-1]
    classifier.bias.assign_sub(expected_of(resnet, images).mean(axis=0))  # or one class is all that is said
    model = rk.resnet_to_reset(resnet, rk.HaltingController(1, 4), rk.HardScorer(sampled=False))
    last = model.routed_modules[-1].controller
    last.head_kernel.assign(classifier.kernel)
    last.head_bias.assign(classifier.bias)
    labels = expected_of(model, images).argmax(axis=-1)
    return model, images, labels, Halting(model, images, labels)


@pytest.mark.slow
def test_rules_that_learn_also_have_what_the_rule_without_them_has(every_budget):
    from halting_rules import HALVES, first_halt, never, sure

    model, images, _, halting = every_budget
    inner = keras.Model(model.input, model.routed_modules[1].output[0])
    for depths in ((0, 2), (2, 1)):
        for module, depth in zip(model.routed_modules, depths, strict=False):
            module.controller.depth.assign(depth)
        pooled = expected_of(inner, images).mean(axis=(1, 2))
        np.testing.assert_allclose(halting.features[:, *depths], pooled, rtol=1e-4, atol=1e-5)

    def means(candidates):
        return {(round(cost.mean(), 9), right.mean()) for cost, right in candidates}

    earlier = means(halting.earlier_head(HALVES[0]))
    assert means(halting.by_rule(sure)) < earlier
    with threadpool_limits(1):  # trees on so few images: threads would only wait for one another
        assert means(halting.by_rule(never)) <= means(halting.learned(HALVES[1]))
    assert any(cost.std() > 0 for cost, _ in halting.second_look())  # of modules of two units as well
    halts = np.array([[False, True, True], [False, False, False], [True, False, True]])
    assert [np.minimum(first_halt(halts), most).tolist() for most in (0, 1, 2)] == [[0, 0, 0], [1, 1, 0], [1, 2, 0]]


def test_a_rule_for_halting_costs_and_gets_right_what_the_network_with_it_does(every_budget):
    from halting_rules import accuracies, sure

    model, images, labels, halting = every_budget
    middle = float(np.median(sure(halting.probabilities[:, 1, 2])[:, 0]))  # half of the images run no unit
    depths, _ = halting.stops((1, 2), sure, middle)
    model.routed_modules[-1].controller.threshold.assign(middle)
    for most in range(3):
        for module, depth in zip(model.routed_modules, (1, 2, most), strict=True):
            module.controller.depth.assign(depth)
        predicted = keras.tree.map_structure(np.array, model(images, training=False, return_routes=True))
        ran = (predicted.routes[-1]["scores"].argmax(axis=-1) < 2).sum(axis=1)
        np.testing.assert_array_equal(depths[most], ran)
        right = predicted.outputs.argmax(axis=-1) == labels
        np.testing.assert_array_equal(halting.right[np.arange(64), 1, 2, depths[most]], right)
        cost = halting.least + halting.units[0] + 2 * halting.units[1] + ran.mean() * halting.units[2]
        expected = rk.inference.compute_fractions(model, predicted.routes).mean()
        assert cost == pytest.approx(expected, rel=1e-5)
    assert 0 < (ran == 0).sum() < 64
    costly, cheap = (np.full(8, 0.5), np.arange(8) < 6), (np.full(8, 0.32), np.arange(8) % 4 == 0)
    at = dict(zip((0.3, 0.35, 0.4, 0.5), accuracies(iter([costly, cheap])), strict=False))
    assert at == {0.3: None, 0.35: (pytest.approx(0.32), 0.25), 0.4: at[0.35], 0.5: (pytest.approx(0.5), 0.75)}


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("skipnet", [0.75, 0.75]),
        pytest.param("blockdrop", [0.75, 0.75], marks=pytest.mark.slow),
        ("act", [1.0, 0.75, 0.5]),
        pytest.param("sact", [1.0, 0.5], marks=pytest.mark.slow),
        ("reset", [0.75]),  # one bias for all iterations
    ],
)
def test_each_unit_runs_for_as_many_images_as_random_decisions_should_let_through(system, expected):
    from random_decisions import decide_at_random
    from systems_speed import network_of

    images, _ = images_and_labels(16)
    network = network_of(system, rk.ResNet((4,) if system == "act" else (3,), 4, (8, 8, 1), width=4), 0.7)
    decide_at_random(network, images, 0.75)
    (route,) = network.predict_routes(images, verbose=0)
    runs = (1.0 - route["scores"][..., -1]) * route.get("active", 1.0)
    if system == "reset":
        runs = runs.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(runs.mean(axis=0), expected, atol=0.02)
    assert len(np.unique(runs, axis=0)) > 1
