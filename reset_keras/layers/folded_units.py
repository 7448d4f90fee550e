"""A pool's units as pairs of convolutions: batch norms that are affine maps are folded into the kernels."""

import itertools
from typing import Any

from keras import ops

from reset_keras.layers.image_groups import groups_of, in_groups, in_order
from reset_keras.layers.iteration_batch_normalization import IterationBatchNormalization

Tensor = Any


def folded(pool: Any, inputs: Tensor, scores: Tensor, iteration: int) -> Tensor:
    """All units of a `ResidualPool` in two wide convolutions, with the scores in the features between them."""
    channels, units, dtype = inputs.shape[-1], pool.num_units, pool.compute_dtype
    (kernel1, offset1), (kernel2, offset2) = _fold_both(pool, iteration)
    kernel2 = ops.reshape(kernel2, (3, 3, channels, units, channels))
    kernel2 = ops.reshape(ops.transpose(kernel2, (0, 1, 3, 2, 4)), (3, 3, units * channels, channels))
    weights = ops.cast(scores[:, :units], "float32")
    offset2 = ops.matmul(weights, ops.reshape(offset2, (units, channels)))
    weights = ops.repeat(weights, channels, axis=-1)

    x = ops.relu(same_conv(inputs, ops.cast(kernel1, dtype)) + ops.cast(offset1, dtype))
    x = same_conv(x * ops.cast(weights, dtype)[:, None, None, :], ops.cast(kernel2, dtype))
    return x + ops.cast(offset2, dtype)[:, None, None, :]


def chosen(pool: Any, inputs: Tensor, scores: Tensor, iteration: int) -> Tensor:
    """Each unit of a `ResidualPool` for the images whose score for it is not zero, as if that were 1."""
    parameters = itertools.chain(*_fold_both(pool, iteration))
    by_unit = zip(*(ops.split(ops.cast(x, inputs.dtype), pool.num_units, axis=-1) for x in parameters), strict=True)
    groups = groups_of(scores, pool.num_units)
    parts = [
        same_conv(ops.relu(same_conv(part, kernel1) + offset1), kernel2) + offset2
        for part, (kernel1, offset1, kernel2, offset2) in zip(in_groups(inputs, groups), by_unit, strict=True)
    ]
    return in_order(parts, groups, ops.shape(inputs)[0])


def same_conv(inputs: Tensor, kernel: Tensor) -> Tensor:
    """A convolution whose outputs have the height and width of its inputs."""
    return ops.conv(inputs, kernel, padding="same", data_format="channels_last")


def _fold_both(pool: Any, iteration: int) -> list[tuple[Tensor, Tensor]]:
    """Kernel and offset of the first convolutions, and of the second ones."""
    norms = (pool.norm1, pool.norm2)
    return [_fold(kernel, norm, iteration) for kernel, norm in zip(pool.kernels_side_by_side(), norms, strict=True)]


def _fold(kernel: Any, norm: IterationBatchNormalization, iteration: int) -> tuple[Tensor, Tensor]:
    """Kernel and offset, float32, of a convolution with the batch norm after it at inference."""
    scale, offset = norm.affine_map(iteration)
    return ops.cast(kernel, "float32") * scale, offset
