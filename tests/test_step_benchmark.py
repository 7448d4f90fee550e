"""What the benchmark of training steps compares: equal networks, ratios of the same turn."""

import importlib.util
import json

import keras
import numpy as np
import pytest

import reset_keras as rk
import step_worker
from plain_resnet import keras_resnet

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="measured on TensorFlow")


def shapes(network):
    return [tuple(weight.shape) for weight in network.trainable_weights]


@pytest.mark.slow
def test_the_plain_network_is_resnet38():
    plain, ours = step_worker.named_network("keras"), step_worker.named_network("resnet")
    assert not isinstance(plain, rk.ResNet)
    assert ours.stage_blocks == (6, 6, 6)
    assert shapes(plain) == shapes(ours)
    assert plain.output_shape == ours.output_shape == (None, 10)
    sizes = {layer.output.shape[1:3] for layer in plain.layers if isinstance(layer, keras.layers.Conv2D)}
    assert sizes == {(32, 32), (16, 16), (8, 8)}


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_the_torch_network_is_resnet38():
    import torch

    from plain_resnet import torch_resnet38

    network = torch_resnet38()
    ours = rk.models.resnet38()
    assert sum(p.numel() for p in network.parameters()) == sum(w.size for w in map(np.array, ours.trainable_weights))
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_worker_times_pools_in_the_form_that_is_named():
    network = step_worker.named_network("top_k/grouped")
    assert [module.pool.execution for module in network.routed_modules] == ["grouped"] * 3
    assert isinstance(network.routed_modules[0].scorer, rk.TopKScorer)
    assert isinstance(step_worker.named_network("straight_through").routed_modules[0].scorer, rk.GumbelSTScorer)


def test_the_network_for_every_budget_has_the_units_of_resnet38():
    network = step_worker.named_network("every_budget")
    assert network.units == (5, 5, 5)
    assert all(isinstance(module.controller, rk.HaltingController) for module in network.routed_modules)


@pytest.mark.parametrize("make", [rk.ResNet, keras_resnet])
def test_a_worker_trains_the_network_that_it_times(make, monkeypatch):
    network = make((1,), width=4)
    before = network.get_weights()
    monkeypatch.setattr(step_worker, "named_network", lambda name: network)
    step = step_worker.keras_step("any", "float32", 8)
    assert step() == pytest.approx(step(), rel=1e-4)  # a rate of 0 leaves the weights, and the batch stays
    assert network.optimizer.iterations == 2
    for weight, old in zip(network.weights, before, strict=True):
        assert np.array_equal(weight, old) == weight.trainable, weight.path


@pytest.mark.parametrize("met", [True, None])
def test_ratios_are_of_the_same_turn_and_of_what_was_measured(tmp_path, monkeypatch, met):
    import rows
    from steps import write

    monkeypatch.setattr(rows, "HERE", {"CPU", "CPU with AMX"} if met else {"CPU"})
    times = {
        ("resnet", "float32"): np.array([1.0, 2.0, 3.0]),
        ("softmax", "float32"): np.array([4.0, 10.0, 12.0]),
        ("softmax", "bfloat16"): np.array([2.0, 4.0, 6.0]),
        ("before", "float32"): np.array([8.0, 16.0, 12.0]),
        ("resnet without oneDNN", "float32"): np.array([2.0, 8.0, 4.0]),
    }
    about = {"command": "c", "backend": "tensorflow", "device": "d", "date": "2026-01-01", "rounds": 3}
    write(tmp_path, about, times, dict.fromkeys(times, 100.4))
    content = json.loads((tmp_path / "steps.json").read_text())
    assert {row["what"]: (row["value"], row["met"]) for row in content["rows"]} == {
        "ReSet-38, softmax, over ResNet-38, float32": (4.0, met),
        "ReSet-38, softmax, over the earlier commit, float32": (0.625, met),
        "ReSet-38, softmax, over the earlier commit, bfloat16": (0.25, met),
        "resnet with oneDNN over without, float32": (0.5, True),
    }
    table = (tmp_path / "steps.md").read_text()
    assert "| softmax | bfloat16 | 4000 | 100 |" in table
    assert "`c` on tensorflow, d, 2026-01-01" in table


class FakeWorker:
    """Takes longer turn by turn."""

    def __init__(self):
        self.turns, self.closed = 0, False

    def read(self):
        return "ready"

    def turn(self, steps):
        self.turns += 1
        return self.turns * steps, 100.0 + self.turns

    def close(self):
        self.closed = True


def test_what_was_measured_is_there_after_each_turn():
    from steps import measured

    worker, subject = FakeWorker(), ("resnet", "float32")
    found = [(times[subject].tolist(), memory) for times, memory in measured({subject: worker}, rounds=3, steps=2)]
    assert found == [([2], {subject: 101.0}), ([2, 4], {subject: 102.0}), ([2, 4, 6], {subject: 103.0})]
    assert worker.closed
