"""Two and four replicas train as one does: weights, logs, checkpoints."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

TESTS = pathlib.Path(__file__).parents[1]
SCORERS = ("softmax", "gumbel_softmax", "gumbel_st", "top_k", "hard")
pytestmark = [pytest.mark.faults, pytest.mark.slow]


def run(folder, replicas, *words):
    path = f"{TESTS}:{TESTS.parent}"
    environment = {**os.environ, "PYTHONPATH": path, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(TESTS / "faults" / "replicas.py"), str(folder), str(replicas), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(folder / f"{words[0]}-{replicas}.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def trained(folder):
    return {count: run(folder, count, "train", *SCORERS) for count in (1, 2, 4)}


def of(arrays, prefix):
    return {name: array for name, array in arrays.items() if name.startswith(prefix)}


@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("scorer", SCORERS)
def test_weights_and_logs_are_those_of_one_replica(trained, scorer, replicas):
    weights = of(trained[1], f"{scorer}/weight/")
    assert len(weights) > 30
    for name, expected in weights.items():
        np.testing.assert_allclose(trained[replicas][name], expected, atol=1e-5, err_msg=name)
    logs = of(trained[1], f"{scorer}/log/")
    assert {"accuracy", "loss", "task_loss", "gradient_norm_controllers"} <= {name.split("/")[-1] for name in logs}
    for name, expected in logs.items():
        np.testing.assert_allclose(trained[replicas][name], expected, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("scorer", SCORERS)
def test_training_moved_every_kernel(trained, scorer):
    for name, weight in of(trained[1], f"{scorer}/weight/").items():
        if weight.ndim > 1:
            before = trained[1][name.replace(scorer, f"{scorer}/before", 1)]
            assert np.abs(weight - before).max() > 1e-4, name


def test_training_moved_the_price(trained):
    assert trained[1]["softmax/log/skip_price"] != pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("replicas", [2, 4])
def test_each_replica_draws_noise_of_its_own(trained, replicas):
    assert trained[replicas]["noise_differs"]


@pytest.mark.parametrize("replicas", [2, 4])
def test_an_embedding_trains_as_on_one_replica_and_replicas_may_be_without_an_image(trained, replicas):
    for name, weight in of(trained[1], "words/weight/").items():
        np.testing.assert_allclose(trained[replicas][name], weight, atol=1e-5, err_msg=name)
    for name, value in of(trained[replicas], "words/log/").items():
        assert np.isfinite(value), name


@pytest.mark.parametrize("replicas", [2, 4])
def test_a_last_batch_that_no_number_of_replicas_divides(trained, replicas):
    for name, expected in of(trained[1], "ragged/log/").items():
        np.testing.assert_allclose(trained[replicas][name], expected, atol=1e-4, err_msg=name)
    for name, weight in of(trained[replicas], "ragged/weight/").items():
        assert np.isfinite(weight).all(), name


@pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 2)])
def test_a_training_changes_its_number_of_replicas_half_way(trained, folder, first, second):
    resumed = run(folder, second, "resume", str(first))
    for name, weight in of(resumed, "resumed/weight/").items():
        expected = trained[1][name.replace("resumed", "gumbel_softmax")]
        if "metric" not in name:
            np.testing.assert_allclose(weight, expected, atol=1e-5, err_msg=name)
