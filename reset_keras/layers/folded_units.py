"""A pool's units as pairs of convolutions: batch norms that are affine maps are folded into the kernels."""

import itertools
from collections.abc import Sequence
from typing import Any

from keras import ops

from reset_keras.layers.image_groups import groups_of, in_groups, in_order

Tensor = Any


def folded(pool: Any, inputs: Tensor, scores: Tensor, iteration: int, units: Sequence[int]) -> Tensor:
    """Units of a `ResidualPool` in two wide convolutions, with the scores in the features between them."""
    channels, count, dtype = inputs.shape[-1], len(units), pool.compute_dtype
    (kernel1, offset1), (kernel2, offset2) = _fold_both(pool, iteration, units)
    # The units go from the last axis, the outputs, to the inputs' axis: the second convolution then sums over them.
    kernel2 = ops.reshape(kernel2, (3, 3, channels, count, channels))
    kernel2 = ops.reshape(ops.transpose(kernel2, (0, 1, 3, 2, 4)), (3, 3, count * channels, channels))
    weights = _of_units(ops.cast(scores[:, : pool.num_units], "float32"), units, pool.num_units)
    # Scores multiply the second convolution's inputs. Its offsets are added after it, so they are weighted here.
    offset2 = ops.matmul(weights, ops.reshape(offset2, (count, channels)))
    weights = ops.repeat(weights, channels, axis=-1)

    x = ops.relu(same_conv(inputs, ops.cast(kernel1, dtype)) + ops.cast(offset1, dtype))
    x = same_conv(x * ops.cast(weights, dtype)[:, None, None, :], ops.cast(kernel2, dtype))
    return x + ops.cast(offset2, dtype)[:, None, None, :]


def chosen(pool: Any, inputs: Tensor, scores: Tensor, iteration: int, units: Sequence[int]) -> Tensor:
    """Each of these units of a `ResidualPool` for the images whose score for it is not zero, as if that were 1."""
    parameters = itertools.chain(*_fold_both(pool, iteration, units))
    by_unit = zip(*(ops.split(ops.cast(x, inputs.dtype), len(units), axis=-1) for x in parameters), strict=True)
    groups = groups_of(scores, units)
    parts = [
        same_conv(ops.relu(same_conv(part, kernel1) + offset1), kernel2) + offset2
        for part, (kernel1, offset1, kernel2, offset2) in zip(in_groups(inputs, groups), by_unit, strict=True)
    ]
    return in_order(parts, groups, ops.shape(inputs)[0])


def with_affine_map(kernel: Tensor, scale: Tensor, offset: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Kernel and bias, float32, of a convolution that `scale * x + offset` follows; by itself it may have a bias."""
    if bias is not None:
        offset = offset + scale * ops.cast(bias, "float32")
    # In float32, so that a product is rounded to another type only once.
    return ops.cast(kernel, "float32") * scale, offset


def same_conv(inputs: Tensor, kernel: Tensor) -> Tensor:
    """A convolution whose outputs have the height and width of its inputs."""
    return ops.conv(inputs, kernel, padding="same", data_format="channels_last")


def _fold_both(pool: Any, iteration: int, units: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Kernel and offset of the first convolutions of these units, and of the second ones."""
    pairs = []
    for kernels, norm in zip(pool.kernels_side_by_side(), (pool.norm1, pool.norm2), strict=True):
        parts = (kernels, *norm.affine_map(iteration))
        pairs.append(with_affine_map(*(_of_units(part, units, pool.num_units) for part in parts)))
    return pairs


def _of_units(x: Tensor, units: Sequence[int], num_units: int) -> Tensor:
    """Of a tensor that holds something of each unit, side by side on its last axis, the parts of these units."""
    if len(units) == num_units:
        return x
    parts = ops.split(x, num_units, axis=-1)
    return ops.concatenate([parts[unit] for unit in units], axis=-1)
