"""A pool's units while batch norms may use a batch's statistics: in wide operations, or unit by unit."""

import functools
from collections.abc import Sequence
from typing import Any

from keras import ops

from reset_keras.distribution import global_mean, num_replicas
from reset_keras.layers.folded_units import same_conv
from reset_keras.layers.unit_pool import weighted

Tensor = Any


def grouped(
    pool: Any, inputs: Tensor, scores: Tensor, iteration: int, training: bool | None, skips_unused: bool
) -> Tensor:
    """All units of a `ResidualPool`: the first convolutions as one, the second ones as one grouped convolution."""
    kernel1, kernel2 = pool.kernels_side_by_side()
    # Calls of the norms would also move the statistics of unused units. The second convolution is a grouped one since
    # its kernel has fewer input channels than `x`.
    x, *first = pool.norm1.normalize_part(same_conv(inputs, kernel1), 0, 1, iteration, training)
    x, *second = pool.norm2.normalize_part(same_conv(ops.relu(x), kernel2), 0, 1, iteration, training)
    if not pool.norms_are_fixed(training):
        used = _used_by(pool, scores) if skips_unused else None
        for norm, statistics in ((pool.norm1, first), (pool.norm2, second)):
            if norm.takes_batch_statistics(training):
                norm.update(iteration, [statistics], used)
    outputs = [weighted(part, scores, unit) for unit, part in enumerate(ops.split(x, pool.num_units, axis=-1))]
    return sum(outputs[1:], start=outputs[0])


def split(
    pool: Any,
    inputs: Tensor,
    scores: Tensor,
    iteration: int,
    training: bool | None,
    skips_unused: bool,
    units: Sequence[int],
) -> Tensor:
    """These units of a `ResidualPool`, one after the other; with `skips_unused` only those that some image uses."""
    kernels = _kernels(pool)
    # Replicas wait for each other's statistics: none of them may leave a unit out that another one needs.
    leaves_out = skips_unused and num_replicas() == 1

    def run(unit: int) -> tuple[Tensor, Any]:
        x, statistics = _run(pool, unit, inputs, kernels, iteration, training)
        return weighted(x, scores, unit), statistics

    def skip() -> tuple[Tensor, Any]:
        nothing = ops.zeros((inputs.shape[-1],), "float32")  # instead of statistics: those of unused units stay
        return ops.zeros_like(inputs), [[nothing, nothing], [nothing, nothing]]

    outputs, statistics = [], {}
    for unit in units:
        runs = functools.partial(run, unit)
        output, statistics[unit] = ops.cond(ops.any(scores[:, unit] != 0), runs, skip) if leaves_out else runs()
        outputs.append(output)
    if not pool.norms_are_fixed(training):
        _move_statistics(pool, statistics, iteration, training, _used_by(pool, scores) if skips_unused else None)
    return sum(outputs[1:], start=outputs[0])


def one_unit(pool: Any, unit: int, inputs: Tensor, iteration: int, training: bool | None) -> Tensor:
    """One unit of a `ResidualPool`, without a score; its own moving statistics move, and no others."""
    outputs, statistics = _run(pool, unit, inputs, _kernels(pool), iteration, training)
    if not pool.norms_are_fixed(training):
        _move_statistics(pool, {unit: statistics}, iteration, training)
    return outputs


def _run(
    pool: Any, unit: int, inputs: Tensor, kernels: list[list[Tensor]], iteration: int, training: bool | None
) -> tuple[Tensor, list[list[Tensor]]]:
    """A unit's output, and for each of its batch norms the mean and variance that it normalized with."""
    dtype = pool.compute_dtype  # Keras casts features and kernels in calls, and `run_unit` is none
    kernel1, kernel2 = (ops.cast(kernel[unit], dtype) for kernel in kernels)
    place = (unit, pool.num_units, iteration, training)
    x, *first = pool.norm1.normalize_part(same_conv(ops.cast(inputs, dtype), kernel1), *place)
    x, *second = pool.norm2.normalize_part(same_conv(ops.relu(x), kernel2), *place)
    return x, [first, second]


def _kernels(pool: Any) -> list[list[Tensor]]:
    # Not `pool.kernels_side_by_side()`, which would copy a shared kernel for each unit.
    first, second = (ops.convert_to_tensor(kernel) for kernel in (pool.kernel1, pool.kernel2))
    of_units = [second] * pool.num_units if pool.shared == "second" else ops.split(second, pool.num_units, axis=-1)
    return [ops.split(first, pool.num_units, axis=-1), of_units]


def _used_by(pool: Any, scores: Tensor) -> Tensor:
    """Which units have a score that is not zero, in the whole batch: boolean, of shape `(num_units,)`."""
    return global_mean(ops.cast(scores != 0, "float32"))[: pool.num_units] > 0


def _move_statistics(
    pool: Any, found: dict[int, Any], iteration: int, training: bool | None, moves: Tensor | None = None
) -> None:
    """Moves the statistics of those units that have some of this batch; those of all others stay as they are.

    With `moves`, booleans of shape `(num_units,)`, only those of these units move.
    """
    if len(found) < pool.num_units:
        own = ops.convert_to_tensor([unit in found for unit in range(pool.num_units)])
        moves = own if moves is None else ops.logical_and(own, moves)
    some = next(iter(found.values()))  # stand in for those that do not move
    statistics = [found.get(unit, some) for unit in range(pool.num_units)]
    for norm, own in zip((pool.norm1, pool.norm2), zip(*statistics, strict=True), strict=True):
        if norm.takes_batch_statistics(training):
            norm.update(iteration, own, moves)
