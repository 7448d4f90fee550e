"""A model of layers and a network that are used as Keras's own models are, with their data."""

import keras
import numpy as np

import reset_keras as rk

X, Y = np.random.default_rng(0).normal(size=(24, 8, 8, 3)).astype("float32"), np.arange(24) % 4
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def routed_model(scorer="softmax", units=2, iterations=2):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x, routes = rk.ReSet(units, iterations, scorer=scorer, return_routes=True, name="module")(x)
    outputs = keras.layers.Dense(4, name="head")(keras.layers.GlobalAveragePooling2D()(x))
    return rk.RoutedModel(inputs, outputs, routes=[routes])


def reset_net(units=(2, 1)):
    return rk.ReSetNet(units, None, 4, (8, 8, 3), width=4)


def smallest_routed_model():
    """One whose steps take no time, for tests of what is around them."""
    return routed_model(units=[keras.layers.Dense(8), keras.layers.Dense(8)], iterations=1)


def smallest_reset_net():
    return reset_net((1,))


def equal(found, expected, atol=1e-5):
    np.testing.assert_allclose(np.array(found), expected, atol=atol)
