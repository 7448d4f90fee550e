"""The relaxation of a ReSet, and the recipe killed and started again; `test_recipes.py` runs it from start to end."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import relaxation
import reset_keras as rk
from experiment import config

ROOT = pathlib.Path(__file__).parents[1]


def start(*flags):
    command = [sys.executable, str(ROOT / "recipes" / "relaxation.py"), "--epochs-scale", "0.02", "--units", "2"]
    command += map(str, flags)
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "COLUMNS": "120", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process):
    output, errors = process.communicate(timeout=500)
    return process.returncode, output, errors


def test_a_reset_may_be_relaxed_too():
    flags = ["--units", "1", "--start", "reset", "--skip-estimator", "straight_through"]
    settings = config.parse(relaxation.RelaxationConfig, "", flags)
    model, scorers = None, []
    for stage in relaxation.stages(settings, rk.data.load_digits()):
        model = stage.prepare(model)
        if stage.training is not None:
            model.compile(**stage.training.compile_options())
        scorers.append(type(model.routed_modules[0].scorer))
    assert scorers == [rk.SoftmaxScorer] * 2 + [rk.GumbelSoftmaxScorer] + [rk.GumbelSTScorer] * 3
    assert model.skip_reward.estimator == "straight_through"


def results(workdir):
    rows = [json.loads(path.read_text()) for path in sorted(workdir.glob("stages/*/result.json"))]
    measured = ("relative_time", "relative_time_of_one", "seconds")
    return [{name: value for name, value in row.items() if name not in measured} for row in rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    return workdir, *finish(start("--workdir", workdir))


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
