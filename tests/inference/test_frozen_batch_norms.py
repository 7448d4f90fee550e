"""Which batch norms a frozen network folds into the convolution before them, and that it computes what it did."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import assert_frozen_equals, expected_of, outputs_of, plain_convolution
from networks import randomize
from reset_keras.inference import freeze
from reset_keras.keras_internals import all_layers


def test_a_batch_norm_of_two_convolutions_is_kept():
    inputs = keras.Input((6, 6, 3))
    norm = rk.IterationBatchNormalization()
    assert_frozen_equals(inputs, norm(plain_convolution()(inputs)) + norm(plain_convolution()(inputs)))


@pytest.mark.parametrize(
    ("options", "folded"),
    [({}, True), ({"axis": 3}, True), ({"scale": False}, True), ({"center": False}, True), ({"axis": 1}, False)],
    ids=str,
)
@pytest.mark.parametrize("use_bias", [False, True], ids=["", "bias"])
def test_batch_norms_of_keras_are_folded(options, folded, use_bias):
    inputs = keras.Input((6, 6, 3))
    norm = keras.layers.BatchNormalization(epsilon=0.1, **options)
    outputs = keras.layers.ReLU()(norm(keras.layers.Conv2D(4, 3, use_bias=use_bias)(inputs)))
    assert_frozen_equals(inputs, outputs)
    layers = freeze(keras.Model(inputs, outputs)).graph.layers
    assert any(isinstance(layer, keras.layers.BatchNormalization) for layer in layers) is not folded


@pytest.mark.parametrize("norm", [keras.layers.BatchNormalization, rk.IterationBatchNormalization])
def test_a_batch_norm_whose_input_is_given_by_name(norm):
    inputs = keras.Input((6, 6, 3))
    assert_frozen_equals(inputs, norm()(inputs=plain_convolution()(inputs)))


def test_what_computes_in_float64_is_not_folded_in_float32():
    inputs = keras.Input((6, 6, 3), dtype="float64")
    outputs = keras.layers.BatchNormalization(dtype="float64")(keras.layers.Conv2D(4, 3, dtype="float64")(inputs))
    model = randomize(keras.Model(inputs, outputs))
    images = np.random.default_rng(0).normal(size=(3, 6, 6, 3)).astype("float32")  # which inputs are cast to
    np.testing.assert_allclose(outputs_of(freeze(model), images), expected_of(model, images), atol=1e-12)


def unit_of_keras():
    norm = keras.layers.BatchNormalization()
    return keras.Sequential([plain_convolution(), norm, keras.layers.ReLU(), plain_convolution()])


@pytest.mark.parametrize("scorer", ["softmax", "gumbel_st"])
def test_batch_norms_in_units_of_ones_own_are_folded(scorer):
    inputs = keras.Input((6, 6, 3))
    units = [unit_of_keras(), rk.ResidualUnit(3, num_iterations=2), plain_convolution()]
    assert_frozen_equals(inputs, rk.ReSet(units, 2, scorer=scorer)(inputs))
    network = freeze(keras.Model(inputs, rk.ReSet(units, 2, scorer=scorer)(inputs)))
    norms = (keras.layers.BatchNormalization, rk.IterationBatchNormalization)
    parts = all_layers(network.modules[0].pool.pool)
    assert len(parts) > len(units)
    assert not any(isinstance(part, norms) for part in parts)


@keras.saving.register_keras_serializable("tests")
class DoubledNorm(keras.layers.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training, mask)


def test_batch_norms_of_ones_own_are_kept():
    inputs = keras.Input((6, 6, 3))
    assert_frozen_equals(inputs, DoubledNorm()(plain_convolution()(inputs)))
