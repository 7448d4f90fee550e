"""Running only the chosen units of a pool, on TensorFlow: images in groups by unit, or one image by a branch.

For inference: an empty group has no gradient on every device.
"""

from collections.abc import Callable
from typing import Any

Tensor = Any
Unit = Callable[[int, Tensor], Tensor]


def run_chosen(residual: Unit, x: Tensor, choice: Tensor, num_units: int, rest: Callable[[Tensor], Tensor]) -> Tensor:
    """Each image through the one unit that was chosen for it.

    The images of a unit are gathered, run as one batch, and put back in their places.

    Args:
        residual: Function of a unit's index and features, `(group, ...)`, that returns the next features.
        x: Tensor of shape `(batch, ...)`.
        choice: Int32 tensor of shape `(batch,)`: the unit of each image, `num_units` for none.
        num_units: Integer, number of units.
        rest: Function for the features of the images without a unit.

    Returns:
        Tensor of the shape of `x`.
    """
    import tensorflow as tf

    groups = tf.dynamic_partition(tf.range(tf.shape(x)[0]), choice, num_units + 1)
    parts = [residual(index, tf.gather(x, groups[index])) for index in range(num_units)]
    stitched = tf.dynamic_stitch(groups, [*parts, rest(tf.gather(x, groups[num_units]))])
    return tf.ensure_shape(stitched, x.shape)


def run_scored(run_unit: Unit, x: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The sum of the units whose score is above a threshold, each computed only for those images.

    Args:
        run_unit: Function of a unit's index and features that returns `F_index(features)`.
        x: Tensor of shape `(batch, ...)`.
        scores: Tensor of shape `(batch, num_units)`.
        threshold: Float, 0 or above; a unit whose score is not above it in size is left out.

    Returns:
        Tensor of the shape of `x`, `sum_i scores[:, i] * F_i(x)` over the units that are left.
    """
    import tensorflow as tf

    total = tf.zeros_like(x)
    for index in range(scores.shape[-1]):
        rows = tf.where(tf.abs(scores[:, index]) > threshold)
        weights = tf.gather_nd(scores[:, index], rows)
        weights = tf.reshape(weights, [-1] + [1] * (len(x.shape) - 1))
        part = run_unit(index, tf.gather_nd(x, rows)) * tf.cast(weights, x.dtype)
        total = tf.tensor_scatter_nd_add(total, rows, part)
    return tf.ensure_shape(total, x.shape)


def branch_scored(run_unit: Unit, x: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """`run_scored` for a batch of one: a branch around each unit."""
    import tensorflow as tf

    total = tf.zeros_like(x)
    for index in range(scores.shape[-1]):
        score = scores[0, index]
        total = tf.cond(
            tf.abs(score) > threshold,
            lambda total=total, index=index, score=score: total + run_unit(index, x) * tf.cast(score, x.dtype),
            lambda total=total: total,
        )
    return tf.ensure_shape(total, x.shape)
