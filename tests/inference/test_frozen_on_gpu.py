"""How a frozen network runs where there is a GPU: what chooses believes in one, what computes does without."""

import functools

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import IMAGES, ON_TENSORFLOW, expected_of, outputs_of
from networks import one_module_reset, randomize, small_reset
from reset_keras.inference import freeze
from reset_keras.inference.frozen import frozen_network, frozen_reset
from reset_keras.inference.gpu import kernel


def test_the_kernel_is_used_where_jax_sees_a_gpu(monkeypatch):
    """Without a GPU the kernel runs interpreted, which is slow and computes the same."""
    pytest.importorskip("jax")
    from reset_keras.inference.gpu import jax_network as jax_module

    interpreted = functools.partial(jax_module.jax_network, interpret=True)
    monkeypatch.setattr(jax_module, "jax_network", interpreted)
    monkeypatch.setattr(frozen_network, "jax_sees_a_gpu", lambda: True)
    monkeypatch.setattr(kernel, "jax_sees_a_gpu", lambda: True)
    model = randomize(one_module_reset("gumbel_st"))
    network = freeze(model)
    assert network.forms(32) == ["kernel"]
    assert "larger batches kernel" in repr(network)
    for size in (1, 7):
        np.testing.assert_allclose(network(IMAGES[:size]), expected_of(model)[:size], atol=1e-4, rtol=1e-4)
    assert freeze(small_reset("softmax")).forms(32) == ["dense", "dense"]
    assert freeze(small_reset("gumbel_st"), "dense").forms(32) == ["dense", "dense"]


@keras.saving.register_keras_serializable("tests")
class BoldController(rk.RNNController):
    """A controller that the kernel's network does not know."""

    def call(self, inputs, state, iteration=0):
        logits, state = super().call(inputs, state, iteration)
        return -3 * logits, state


def test_a_network_that_the_kernel_does_not_take_runs_by_stock_operations(monkeypatch):
    pytest.importorskip("jax")
    for module in (frozen_network, kernel):
        monkeypatch.setattr(module, "jax_sees_a_gpu", lambda: True)
    model = one_module_reset("gumbel_st", controller=BoldController(3))
    network = freeze(randomize(model))
    assert not network.uses_kernel
    np.testing.assert_allclose(outputs_of(network, IMAGES[:7]), expected_of(model)[:7], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"The controller must be an RNNController.*Received: a BoldController"):
        freeze(model, "kernel")


def test_a_kernel_that_fails_gives_way_to_stock_operations(monkeypatch):
    def failing(model):
        def run(images):
            raise RuntimeError("out of memory")

        return run

    monkeypatch.setattr(frozen_network, "jax_sees_a_gpu", lambda: True)
    monkeypatch.setattr(frozen_network, "kernel_network", failing)
    model = randomize(one_module_reset("gumbel_st"))
    network = freeze(model)
    assert network.forms(7) == ["kernel"]
    with pytest.warns(UserWarning, match="The GPU kernel failed; .*out of memory"):
        outputs = outputs_of(network, IMAGES[:7])
    np.testing.assert_allclose(outputs, expected_of(model)[:7], atol=1e-4, rtol=1e-4)
    assert "kernel" not in network.forms(7)
    with pytest.raises(RuntimeError, match="out of memory"):
        freeze(model, "kernel")(IMAGES[:7])
    assert not freeze(model, "stock").uses_kernel


@pytest.mark.skipif(not ON_TENSORFLOW, reason="XLA is left out on TensorFlow alone")
@pytest.mark.parametrize("execution", ["auto", "sparse"])
def test_what_xla_lacks_runs_without_it(execution, monkeypatch):
    """Groups of images by unit are of sizes that XLA does not know, and bicubic resizing is no operation of its."""
    for module in (frozen_network, frozen_reset):
        monkeypatch.setattr(module, "has_gpu", lambda: True)
    monkeypatch.setattr(frozen_network, "jax_sees_a_gpu", lambda: False)
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Resizing(8, 8, "bicubic")(inputs) if execution == "auto" else inputs
    x, routes = rk.ReSet(2, 1, scorer="gumbel_st", return_routes=True)(x)
    model = randomize(rk.RoutedModel(inputs, x, routes=[routes]))
    images = np.random.default_rng(0).normal(size=(7, 4, 4, 2)).astype("float32")
    network = freeze(model, execution)
    for size in (7, 1):
        np.testing.assert_allclose(network(images[:size]), expected_of(model, images)[:size], atol=1e-4)


def test_a_gpu_without_the_kernel_runs_all_units_of_a_batch(monkeypatch):
    monkeypatch.setattr(frozen_reset, "has_gpu", lambda: True)
    monkeypatch.setattr(frozen_network, "jax_sees_a_gpu", lambda: False)
    network = freeze(one_module_reset("gumbel_st"))
    assert (network.forms(1), network.forms(7)) == (["branch"], ["dense"])


def test_the_kernel_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(kernel, "jax_sees_a_gpu", lambda: False)
    with pytest.raises(ValueError, match="execution='kernel' needs JAX with a GPU"):
        freeze(small_reset("gumbel_st"), "kernel")
