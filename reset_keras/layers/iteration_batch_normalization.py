from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from reset_keras.argument_checks import check_integer, check_real, is_integer
from reset_keras.layers.batch_normalize import batch_normalize, normalize_by

Tensor = Any


@keras.saving.register_keras_serializable("reset_keras")
class IterationBatchNormalization(keras.layers.Layer):
    """Batch normalization that keeps separate statistics for every iteration of a recurrent module.

    The features of a ReSet change from one iteration to the next, so one running average fits none of them. It is
    recommended by Jastrzebski et al. (2017) and used in section 4 of the paper.

    Statistics of a training batch are taken over the global batch when several replicas train together. A frozen layer
    (`trainable = False`) normalizes with its moving statistics and does not change them, as `BatchNormalization` does.
    One with `fixed_statistics` does so too, while its scale and offset are trained.

    Under every dtype policy it computes in float32, under `"float64"` too; its outputs have the policy's type.

    Args:
        num_iterations: Integer, how many iterations share this layer. Default 1: ordinary batch normalization.
        per_iteration_affine: Boolean, whether scale and offset are per iteration too. Default `False`.
        momentum: Float in [0, 1), weight of the past in the moving statistics, per training batch. Default 0.9.
        epsilon: Float, 0 or above, added to the variance. Default 1e-5.
        fixed_statistics: Boolean, whether training normalizes with the moving statistics too, and does not change them.
            It may be changed; compile the model afterwards. Default `False`.

    Call arguments:
        inputs: Tensor of shape `(batch, ..., channels)`.
        iteration: Integer in `[0, num_iterations)`. Default 0.
        training: Boolean, whether the batch's own statistics are used.

    Returns:
        Tensor of the inputs' shape.

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> layer = IterationBatchNormalization(num_iterations=5)
        >>> tuple(layer(keras.random.normal((2, 8, 8, 16)), iteration=4).shape)
        (2, 8, 8, 16)
    """

    def __init__(
        self,
        num_iterations: int = 1,
        per_iteration_affine: bool = False,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        fixed_statistics: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_iterations = check_integer("num_iterations", num_iterations, least=1)
        self.per_iteration_affine = per_iteration_affine
        self.momentum = check_real("momentum", momentum, least=0, below=1)
        self.epsilon = check_real("epsilon", epsilon, least=0)
        self.fixed_statistics = fixed_statistics
        self.gammas: list[Any] = []
        self.betas: list[Any] = []
        self.moving_means: list[Any] = []
        self.moving_variances: list[Any] = []

    def build(self, input_shape: tuple) -> None:
        affine = {"shape": (input_shape[-1],), "autocast": False}
        for k in range(self.num_iterations if self.per_iteration_affine else 1):
            self.gammas.append(self.add_weight(name=f"gamma_{k}", initializer="ones", **affine))
            self.betas.append(self.add_weight(name=f"beta_{k}", initializer="zeros", **affine))
        # Each replica assigns these in its step: an aggregation keeps the replicas' copies equal.
        moving = {**affine, "trainable": False, "aggregation": "mean"}
        for k in range(self.num_iterations):
            self.moving_means.append(self.add_weight(name=f"moving_mean_{k}", initializer="zeros", **moving))
            self.moving_variances.append(self.add_weight(name=f"moving_variance_{k}", initializer="ones", **moving))

    def call(self, inputs: Tensor, iteration: int = 0, training: bool | None = None) -> Tensor:
        outputs, *statistics = self.normalize_part(inputs, 0, 1, iteration, training)
        if self.takes_batch_statistics(training):
            self.update(iteration, [statistics])
        return outputs

    def normalize_part(
        self, inputs: Tensor, part: int, num_parts: int, iteration: int = 0, training: bool | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalizes one of `num_parts` equal parts of the channels, and leaves the moving statistics as they are.

        Args:
            inputs: Tensor of shape `(batch, ..., channels / num_parts)`, the features of that part.
            part: Integer in `[0, num_parts)`.
            num_parts: Integer, a divisor of the layer's channels.
            iteration: Integer in `[0, num_iterations)`. Default 0.
            training: Boolean, whether the batch's own statistics are used.

        Returns:
            The outputs, and the mean and the variance that they were normalized with: what `update` takes.

        Raises:
            ValueError: there is no such part or iteration.
        """
        check_integer("num_parts", num_parts, least=1)
        check_integer("part", part, least=0, most=num_parts - 1)
        inputs = ops.cast(inputs, self.compute_dtype)
        gamma, beta = (ops.split(weight, num_parts)[part] for weight in self.scale_and_offset(iteration))
        if self.takes_batch_statistics(training):
            return batch_normalize(inputs, gamma, beta, self.epsilon)
        mean, variance = (ops.split(moving, num_parts)[part] for moving in self._moving_statistics(iteration))
        return normalize_by(inputs, mean, variance, gamma, beta, self.epsilon), mean, variance

    def update(self, iteration: int, statistics: Sequence[Sequence[Tensor]], moves: Tensor | None = None) -> None:
        """Moves the moving statistics towards those of a batch.

        Args:
            iteration: Integer, the iteration whose statistics they are.
            statistics: Mean and variance of each part of the channels, or of all.
            moves: Booleans of shape `(parts,)`, the equal parts that are moved, or `None` for all. Default `None`.
        """
        self._check_iteration(iteration)
        kinds = (self.moving_means, self.moving_variances)
        for variables, parts in zip(kinds, zip(*statistics, strict=True), strict=True):
            moving, batch = variables[iteration], ops.concatenate(parts)
            old = ops.cast(moving.value, "float32")
            new = old * self.momentum + batch * (1.0 - self.momentum)
            if moves is not None:
                new = ops.where(ops.repeat(moves, new.shape[0] // moves.shape[0]), new, old)
            moving.assign(new)

    def takes_batch_statistics(self, training: bool | None) -> bool:
        """Whether a call normalizes with the statistics of its batch; else the layer is an affine map."""
        return bool(training) and self.trainable and not self.fixed_statistics

    def scale_and_offset(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Scale and offset of an iteration, float32, each of shape `(channels,)`."""
        self._check_iteration(iteration)
        index = iteration if self.per_iteration_affine else 0
        # The casts are for policies such as "float64" and "bfloat16", under which the weights have that type.
        return ops.cast(self.gammas[index], "float32"), ops.cast(self.betas[index], "float32")

    def affine_map(self, iteration: int) -> tuple[Tensor, Tensor]:
        """The affine map `scale * x + offset` that this layer is at inference, float32, each of shape `(channels,)`."""
        gamma, beta = self.scale_and_offset(iteration)
        mean, variance = self._moving_statistics(iteration)
        scale = gamma * ops.rsqrt(variance + self.epsilon)
        return scale, beta - mean * scale

    def _moving_statistics(self, iteration: int) -> tuple[Tensor, Tensor]:
        self._check_iteration(iteration)
        mean, variance = self.moving_means[iteration].value, self.moving_variances[iteration].value
        return ops.cast(mean, "float32"), ops.cast(variance, "float32")

    def _check_iteration(self, iteration: int) -> None:
        if not is_integer(iteration) or not 0 <= iteration < self.num_iterations:
            raise ValueError(
                f"Layer '{self.name}' keeps statistics for iterations 0 to {self.num_iterations - 1}, integers. "
                f"Received: iteration={iteration!r}. For more iterations build it with a larger `num_iterations`."
            )

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_iterations": self.num_iterations,
            "per_iteration_affine": self.per_iteration_affine,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "fixed_statistics": self.fixed_statistics,
        }
