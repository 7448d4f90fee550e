"""A folded unit at some positions of its features only, on TensorFlow: what is left of an image under SACT.

The features around each position are copied into a row of a matrix, which costs as much as the products of a
convolution to about 64 channels. So it pays where few positions are left, the fewer the fewer channels there are:
`python benchmarks/active_positions.py` measures where.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from reset_keras.inference.frozen.frozen_pool import constant

Tensor = Any
SHARE_OF_CHANNEL = 1 / 200
MOST = 0.3
"""The share of active positions from which on it does not pay, for each channel, and for any number of them."""


def pays(active: Tensor, channels: int) -> Tensor:
    """Whether the active positions are few enough: a boolean scalar.

    Args:
        active: Float tensor of shape `(batch, height, width, 1)`, 1 where a position is active, else 0.
        channels: Integer.
    """
    # TensorFlow is imported where it is used: frozen networks on JAX load this module too.
    import tensorflow as tf

    return tf.reduce_mean(active) < min(channels * SHARE_OF_CHANNEL, MOST)


def residual_at(x: Tensor, weights: Iterable[Any], dtype: str, active: Tensor) -> Tensor:
    """`F(x)` of a folded unit at its active positions, and 0 at the others; the shape of `x`.

    Args:
        x: Tensor of shape `(batch, height, width, channels)`.
        weights: Kernel and bias of the unit's two convolutions.
        dtype: The type that it computes in.
        active: As in `pays`.
    """
    import tensorflow as tf

    kernel1, bias1, kernel2, bias2 = weights
    # int64 as the places are: `scatter_nd` takes indices and shape of one type.
    shape = tf.shape(x, "int64")
    places = tf.where(active[..., 0] > 0)
    around = tf.where(tf.nn.max_pool2d(active, 3, 1, "SAME")[..., 0] > 0)  # what the second convolution looks at
    hidden = tf.scatter_nd(around, tf.nn.relu(_conv_at(x, around, kernel1, bias1, dtype)), shape)
    return tf.scatter_nd(places, _conv_at(hidden, places, kernel2, bias2, dtype), shape)


def _conv_at(x: Tensor, places: Tensor, kernel: np.ndarray, bias: np.ndarray, dtype: str) -> Tensor:
    """A convolution's outputs at some places: a tensor of shape `(places, channels)`."""
    import tensorflow as tf

    offsets = tf.constant([[0, row, column] for row in range(3) for column in range(3)], "int64")
    padded = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    rows = tf.gather_nd(padded, places[:, None] + offsets)
    rows = tf.reshape(rows, (-1, 9 * x.shape[-1]))
    return tf.matmul(rows, constant(kernel.reshape(-1, kernel.shape[-1]), dtype)) + constant(bias, dtype)
