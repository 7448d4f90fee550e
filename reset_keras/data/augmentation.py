"""Random crops and mirror images, a batch at a time, without state: equal seeds give equal batches."""

from typing import Any

import numpy as np


def padded(images: np.ndarray, padding: int, mean: np.ndarray) -> np.ndarray:
    """Images with a border of the mean colour, which normalization turns into zeros: done once, not in each batch.

    Args:
        images: uint8 array of shape `(count, height, width, channels)`.
        padding: Integer, pixels on each side, not negative.
        mean: Array of shape `(channels,)`, 0 to 255.

    Returns:
        uint8 array of shape `(count, height + 2 * padding, width + 2 * padding, channels)`.
    """
    count, height, width, channels = images.shape
    canvas = np.empty((count, height + 2 * padding, width + 2 * padding, channels), np.uint8)
    canvas[...] = np.round(mean).astype(np.uint8)
    canvas[:, padding : padding + height, padding : padding + width] = images
    return canvas


def crop_and_mirror(images: Any, image_shape: tuple[int, int, int], mirrored: Any, seed: Any) -> Any:
    """A crop at random of each padded image, and the mirror image of those that are named.

    Args:
        images: Tensor of shape `(batch, height + 2 * padding, width + 2 * padding, channels)`.
        image_shape: Height, width and channels of the crops.
        mirrored: Boolean tensor of shape `(batch,)`.
        seed: Integer tensor of shape `(2,)`, for TensorFlow's stateless generators.

    Returns:
        Tensor of shape `(batch, height, width, channels)`, of the images' type.
    """
    import tensorflow as tf

    height, width, _ = image_shape
    batch, choices = tf.shape(images)[0], images.shape[1] - height + 1
    seeds = tf.random.split(seed, 2)

    def positions(length: int, seed: Any) -> Any:
        starts = tf.random.stateless_uniform((batch, 1), seed, maxval=choices, dtype=tf.int32)
        return starts, tf.range(length)[tf.newaxis]

    first_row, rows = positions(height, seeds[0])
    first_column, columns = positions(width, seeds[1])
    # By indices, for a batch at once: TensorFlow's random crop would cut all of its images at the same place.
    columns = tf.where(mirrored[:, tf.newaxis], width - 1 - columns, columns)
    cropped = tf.gather(images, first_row + rows, axis=1, batch_dims=1)
    return tf.gather(cropped, first_column + columns, axis=2, batch_dims=1)
