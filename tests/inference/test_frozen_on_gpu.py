"""How a frozen network runs where there is a GPU: what chooses believes in one, what computes does without."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import ON_TENSORFLOW, expected_of
from networks import one_module_reset, randomize, small_reset
from reset_keras.inference import freeze
from reset_keras.inference.frozen import frozen_network, frozen_reset

pytestmark = pytest.mark.skipif(not ON_TENSORFLOW, reason="on JAX the kernel runs there")


@pytest.fixture
def gpu(monkeypatch):
    for module in (frozen_network, frozen_reset):
        monkeypatch.setattr(module, "has_gpu", lambda: True)


@pytest.mark.parametrize("execution", ["auto", "sparse"])
def test_what_xla_lacks_runs_without_it(execution, gpu):
    """Groups of images by unit are of sizes that XLA does not know, and bicubic resizing is no operation of its."""
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Resizing(8, 8, "bicubic")(inputs) if execution == "auto" else inputs
    x, routes = rk.ReSet(2, 1, scorer="gumbel_st", return_routes=True)(x)
    model = randomize(rk.RoutedModel(inputs, x, routes=[routes]))
    images = np.random.default_rng(0).normal(size=(7, 4, 4, 2)).astype("float32")
    network = freeze(model, execution)
    for size in (7, 1):
        np.testing.assert_allclose(network(images[:size]), expected_of(model, images)[:size], atol=1e-4)


def test_a_batch_goes_through_all_units_and_an_image_through_its_own(gpu):
    network = freeze(one_module_reset("gumbel_st"))
    assert (network.forms(1), network.forms(7)) == (["branch"], ["dense"])
    assert "on GPU" in repr(network)


def test_an_empty_batch_whose_size_xla_knows(gpu):
    assert freeze(one_module_reset("gumbel_st"))(np.zeros((0, 8, 8, 1))).shape == (0, 4)


def test_the_kernel_needs_jax(gpu):
    with pytest.raises(ValueError, match=r"needs the JAX backend and a GPU.* Received: the tensorflow backend$"):
        freeze(small_reset("gumbel_st"), "kernel")
