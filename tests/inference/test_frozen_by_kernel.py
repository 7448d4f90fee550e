"""Networks frozen on JAX, which run the kernel as on a GPU: interpreted, which is slow and computes the same."""

import functools

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import IMAGES, expected_of, outputs_of, triton_kernels
from networks import one_module_reset, randomize, small_reset, spread_scores
from reset_keras.inference import freeze
from reset_keras.inference.frozen import frozen_reset

if keras.backend.backend() != "jax":
    pytest.skip("the kernel needs the JAX backend", allow_module_level=True)

import jax

from reset_keras.inference.gpu import routed_units as kernel_module


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(frozen_reset, "has_gpu", lambda: True)


@pytest.fixture
def interpreted(gpu, monkeypatch):
    kernel = functools.partial(kernel_module.routed_units, interpret=True)
    monkeypatch.setattr(kernel_module, "routed_units", kernel)


@functools.cache
def trained(seed, units=(2, 2), scorer="gumbel_st", **options):
    """A network with weights and statistics as after training: no batch norm is the identity."""
    model = rk.ReSetNet(units, None, 4, (8, 8, 1), scorer=scorer, width=4, **options)
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name.startswith(("moving_variance", "gamma")):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.name.startswith(("moving_mean", "beta", "bias")):
            weight.assign(rng.normal(0, 0.3, weight.shape))
        elif "kernel" in weight.name:
            weight.assign(rng.normal(0, np.sqrt(2 / np.prod(weight.shape[:-1])), weight.shape))
    return model


def images(count=16):
    """Noise of all strengths and brightnesses, which take different routes."""
    rng = np.random.default_rng(0)
    strength, brightness = rng.uniform(0.2, 4, (count, 1, 1, 1)), rng.normal(size=(count, 1, 1, 1))
    return (rng.normal(size=(count, 8, 8, 1)) * strength + brightness).astype("float32")


@functools.cache
def by_keras(model):
    """Logits and choices of a model whose choices hang on no rounding."""
    outputs, routes = model(images(), training=False, return_routes=True)
    logits = np.concatenate([route["logits"] for route in routes], axis=1)
    ranked = np.sort(logits, axis=-1)
    assert (ranked[..., -1] - ranked[..., -2]).min() > 1e-4
    choices = np.concatenate([route["scores"] for route in routes], axis=1).argmax(axis=-1)
    return outputs, choices


def by_kernel(model):
    """Logits and choices of the frozen model, whose modules all run by the kernel."""
    network = freeze(model, "kernel")
    assert set(network.forms(16)) == set(network.forms(1)) == {"kernel"}
    returned = jax.jit(functools.partial(network.graph, training=False))(images())
    routes = [route["scores"] for _, route in sorted(returned["routes"].items())]
    return np.array(returned["outputs"]), np.concatenate(routes, axis=1).argmax(axis=-1)


def assert_different_routes(choices):
    assert len(np.unique(choices)) == 3, "a unit is never chosen"
    assert (choices != choices[0]).any(), "all images take one route"


NETWORKS = {
    "pad-rnn": {"seed": 13, "controller": "rnn", "shortcut": "pad"},
    "projection-cnn-pooling": {"seed": 3, "controller": "cnn", "shortcut": "projection", "stem_pooling": True},
}


@pytest.mark.parametrize("network", NETWORKS)
def test_the_network_is_the_keras_model(network, interpreted):
    model = trained(**NETWORKS[network])
    expected, expected_choices = by_keras(model)
    assert_different_routes(expected_choices)
    logits, choices = by_kernel(model)
    np.testing.assert_array_equal(choices, expected_choices)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("scorer", ["gumbel_st", rk.TopKScorer(k=1, temperature=2.0)], ids=["hard", "top 1"])
