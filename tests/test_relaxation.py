"""The relaxation as its user runs it: from start to end, killed, resumed, and from a network that is given."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import reset_keras as rk

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.programs


def start(*flags):
    command = [sys.executable, str(ROOT / "recipes" / "relaxation.py"), "--epochs-scale", "0.02", "--units", "2"]
    command += map(str, flags)
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "COLUMNS": "120", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process):
    output, errors = process.communicate(timeout=500)
    return process.returncode, output, errors


def results(workdir):
    rows = [json.loads(path.read_text()) for path in sorted(workdir.glob("stages/*/result.json"))]
    measured = ("relative_time", "relative_time_of_one", "seconds")
    return [{name: value for name, value in row.items() if name not in measured} for row in rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    return workdir, *finish(start("--workdir", workdir))


def test_the_relaxation_from_start_to_end(undisturbed):
    workdir, code, output, errors = undisturbed
    assert code == 0, errors
    rows = results(workdir)
    assert [row["paper_steps"] for row in rows] == ["0", "1-2", "3-4", "5-6", "7-8", "9"]
    assert all(f" {row['stage']} " in output for row in rows)
    assert f"{100 * rows[-1]['accuracy']['test']:.2f}" in output
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines if line["event"] == "stage"] == [row["stage"] for row in rows]
    assert {"task_loss", "entropy_across", "entropy_within", "skip_reward", "skip_fraction", "l2"} < set(lines[-2])
    assert [row["start"] for row in rows] == [None, *(row["stage"] for row in rows[:-1])]
    assert (workdir / "report.html").stat().st_size > 10_000
    assert list(workdir.glob("tensorboard/05-finetune/train/events.*"))
    assert json.loads((workdir / "config.json").read_text())["units"] == [2]


def test_its_networks_load_and_are_what_the_table_says(undisturbed):
    workdir = undisturbed[0]
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


def test_only_controllers_change_while_the_rest_is_frozen(undisturbed):
    convert, hybrid = (
        keras.models.load_model(next(undisturbed[0].glob(f"stages/*-{stage}/model.keras")))
        for stage in ("convert", "hybrid_0.1")
    )
    changed = set()
    for before, after in zip(convert.weights, hybrid.weights, strict=True):
        if not np.array_equal(before, after):
            changed.add("/".join(after.path.split("/")[1:3]))
    assert changed == {"controller/cell", "controller/dense", "scorer/temperature"}


@pytest.mark.faults
@pytest.mark.slow
def test_killed_and_started_again_it_ends_the_same(undisturbed, tmp_path):
    workdir = tmp_path / "run"
    process = start("--workdir", workdir)
    wait_for(workdir / "stages" / "03-gumbel_st" / "epoch-0001.npz", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stderr.close()
    code, output, errors = finish(start("--workdir", workdir))
    assert code == 0, errors
    assert output.count("(done before)") in {3, 4}
    assert results(workdir) == results(undisturbed[0])
    epochs = [
        [line for line in map(json.loads, (path / "metrics.jsonl").open()) if line["event"] == "epoch"]
        for path in (workdir, undisturbed[0])
    ]
    assert epochs[0] == epochs[1]
    for path in undisturbed[0].glob("stages/*/route_history.npz"):
        with np.load(path) as expected, np.load(workdir / path.relative_to(undisturbed[0])) as history:
            assert history.files == expected.files
            assert all(np.array_equal(history[name], expected[name]) for name in expected.files)


def test_each_training_of_a_routed_network_leaves_its_history(undisturbed):
    histories = {path.parent.name for path in undisturbed[0].glob("stages/*/route_history.npz")}
    assert histories == {"02-gumbel_softmax", "03-gumbel_st", "04-hybrid_0.1", "05-finetune"}
    digits = rk.data.load_digits()
    probe = digits.normalize(digits.train.images[:512])
    for name in histories:
        folder = undisturbed[0] / "stages" / name
        routes = keras.models.load_model(folder / "model.keras").predict_routes(probe, verbose=0)
        with np.load(folder / "route_history.npz") as history:
            assert history["steps"][0] == 0
            assert history["steps"][-1] == history["steps"].max() > 0
            for index, route in enumerate(routes):
                np.testing.assert_allclose(history[f"module_{index}"][-1], route["scores"].mean(axis=0), atol=1e-4)


def wait_for(path, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.faults
@pytest.mark.slow
def test_a_finished_run_is_not_run_again_and_another_config_is_refused(undisturbed):
    workdir = undisturbed[0]
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("stages/*/*")}
    code, output, _ = finish(start("--workdir", workdir))
    assert code == 0
    assert output.count("(done before)") == 6
    assert {path: path.stat().st_mtime_ns for path in workdir.glob("stages/*/*")} == before
    code, _, errors = finish(start("--workdir", workdir, "--seed", 5))
    assert code == 2
    assert errors.strip().splitlines()[-1].startswith("relaxation.py: error: the work directory")
    assert "seed was 0, is 5" in errors
