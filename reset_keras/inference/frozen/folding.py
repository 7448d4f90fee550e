"""Convolutions with the batch norms after them folded in, as numpy arrays."""

from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from keras import ops

from reset_keras.layers import IterationBatchNormalization, ResidualPool, ResidualUnit
from reset_keras.layers.folded_units import with_affine_map

BatchNorm: TypeAlias = IterationBatchNormalization | keras.layers.BatchNormalization


class FoldedUnits(NamedTuple):
    """Residual units at inference: `F(x) = conv(relu(conv(x, kernel1) + bias1), kernel2) + bias2`.

    Args:
        kernel1: Float32 array of shape `(num_iterations, num_units, 3, 3, channels, channels)`.
        bias1: Float32 array of shape `(num_iterations, num_units, channels)`.
        kernel2: As `kernel1`.
        bias2: As `bias1`.
    """

    kernel1: np.ndarray
    bias1: np.ndarray
    kernel2: np.ndarray
    bias2: np.ndarray


def fold_pool(pool: ResidualPool) -> FoldedUnits:
    """The units of a pool, with kernels for each iteration, which have its statistics folded in."""
    (kernel1, kernel2), count = pool.kernels_side_by_side(), pool.num_units
    return FoldedUnits(*_fold_units(kernel1, pool.norm1, count), *_fold_units(kernel2, pool.norm2, count))


def fold_unit(unit: ResidualUnit) -> FoldedUnits:
    """A unit, as a pool of one."""
    return FoldedUnits(*_fold_units(unit.conv1.kernel, unit.norm1), *_fold_units(unit.conv2.kernel, unit.norm2))


def affine_map(norm: BatchNorm, iteration: int = 0) -> tuple[Any, Any]:
    """The map `scale * x + offset` that a batch norm is at inference, float32, each of shape `(channels,)`."""
    if isinstance(norm, IterationBatchNormalization):
        return norm.affine_map(iteration)
    scale = ops.rsqrt(ops.cast(norm.moving_variance, "float32") + norm.epsilon)
    if norm.scale:
        scale = scale * ops.cast(norm.gamma, "float32")
    offset = -ops.cast(norm.moving_mean, "float32") * scale
    return scale, offset + ops.cast(norm.beta, "float32") if norm.center else offset


def fold(kernel: Any, norm: BatchNorm, iteration: int = 0, bias: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias, float32, of a convolution, by itself without a bias or with one, and `norm` at inference."""
    kernel, bias = with_affine_map(kernel, *affine_map(norm, iteration), bias)
    return ops.convert_to_numpy(kernel), ops.convert_to_numpy(bias)


def _fold_units(kernel: Any, norm: IterationBatchNormalization, num_units: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Kernels and biases by iteration and unit; `kernel` has those of the units side by side."""
    kernels, biases = zip(*(fold(kernel, norm, k) for k in range(norm.num_iterations)), strict=True)
    per_unit = np.stack(kernels).reshape(len(kernels), *kernel.shape[:3], num_units, -1)
    return np.moveaxis(per_unit, -2, 1), np.stack(biases).reshape(len(biases), num_units, -1)
