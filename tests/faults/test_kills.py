"""A run that is killed again and again ends with the bits of one that nobody disturbed."""

import json
import random
import signal
import time

import keras
import numpy as np
import pytest

from recipe import STAGE, checkpoints, finish, start, wait_for

EPOCHS = 40
FLAGS = ("--train-steps", 22 * EPOCHS)


def history(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "epoch"]


def assert_equal_runs(workdir, undisturbed):
    expected, found = (keras.models.load_model(path / STAGE / "model.keras") for path in (undisturbed, workdir))
    for ours, theirs in zip(expected.weights, found.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)
    for name in ("route_history.npz", "routes.npz", "predictions.npz"):
        with np.load(undisturbed / STAGE / name) as ours, np.load(workdir / STAGE / name) as theirs:
            assert ours.files == theirs.files
            for array in ours.files:
                np.testing.assert_array_equal(ours[array], theirs[array], err_msg=array)
    assert history(workdir) == history(undisturbed)
    assert [line["epoch"] for line in history(workdir)] == list(range(EPOCHS))


def kill_while_writing(workdir, process):
    """Waits for a new checkpoint's unfinished file and kills the process while it is there."""
    partial = workdir / STAGE
    wait_for(lambda: any(partial.glob(".epoch-*.partial.npz")), process)
    process.send_signal(signal.SIGKILL)


def kill_some_time_after_a_checkpoint(workdir, process, rng):
    before = checkpoints(workdir)
    wait_for(lambda: checkpoints(workdir)[-1:] > before[-1:], process)
    time.sleep(rng.uniform(0.0, 1.0))
    process.send_signal(signal.SIGKILL)


@pytest.mark.faults
@pytest.mark.slow
def test_killed_at_twenty_moments_it_ends_with_the_same_bits(tmp_path):
    undisturbed, workdir = tmp_path / "undisturbed", tmp_path / "killed"
    code, _, errors = finish(start(undisturbed, *FLAGS))
    assert code == 0, errors
    rng = random.Random(7)
    cut_off = 0
    for kill in range(20):
        process = start(workdir, *FLAGS)
        if kill % 4 == 0:
            time.sleep(rng.uniform(0.0, 8.0))  # while it starts, too
            process.send_signal(signal.SIGKILL)
        elif kill % 4 == 1:
            kill_while_writing(workdir, process)
        else:
            kill_some_time_after_a_checkpoint(workdir, process, rng)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, f"it ended before kill {kill}"
        cut_off += any((workdir / STAGE).glob(".epoch-*.partial.npz"))
    code, output, errors = finish(start(workdir, *FLAGS))
    assert code == 0, errors
    assert "Going on with train after epoch" in output
    assert cut_off >= 1
    assert_equal_runs(workdir, undisturbed)
    assert [path.name for path in workdir.rglob(".*")] == [".lock"]