def test_the_largest_score_is_a_weight_and_the_activation_an_option(scorer, interpreted):
    model = trained(25, units=(2,), scorer=scorer)
    for module in model.routed_modules:
        module.activation = keras.activations.linear
    expected, expected_choices = by_keras(model)
    assert_different_routes(expected_choices)
    logits, choices = by_kernel(model)
    np.testing.assert_array_equal(choices, expected_choices)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_bfloat16_is_near_float32_on_the_same_route(interpreted):
    """Some twenty roundings of 2^-8 each, at random: a few hundredths of the largest logit."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        reduced = trained(1, units=(2,), controller=rk.FixedController(3, [1, 2]))
    finally:
        keras.config.set_dtype_policy("float32")
    expected, expected_choices = by_keras(trained(1, units=(2,), controller=rk.FixedController(3, [1, 2])))
    logits, choices = by_kernel(reduced)
    np.testing.assert_array_equal(choices, expected_choices)
    error = np.abs(logits - expected).max() / np.abs(expected).max()
    assert 1e-5 < error < 0.03


def test_the_network_lowers_for_a_gpu(gpu):
    network = freeze(trained(**NETWORKS["pad-rnn"]), "kernel")
    assert triton_kernels(jax.jit(network.run), images()) == 2 * 2  # stages; called in each iteration


@keras.saving.register_keras_serializable("tests")
class BoldController(rk.RNNController):
    """A controller of a user's."""

    def call(self, inputs, state, iteration=0):
        logits, state = super().call(inputs, state, iteration)
        return -3 * logits, state


@pytest.mark.slow
def test_the_kernel_is_used_where_there_is_a_gpu(interpreted):
    model = randomize(one_module_reset("gumbel_st", controller=BoldController(3)))
    network = freeze(model)
    assert network.uses_kernel
    assert "larger batches kernel" in repr(network)
    for size in (0, 1, 7):
        np.testing.assert_allclose(outputs_of(network, IMAGES[:size]), expected_of(model)[:size], atol=1e-4, rtol=1e-4)
    assert freeze(small_reset("softmax")).forms(32) == ["dense", "dense"]
    assert freeze(small_reset("gumbel_st"), "dense").forms(32) == ["dense", "dense"]


def test_a_kernel_that_fails_gives_way_to_all_units(gpu, monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(kernel_module, "routed_units", failing)
    model = randomize(one_module_reset("gumbel_st"))
    network = freeze(model)
    assert network.forms(7) == ["kernel"]
    with pytest.warns(UserWarning, match=r"(?s)The GPU kernel failed; .*out of memory"):
        outputs = outputs_of(network, IMAGES[:7])
    np.testing.assert_allclose(outputs, expected_of(model)[:7], atol=1e-4, rtol=1e-4)
    assert network.forms(7) == ["dense"]
    with pytest.raises(RuntimeError, match="out of memory"):
        freeze(model, "kernel")(IMAGES[:7])


def with_own_units():
    inputs = keras.Input((6, 8))
    x, routes = rk.ReSet([keras.layers.Dense(8) for _ in range(2)], 2, scorer="hard", return_routes=True)(inputs)
    return rk.RoutedModel(inputs, x, routes=[routes])


@pytest.mark.parametrize(
    ("model", "threshold"),
    [
        (lambda: trained(0, units=(2,), scorer="softmax"), 0.0),
        (lambda: trained(0, units=(2,), scorer=rk.TopKScorer(k=2)), 0.0),
        (lambda: trained(5, units=(2,)), 0.1),
        (with_own_units, 0.0),
    ],
    ids=["softmax", "top 2", "threshold", "units of one's own"],
)
def test_networks_that_the_kernel_does_not_take(model, threshold, gpu):
    assert not freeze(model(), threshold=threshold).uses_kernel
    with pytest.raises(ValueError, match=r"needs residual units .* Received: module .* of the type float32"):
        freeze(model(), "kernel", threshold)


def test_the_kernel_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(frozen_reset, "has_gpu", lambda: False)
    with pytest.raises(ValueError, match="Received: the jax backend, without a GPU"):
        freeze(small_reset("gumbel_st"), "kernel")


@pytest.mark.slow
def test_images_that_have_halted(interpreted):
    model = rk.ReSetNet((3,), None, 4, (8, 8, 1), scorer="gumbel_st", width=4, halting="act")
    randomize(model)
    module = model.routed_modules[0]
    spread_scores(module, keras.Model(model.inputs[0], module.input)(images()))
    expected, routes = model(images(), training=False, return_routes=True)
    active = np.array(routes[0]["active"])
    assert len(np.unique(active.sum(axis=1))) > 1
    assert np.any(active == 0)
    frozen = freeze(model)
    assert frozen.uses_kernel
    np.testing.assert_allclose(outputs_of(frozen, images()), expected, atol=1e-4, rtol=1e-4)
