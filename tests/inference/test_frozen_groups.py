"""Batches whose images take different units, against the pool of the Keras model, which computes all of them."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import IMAGES, ON_TENSORFLOW, outputs_of
from networks import one_module_reset, randomize
from reset_keras.inference import freeze
from reset_keras.inference.frozen import forms
from reset_keras.inference.frozen.frozen_reset import FrozenReSet

pytestmark = pytest.mark.skipif(not ON_TENSORFLOW, reason="groups need TensorFlow")
ZERO = 3
ROUTES = {
    "every unit": [2, 0, ZERO, 1, 0, 2, ZERO],
    "groups without images": [1, ZERO, 1, 1, ZERO],
    "one image": [2],
    "one image that skips": [ZERO],
    "all take one unit": [1, 1, 1, 1],
    "all skip": [ZERO, ZERO, ZERO],
}


def residual_module(activation):
    module = rk.ReSet(3, 2, scorer="gumbel_st", activation=activation)
    inputs = keras.Input((6, 6, 4))
    randomize(keras.Model(inputs, module(inputs)))
    return module


def module_of_own_units(activation):
    units = [keras.layers.Dense(4), keras.layers.Conv1D(4, 3, padding="same"), keras.layers.Dense(4, "tanh")]
    module = rk.ReSet(units, 2, scorer="gumbel_st", activation=activation)
    inputs = keras.Input((5, 4))
    randomize(keras.Model(inputs, module(inputs)))
    return module


def features_of(module, count):
    return np.random.default_rng(count).normal(size=(count, *module.input.shape[1:])).astype("float32")


def both(module, units, iteration):
    """The next features of images that take these units: by groups, and by the pool of the Keras module."""
    x = features_of(module, len(units))
    if iteration and module.activation is keras.activations.relu:
        x = np.maximum(x, 0)  # as the iteration before left them
    one_hot = np.eye(ZERO + 1, dtype="float32")[np.array(units, "int32")]
    expected = module.activation(x + module.pool(x, keras.ops.convert_to_tensor(one_hot), iteration=iteration))
    frozen = FrozenReSet(module, lambda _: None, "sparse", 0.0)
    assert frozen.form(None) == "sparse"
    tensors = (keras.ops.convert_to_tensor(array) for array in (x, 9 * one_hot, one_hot))
    return np.array(forms.chosen_groups(frozen, *tensors, iteration)), np.array(expected)


@pytest.mark.parametrize("iteration", [0, 1])
@pytest.mark.parametrize("activation", ["relu", None])
@pytest.mark.parametrize("make", [residual_module, module_of_own_units])
def test_each_image_goes_through_its_unit(make, activation, iteration):
    module = make(activation)
    for units in ROUTES.values():
        ours, expected = both(module, units, iteration)
        np.testing.assert_allclose(ours, expected, atol=1e-5, err_msg=str(units))


def test_a_batch_without_images():
    ours, _ = both(module_of_own_units("relu"), [], 0)
    assert ours.shape == (0, 5, 4)


def test_nothing_is_moved_where_all_images_take_the_same_unit(monkeypatch):
    def moved(*_):
        raise AssertionError("moved")

    monkeypatch.setattr(forms, "_in_groups", moved)
    module = residual_module("relu")
    for name in ("one image", "all take one unit", "all skip"):
        ours, expected = both(module, ROUTES[name], 1)
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    with pytest.raises(AssertionError, match="moved"):
        both(module, ROUTES["every unit"], 1)


def test_outputs_and_routes_come_in_the_order_of_the_images():
    model = randomize(one_module_reset("gumbel_st"), seed=1)
    network, (outputs, expected) = freeze(model), model(IMAGES, training=False, return_routes=True)
    expected = [{name: np.array(array) for name, array in module.items()} for module in expected]
    assert all(len(np.unique(module["scores"].argmax(axis=-1), axis=0)) > 1 for module in expected)
    for order in (np.arange(32), np.random.default_rng(0).permutation(32)):
        found = network.graph(IMAGES[order], training=False)["routes"]
        for ours, theirs in zip(found.values(), expected, strict=True):
            for name in ("logits", "scores"):
                np.testing.assert_allclose(ours[name], theirs[name][order], atol=1e-4)
        np.testing.assert_allclose(outputs_of(network, IMAGES[order]), np.array(outputs)[order], atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batches_that_agree_and_that_do_not_give_the_same(dtype):
    """Each image by itself, many times over, goes through its units without being moved."""
    model = randomize(one_module_reset("gumbel_st"), seed=1)
    network = freeze(model, dtype=dtype)
    together = outputs_of(network, IMAGES[:6])
    for image, expected in zip(IMAGES[:6], together, strict=True):
        alike = outputs_of(network, np.stack([image] * 5))
        np.testing.assert_allclose(alike, [expected] * 5, atol=1e-4 if dtype == "float32" else 0.02)
