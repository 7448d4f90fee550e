import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from reset_keras.argument_checks import check_integer, integers
from reset_keras.distribution import global_mean, has_gpu, num_replicas
from reset_keras.layers.folded_units import chosen, folded, same_conv
from reset_keras.layers.iteration_batch_normalization import IterationBatchNormalization
from reset_keras.layers.load_unit import load_unit
from reset_keras.layers.residual_unit import ResidualUnit
from reset_keras.layers.unit_pool import Pool, weighted

Tensor = Any
SHARED = ("none", "second")
POOL_EXECUTIONS = ("auto", "split", "grouped", "chosen")
OLD_EXECUTIONS = {"folded": "auto", "sparse": "auto"}
"""Names in older files, of what `"auto"` computes where they were used."""


@keras.saving.register_keras_serializable("reset_keras")
class ResidualPool(Pool):
    """A pool of residual units of the input's width, with their weights stored side by side.

    It computes what `UnitPool([ResidualUnit(channels), ...])` computes, by the operations that are fastest where it
    runs. Unit `i` owns the channels `i * channels` to `(i + 1) * channels` of every weight.

    Args:
        num_units: Integer, number of units.
        num_iterations: Integer, iterations of the module; the batch norms keep statistics for each. Default 1.
        per_iteration_affine: Boolean, whether the batch norms' scale and offset are per iteration too. Default `False`.
        kernel_regularizer: Keras regularizer of the kernels, or `None`. Default `None`.
        execution: Which operations compute the result. The result is the same. Default `"auto"`.

            - `"split"`: unit by unit (to train on a CPU, where features that fit in its caches count).
            - `"grouped"`: the first convolutions as one, and the second ones as one grouped convolution (to train in a
              compiled step on a GPU).
            - `"auto"`: where batch norms use their moving statistics (at inference, with `fixed_statistics`, or where
              they are not trainable), these folded into the kernels, and scores into the features between them, which
              leaves two convolutions, `channels -> num_units * channels -> channels`. Elsewhere grouped where there is
              a GPU, and split where there is none.
            - `"chosen"`: each unit only for the images that chose it, with its batch norms folded. It needs hard
              scores: one that is not zero counts as 1, no image may have two of these, and they get no gradient. XLA
              cannot compile it. It runs as `"auto"` where that does not fold, and on JAX, where shapes must be known.
        fixed_statistics: Boolean, whether training too normalizes with the moving statistics and leaves them unchanged.
            Default `False`.
        shared: Which convolution the units have in common: `"none"`, or `"second"`, as in ShaResNet (Boulch, 2018),
            whose basic blocks share their second convolution within a stage. Its kernel is stored once; batch norms
            are each unit's own. Default `"none"`.

    Call arguments:
        inputs: Tensor of shape `(batch, height, width, channels)`.
        scores: Tensor of shape `(batch, num_units)` or `(batch, num_units + 1)`.
        iteration: Integer in `[0, num_iterations)`. Default 0.
        training: Boolean, passed to the batch norms.
        skips_unused: Boolean, whether the moving statistics of a unit stay as they are where its scores are zero for
            all images of the batch. Where units run one by one it is then left out, and its scores get no gradient.
            Default `False`.
        units: Sequence of integers, the units that may have other scores than zero, or `None` for all. Others are not
            computed, and their statistics stay as they are; `"grouped"` then runs unit by unit. Default `None`.

    Returns:
        Tensor of the inputs' shape, `sum_i scores[:, i] * F_i(inputs)`.

    Raises:
        ValueError: `num_units` or `num_iterations` is not positive, `execution` or `shared` is unknown, the input is
            not 4-dimensional, or `units` does not name different units of the pool.

    Examples:
        >>> pool = ResidualPool(num_units=5)
        >>> tuple(pool(keras.random.normal((2, 32, 32, 16)), keras.ops.ones((2, 6)) / 6).shape)
        (2, 32, 32, 16)
    """

    def __init__(
        self,
        num_units: int,
        num_iterations: int = 1,
        per_iteration_affine: bool = False,
        kernel_regularizer: Any = None,
        execution: str = "auto",
        fixed_statistics: bool = False,
        shared: str = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_integer("num_units", num_units, least=1)
        if shared not in SHARED:
            raise ValueError(f"`shared` must be one of {SHARED}. Received: shared={shared!r}")
        self.shared = shared
        self.num_units = num_units
        self.num_iterations = num_iterations
        self.per_iteration_affine = per_iteration_affine
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.execution = execution
        self.norm1 = self._norm("norm1")
        self.norm2 = self._norm("norm2")
        self.fixed_statistics = fixed_statistics

    @property
    def fixed_statistics(self) -> bool:
        """Whether its batch norms keep their statistics in training. It may be changed, before `compile`."""
        return bool(self.norm1.fixed_statistics)

    @fixed_statistics.setter
    def fixed_statistics(self, fixed: bool) -> None:
        self.norm1.fixed_statistics = self.norm2.fixed_statistics = fixed

    @property
    def execution(self) -> str:
        """Which operations compute the result. It may be changed; compile the model afterwards."""
        return self._execution

    @execution.setter
    def execution(self, execution: str) -> None:
        execution = OLD_EXECUTIONS.get(execution, execution)
        if execution not in POOL_EXECUTIONS:
            raise ValueError(f"`execution` must be one of {POOL_EXECUTIONS}. Received: execution={execution!r}")
        self._execution = execution
        self.supports_jit = execution != "chosen" or keras.backend.backend() == "jax"

    def _norm(self, name: str) -> IterationBatchNormalization:
        return IterationBatchNormalization(
            self.num_iterations, self.per_iteration_affine, name=name, dtype=self.dtype_policy
        )

    def build(self, inputs_shape: tuple, scores_shape: tuple | None = None) -> None:
        if len(inputs_shape) != 4:
            raise ValueError(
                "A pool of residual units works on images, (batch, height, width, channels). Received: an input of "
                f"shape {tuple(inputs_shape)}. For other features pass a list of layers as `units`."
            )
        channels = inputs_shape[-1]
        kernel = {"initializer": "he_normal", "regularizer": self.kernel_regularizer}
        kernels = 1 if self.shared == "second" else self.num_units
        self.kernel1 = self.add_weight(name="kernel1", shape=(3, 3, channels, self.num_units * channels), **kernel)
        self.kernel2 = self.add_weight(name="kernel2", shape=(3, 3, channels, kernels * channels), **kernel)
        stacked_shape = (*inputs_shape[:-1], self.num_units * channels)
        self.norm1.build(stacked_shape)
        self.norm2.build(stacked_shape)

    def call(
        self,
        inputs: Tensor,
        scores: Tensor,
        iteration: int = 0,
        training: bool | None = None,
        skips_unused: bool = False,
        units: Sequence[int] | None = None,
    ) -> Tensor:
        self.check_scores(scores)
        units = range(self.num_units) if units is None else self._checked_units(units)
        if self.execution in ("auto", "chosen") and self._norms_are_fixed(training):
            runs_chosen = self.execution == "chosen" and keras.backend.backend() != "jax"
            return (chosen if runs_chosen else folded)(self, inputs, scores, iteration, units)
        is_grouped = self.execution == "grouped" or (self.execution != "split" and has_gpu())
        if is_grouped and len(units) == self.num_units:
            return self._grouped(inputs, scores, iteration, training, skips_unused)
        return self._split(inputs, scores, iteration, training, skips_unused, units)

    def _checked_units(self, units: Sequence[int]) -> Sequence[int]:
        found = integers(units, least=0, most=self.num_units - 1)
        if not found or len(set(found)) != len(found):
            raise ValueError(
                f"`units` must name different units, from 0 to {self.num_units - 1}. Received: units={units!r}"
            )
        return found

    def _grouped(
        self, inputs: Tensor, scores: Tensor, iteration: int, training: bool | None, skips_unused: bool
    ) -> Tensor:
        kernel1, kernel2 = self.kernels_side_by_side()
        x, *first = self.norm1.normalize_part(same_conv(inputs, kernel1), 0, 1, iteration, training)
        x, *second = self.norm2.normalize_part(same_conv(ops.relu(x), kernel2), 0, 1, iteration, training)
        by_unit = ((ops.split(value, self.num_units) for value in values) for values in (first, second))
        statistics = [list(zip(*values, strict=True)) for values in by_unit]
        if not self._norms_are_fixed(training):
            self._move_statistics(statistics, iteration, self._used_by(scores) if skips_unused else None)
        return _weighted_sum(ops.split(x, self.num_units, axis=-1), scores)

    def _split(
        self,
        inputs: Tensor,
        scores: Tensor,
        iteration: int,
        training: bool | None,
        skips_unused: bool,
        units: Sequence[int],
    ) -> Tensor:
        kernels = self._kernels()
        # Replicas wait for each other's statistics: none of them may leave a unit out that another one needs.
        leaves_out = skips_unused and num_replicas() == 1

        def run(unit: int) -> tuple[Tensor, Any]:
            x, statistics = self._run(unit, inputs, kernels, iteration, training)
            return weighted(x, scores, unit), statistics

        def skip(unit: int) -> tuple[Tensor, Any]:
            return ops.zeros_like(inputs), self._moving_parts(unit, iteration)

        outputs, statistics = [], {}
        for unit in units:
            if leaves_out:
                forms = (functools.partial(form, unit) for form in (run, skip))
                output, statistics[unit] = ops.cond(ops.any(scores[:, unit] != 0), *forms)
            else:
                output, statistics[unit] = run(unit)
            outputs.append(output)
        if not self._norms_are_fixed(training):
            self._move_own_statistics(statistics, iteration, self._used_by(scores) if skips_unused else None)
        return sum(outputs[1:], start=outputs[0])

    def _used_by(self, scores: Tensor) -> Tensor:
        """Which units have a score that is not zero, in the whole batch: boolean, of shape `(num_units,)`."""
        return global_mean(ops.cast(scores != 0, "float32"))[: self.num_units] > 0

    def _move_own_statistics(self, found: dict[int, Any], iteration: int, moves: Tensor | None = None) -> None:
        """Moves the statistics of those units that have some of this batch; those of all others stay as they are."""
        everyone = range(self.num_units)
        if moves is None and len(found) < self.num_units:
            moves = ops.convert_to_tensor([unit in found for unit in everyone])
        statistics = [found[unit] if unit in found else self._moving_parts(unit, iteration) for unit in everyone]
        self._move_statistics(list(zip(*statistics, strict=True)), iteration, moves)

    def _move_statistics(self, statistics: Any, iteration: int, moves: Tensor | None) -> None:
        """Moves the moving statistics towards those of the batch: for each batch norm, mean and variance of each unit.

        With `moves`, booleans of shape `(num_units,)`, only those of these units.
        """
        for norm, own in zip((self.norm1, self.norm2), statistics, strict=True):
            norm.update(iteration, own, moves)

    def _moving_parts(self, unit: int, iteration: int) -> list[list[Tensor]]:
        """Of each batch norm the moving mean and variance of a unit."""
        return [[*norm.moving_part(unit, self.num_units, iteration)] for norm in (self.norm1, self.norm2)]

    def run_unit(self, index: int, inputs: Tensor, iteration: int = 0, training: bool | None = None) -> Tensor:
        """`F_index(inputs)` of one unit; in training its own moving statistics move, and no others."""
        check_integer("index", index, least=0, most=self.num_units - 1)
        outputs, statistics = self._run(index, inputs, self._kernels(), iteration, training)
        if not self._norms_are_fixed(training):
            self._move_own_statistics({index: statistics}, iteration)
        return outputs

    def kernels_side_by_side(self) -> tuple[Tensor, Tensor]:
        """First and second kernels, each of shape `(3, 3, channels, num_units * channels)`, shared ones too."""
        kernel1, kernel2 = (ops.convert_to_tensor(kernel) for kernel in (self.kernel1, self.kernel2))
        return kernel1, ops.tile(kernel2, (1, 1, 1, self.num_units)) if self.shared == "second" else kernel2

    def _kernels(self) -> list[list[Tensor]]:
        """First and second kernels of all units."""
        first, second = (ops.convert_to_tensor(kernel) for kernel in (self.kernel1, self.kernel2))
        of_units = [second] * self.num_units if self.shared == "second" else ops.split(second, self.num_units, axis=-1)
        return [ops.split(first, self.num_units, axis=-1), of_units]

    def _run(
        self, unit: int, inputs: Tensor, kernels: list[list[Tensor]], iteration: int, training: bool | None
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """A unit's output, and for each of its batch norms the mean and variance that it normalized with."""
        dtype = self.compute_dtype
        x: Tensor = ops.cast(inputs, dtype)  # Keras casts features and kernels in calls, and `run_unit` is none
        statistics: list[list[Tensor]] = []
        for norm, kernel in zip((self.norm1, self.norm2), kernels, strict=True):
            x = ops.relu(x) if statistics else x
            x = same_conv(x, ops.cast(kernel[unit], dtype))
            x, *own = norm.normalize_part(x, unit, self.num_units, iteration, training)
            statistics.append(own)
        return x, statistics

    def _norms_are_fixed(self, training: bool | None) -> bool:
        return not self.norm1.takes_batch_statistics(training)

    def load_unit(self, index: int, unit: ResidualUnit) -> None:
        """Copies the weights of a built `ResidualUnit` of the pool's width into unit `index`.

        A unit that keeps one set of statistics gives it to every iteration. A shared kernel is that of unit 0; the
        others must have the same.

        Raises:
            ValueError: `index` is not a unit of the pool, or the unit's width or number of iterations does not fit, or
                it has another kernel where the pool's units share one.
        """
        load_unit(self, index, unit)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_units": self.num_units,
            "num_iterations": self.num_iterations,
            "per_iteration_affine": self.per_iteration_affine,
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "execution": self.execution,
            "fixed_statistics": self.fixed_statistics,
            "shared": self.shared,
        }


def _weighted_sum(parts: list[Tensor], scores: Tensor) -> Tensor:
    outputs = [weighted(part, scores, unit) for unit, part in enumerate(parts)]
    return sum(outputs[1:], start=outputs[0])
