import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parent


@pytest.mark.faults
def test_two_replicas_train_as_one():
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}", "KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, str(TESTS / "two_replicas.py"), "softmax", "straight_through"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    differences, noise_differs, moved = done.stdout.strip().splitlines()[-3:]
    weights, logs = map(float, differences.split())
    assert weights < 1e-5
    assert logs < 1e-5
    assert noise_differs == "True"
    assert moved == "[[True, False], [False, False]]"


@pytest.mark.faults
@pytest.mark.slow
def test_three_replicas_take_any_number_of_images(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}", "KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, str(TESTS / "three_replicas.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "taught 1.0"
    assert {"restored (0, False)", "trained 1"} <= set(done.stdout.splitlines())
