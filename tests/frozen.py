"""Frozen networks beside the Keras models that they were made of."""

import re

import keras
import numpy as np

from networks import ON_TENSORFLOW, images_and_labels, randomize
from reset_keras.inference import freeze

IMAGES, LABELS = images_and_labels(32)


def outputs_of(network, images):
    return keras.ops.convert_to_numpy(network(images))


def expected_of(model, images=IMAGES):
    """Outputs by a call, for which nothing is compiled, as `predict` would for each network."""
    return keras.ops.convert_to_numpy(model(images, training=False))


def assert_equal_at_every_batch_size(network, model):
    expected = expected_of(model)
    assert outputs_of(network, IMAGES[:0]).shape == (0, *expected.shape[1:])
    for size in (1, 7, 32) if ON_TENSORFLOW else (1, 7):  # JAX compiles anew for each size
        np.testing.assert_allclose(outputs_of(network, IMAGES[:size]), expected[:size], atol=1e-4, rtol=1e-4)


def assert_frozen_equals(inputs, outputs):
    """A network of 3 channels with statistics unlike those of the start, frozen, computes what it did."""
    model = randomize(keras.Model(inputs, outputs))
    images = np.random.default_rng(0).normal(size=(3, 6, 6, 3)).astype("float32")
    np.testing.assert_allclose(outputs_of(freeze(model), images), expected_of(model, images), atol=1e-4, rtol=1e-4)


def plain_convolution():
    return keras.layers.Conv2D(3, 3, padding="same")


def triton_kernels(function, *arrays):
    """How many Triton kernels a function compiled by JAX becomes on a GPU; none is needed to find out."""
    lowered = function.trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    return len(re.findall(r"custom_call @\S*triton", lowered))
