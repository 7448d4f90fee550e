"""Layers with functions that Keras does not know: a frozen network has them all the same."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import reset_keras as rk
from frozen import assert_frozen_equals, plain_convolution
from reset_keras.inference import freeze


def doubled(x):
    return 2 * ops.tanh(x)


def relu(x):
    """Not what Keras calls so."""
    return ops.tanh(x)


@keras.saving.register_keras_serializable("tests")
def registered(x):
    return ops.sin(x)


def times(factor):
    return lambda x: factor * x


def l2(kernel):
    return 0.1 * ops.sum(kernel**2)


OF_THE_BACKEND = {"tensorflow": ("tensorflow", "nn", "relu6"), "jax": ("jax", "nn", "softplus")}


def of_the_backend():
    name, module, function = OF_THE_BACKEND[keras.backend.backend()]
    return getattr(getattr(pytest.importorskip(name), module), function)


def outputs_of_layers(*given):
    inputs = x = keras.Input((6, 6, 3))
    for layer in given:
        x = layer(x)
    return inputs, x


def test_functions_of_layers():
    """One network of all, as each freezing compiles one."""
    functions = [doubled, relu, registered, "tanh", times(3.0), lambda x: ops.sin(2 * x), of_the_backend()]
    convolutions = [keras.layers.Conv2D(3, 3, activation=f, padding="same", kernel_regularizer=l2) for f in functions]
    lambdas = [keras.layers.Lambda(f) for f in (doubled, lambda x: ops.sin(2 * x))]
    assert_frozen_equals(*outputs_of_layers(*convolutions, keras.layers.Activation(doubled), *lambdas))


def test_functions_of_units_and_of_modules():
    units = [keras.layers.Dense(3, activation=f) for f in (doubled, relu)]
    units += [keras.layers.Lambda(lambda x: ops.sin(2 * x)), rk.ReSet([plain_convolution()], 1, activation=doubled)]
    assert_frozen_equals(*outputs_of_layers(rk.ReSet(units, 1, activation=relu)))


class Squashing(rk.CNNController):
    def __init__(self, *args, squash=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.squash = squash

    def call(self, inputs, state, iteration=0):
        logits, state = super().call(inputs, state, iteration)
        return self.squash(logits), state

    def get_config(self):
        return {**super().get_config(), "squash": keras.saving.serialize_keras_object(self.squash)}


def test_functions_of_controllers():
    assert_frozen_equals(*outputs_of_layers(rk.ReSet(1, 1, Squashing(2, 1, squash=doubled))))
    rk.ReSetNet((1, 1), None, 3, (8, 8, 1), Squashing(1, 1, squash=doubled))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: keras.layers.TimeDistributed(keras.layers.Dense(3, activation=doubled), name="own"), "'doubled'"),
        (lambda: keras.layers.Dense(3, activation=functools.partial(doubled), name="own"), "<class 'functools.part"),
    ],
)
@pytest.mark.parametrize("is_unit", [False, True])
def test_a_layer_that_cannot_be_copied_is_named(layer, message, is_unit):
    layer = layer()
    inputs, x = outputs_of_layers(rk.ReSet([layer], 1) if is_unit else layer)
    with pytest.raises(ValueError, match=rf"^Layer 'own' of the type \w+ cannot be copied by its config: .*{message}"):
        freeze(keras.Model(inputs, x))


def test_functions_are_not_taken_from_the_config_of_others():
    """What merely has the name of a setting, such as a method, is none."""

    @keras.saving.register_keras_serializable("tests")
    class Shifted(keras.layers.Layer):
        def __init__(self, shift=0.0, **kwargs):
            super().__init__(**kwargs)
            self.by = shift

        def shift(self, x):
            return x + self.by

        def call(self, inputs):
            return self.shift(inputs)

        def get_config(self):
            return {**super().get_config(), "shift": self.by}

    inputs, x = outputs_of_layers(Shifted(2.0))
    images = np.ones((1, 6, 6, 3), "float32")
    np.testing.assert_array_equal(freeze(keras.Model(inputs, x))(images), 3 * images)
