"""Convolutions with the batch norms after them folded in, as numpy arrays."""

import dataclasses
from typing import Any

import keras
import numpy as np

from reset_keras.layers import IterationBatchNormalization, ResidualPool, ResidualUnit


@dataclasses.dataclass(frozen=True)
class FoldedUnits:
    """The residual units of a pool at inference: `F(x) = conv(relu(conv(x, kernel1) + bias1), kernel2) + bias2`.

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
    return FoldedUnits(*_fold_stacked(pool, pool.kernel1, pool.norm1), *_fold_stacked(pool, pool.kernel2, pool.norm2))


def fold_unit(unit: ResidualUnit) -> FoldedUnits:
    """A unit on its own, as a pool of one."""
    folded = (
        (*fold(unit.conv1.kernel, unit.norm1, k), *fold(unit.conv2.kernel, unit.norm2, k))
        for k in range(unit.num_iterations)
    )
    return FoldedUnits(*(np.stack(arrays)[:, None] for arrays in zip(*folded, strict=True)))


def fold(kernel: Any, norm: IterationBatchNormalization, iteration: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias, float32, of a convolution without bias followed by `norm` at inference."""
    scale, offset = (keras.ops.convert_to_numpy(part) for part in norm.affine_map(iteration))
    return keras.ops.convert_to_numpy(kernel).astype(np.float32) * scale, offset


def _fold_stacked(pool: ResidualPool, kernel: Any, norm: IterationBatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    kernels, biases = zip(*(fold(kernel, norm, k) for k in range(pool.num_iterations)), strict=True)
    per_unit = np.stack(kernels).reshape(pool.num_iterations, *kernel.shape[:3], pool.num_units, -1)
    return np.moveaxis(per_unit, -2, 1), np.stack(biases).reshape(pool.num_iterations, pool.num_units, -1)
