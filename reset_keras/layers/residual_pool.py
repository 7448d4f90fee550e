from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from reset_keras.argument_checks import check_integer, integers
from reset_keras.distribution import has_gpu
from reset_keras.layers.folded_units import chosen, folded
from reset_keras.layers.frozen_parts import KeepsPartSettings, freeze_all_parts
from reset_keras.layers.iteration_batch_normalization import IterationBatchNormalization
from reset_keras.layers.load_unit import load_unit
from reset_keras.layers.residual_unit import ResidualUnit
from reset_keras.layers.trained_units import grouped, one_unit, split
from reset_keras.layers.unit_pool import Pool

Tensor = Any
SHARED = ("none", "second")
POOL_EXECUTIONS = ("auto", "split", "grouped", "chosen")
OLD_EXECUTIONS = ("folded", "sparse")
"""Names in older files, of what `"auto"` computes where they were used."""


@keras.saving.register_keras_serializable("reset_keras")
class ResidualPool(KeepsPartSettings, Pool):
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
        if shared not in SHARED:
            raise ValueError(f"`shared` must be one of {SHARED}. Received: shared={shared!r}")
        self.shared = shared
        self.num_units = check_integer("num_units", num_units, least=1)
        self.num_iterations = check_integer("num_iterations", num_iterations, least=1)
        self.per_iteration_affine = per_iteration_affine
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.execution = execution
        norm = {"per_iteration_affine": per_iteration_affine, "dtype": self.dtype_policy}
        self.norm1 = IterationBatchNormalization(self.num_iterations, name="norm1", **norm)
        self.norm2 = IterationBatchNormalization(self.num_iterations, name="norm2", **norm)
        self.fixed_statistics = fixed_statistics
        freeze_all_parts(self)

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
        execution = "auto" if execution in OLD_EXECUTIONS else execution
        if execution not in POOL_EXECUTIONS:
            raise ValueError(f"`execution` must be one of {POOL_EXECUTIONS}. Received: execution={execution!r}")
        self._execution = execution
        # Keras looks at this when a model is compiled with jit_compile="auto", its default.
        self.supports_jit = execution != "chosen" or keras.backend.backend() == "jax"

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
        if self.execution in ("auto", "chosen") and self.norms_are_fixed(training):
            runs_chosen = self.execution == "chosen" and keras.backend.backend() != "jax"
            return (chosen if runs_chosen else folded)(self, inputs, scores, iteration, units)
        is_grouped = self.execution == "grouped" or (self.execution != "split" and has_gpu())
        if is_grouped and len(units) == self.num_units:
            return grouped(self, inputs, scores, iteration, training, skips_unused)
        return split(self, inputs, scores, iteration, training, skips_unused, units)

    def _checked_units(self, units: Sequence[int]) -> Sequence[int]:
        found = integers(units, least=0, most=self.num_units - 1)
        if not found or len(set(found)) != len(found):
            raise ValueError(
                f"`units` must name different units, from 0 to {self.num_units - 1}. Received: units={units!r}"
            )
        return found

    def run_unit(self, index: int, inputs: Tensor, iteration: int = 0, training: bool | None = None) -> Tensor:
        """`F_index(inputs)` of one unit; in training its own moving statistics move, and no others."""
        check_integer("index", index, least=0, most=self.num_units - 1)
        return one_unit(self, index, inputs, iteration, training)

    def kernels_side_by_side(self) -> tuple[Tensor, Tensor]:
        """First and second kernels, each of shape `(3, 3, channels, num_units * channels)`, shared ones too."""
        kernel1, kernel2 = (ops.convert_to_tensor(kernel) for kernel in (self.kernel1, self.kernel2))
        return kernel1, ops.tile(kernel2, (1, 1, 1, self.num_units)) if self.shared == "second" else kernel2

    def norms_are_fixed(self, training: bool | None) -> bool:
        """Whether its batch norms use their moving statistics, and leave them unchanged."""
        return not any(norm.takes_batch_statistics(training) for norm in (self.norm1, self.norm2))

    def load_unit(self, index: int, unit: ResidualUnit) -> None:
        """Copies the weights of a built `ResidualUnit` of the pool's width into unit `index`.

        A unit that keeps one set of statistics gives it to every iteration. A shared kernel is that of unit 0; the
        others must have the same.

        Raises:
            ValueError: the pool or the unit is not built, `index` is not a unit of the pool, or the unit's width or
                number of iterations does not fit, or it has another kernel where the pool's units share one.
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
