"""Several processes on the loopback address train as one does; so does a recipe, which then goes on."""

import importlib.util
import json
import os
import pathlib
import runpy
import socket
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import batch_replication
import reset_keras as rk
import two_phase
from reset_keras.training import Pipeline, WorkDirectory, get_strategy

TESTS = pathlib.Path(__file__).parent
RECIPE = TESTS.parent / "recipes" / "resnet_baseline.py"
TIMEOUT = 300
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}

pytestmark = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")


def cluster(count):
    """For each of some processes the environment that makes them one cluster."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = {"KERAS_DISTRIBUTION_JOB_ADDRESSES": address, "KERAS_DISTRIBUTION_NUM_PROCESSES": str(count)}
    return [{**common, "KERAS_DISTRIBUTION_PROCESS_ID": str(index)} for index in range(count)]


def outputs_of(folder, command, environments):
    """What processes that run beside each other print: into files, as one that waits to be read stops all others."""
    files = [folder / f"process_{index}.txt" for index in range(len(environments))]
    processes = []
    try:
        for file, environment in zip(files, environments, strict=True):
            with file.open("w") as output:
                whole = {**ENVIRONMENT, **environment}
                processes.append(subprocess.Popen([sys.executable, *command], env=whole, stdout=output, stderr=output))
        codes = [process.wait(TIMEOUT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    outputs = [file.read_text() for file in files]
    assert not any(codes), outputs
    return outputs


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What two processes of a cluster and one alone print, and the work directory they are given."""
    folder = tmp_path_factory.mktemp("multihost")
    stage = folder / "run" / "stages" / "00-first"
    stage.mkdir(parents=True)
    (stage / "result.json").write_text("{}")
    (folder / "run" / "report.html").write_text("not read when the run goes on")
    command = [str(TESTS / "multihost_training.py"), str(folder / "run")]
    outputs = outputs_of(folder, command, [*cluster(2), {}])
    return folder / "run", [[json.loads(line) for line in output.splitlines()[-2:]] for output in outputs]


@pytest.mark.faults
@pytest.mark.slow
def test_two_processes_train_as_one(printed):
    first, second, alone = (training for training, _ in printed[1])
    assert first == second
    np.testing.assert_allclose(list(first["logs"].values()), list(alone["logs"].values()), atol=1e-5)
    for ours, one in zip(first["state"], alone["state"], strict=True):
        np.testing.assert_allclose(ours, one, atol=1e-5)


@pytest.mark.faults
@pytest.mark.slow
def test_other_processes_work_in_a_copy_of_what_process_0_has(printed):
    folder, outputs = printed
    (first, _), (second, copied), (alone, _) = (directory for _, directory in outputs)
    assert first == alone == str(folder)
    assert copied == ["stages/00-first/result.json"]
    assert second != first
    assert not pathlib.Path(second).exists()  # it is gone with its process


@pytest.mark.faults
@pytest.mark.slow
def test_a_recipe_in_two_processes(tmp_path):
    workdir = tmp_path / "run"
    flags = ["--strategy", "multihost", "--workdir", str(workdir), "--epochs-scale", "0.02", "--units", "1"]
    first, second = outputs_of(tmp_path, [str(RECIPE), *flags], cluster(2))
    assert "[1/1] resnet: accuracy test" in first
    assert "[1/1]" not in second
    (epoch, stage) = map(json.loads, (workdir / "metrics.jsonl").open())
    assert epoch["val_accuracy"] == pytest.approx(stage["accuracy"]["test"])
    assert (workdir / "report.html").exists()
    assert keras.models.load_model(workdir / "stages" / "00-resnet" / "model.keras").count_params()


def test_what_is_missing_is_said_in_one_line(monkeypatch):
    with pytest.raises(ValueError, match=r"'multihost' needs KERAS_BACKEND=jax; received KERAS_BACKEND=tensorflow"):
        get_strategy("multihost")
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "two")
    with pytest.raises(ValueError, match=r"cannot find the other processes .*'two'.*srun"):
        get_strategy("multihost")


@pytest.mark.parametrize("recipe", [two_phase, batch_replication])
def test_recipes_that_need_tensorflow(recipe):
    with pytest.raises(ValueError, match="needs TensorFlow, multihost is on JAX"):
        recipe.stages(SimpleNamespace(strategy="multihost"), None)


@pytest.mark.parametrize("is_first", [True, False])
def test_only_the_first_process_prints_the_policies(monkeypatch, capsys, is_first):
    row = {"stage": "rnn", "sequential_probability": 0.5, "sequential_choice": 0.25, "policy_entropy": 1.0}
    monkeypatch.setattr("experiment.runner.run", lambda *_: [row])
    monkeypatch.setattr("reset_keras.training.is_first_process", lambda: is_first)
    monkeypatch.setattr("sys.argv", ["controller_only.py"])
    runpy.run_path(str(RECIPE.with_name("controller_only.py")), run_name="__main__")
    assert ("25.0" in capsys.readouterr().out) is is_first


def test_batches_must_be_dealt_out_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.distribution.DataParallel, "num_model_replicas", 3)
    strategy, digits, workdir = keras.distribution.DataParallel(), rk.data.load_digits(), WorkDirectory(tmp_path, {})
    with pytest.raises(ValueError, match=r"a multiple of the number of devices, 3\. Received: 64"):
        Pipeline(digits, workdir, 64, 0, strategy, rk.callbacks.RunObserver(digits, workdir))


def test_replicas_of_one_machine_too_get_equal_parts_of_a_batch(tmp_path):
    # Not a MirroredStrategy: TensorFlow would have had to split the CPU before anything was computed.
    replicas, digits = SimpleNamespace(num_replicas_in_sync=3), rk.data.load_digits()
    workdir = WorkDirectory(tmp_path, {})
    with pytest.raises(ValueError, match=r"a multiple of the number of devices, 3\. Received: 64"):
        Pipeline(digits, workdir, 64, 0, replicas, rk.callbacks.RunObserver(digits, workdir))
    Pipeline(digits, workdir, 63, 0, replicas, rk.callbacks.RunObserver(digits, workdir))
