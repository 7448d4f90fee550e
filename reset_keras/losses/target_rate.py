from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from reset_keras.argument_checks import check_integer, check_real, is_real
from reset_keras.distribution import global_mean
from reset_keras.losses.loss_term import LossTerm

Tensor = Any


@keras.saving.register_keras_serializable("reset_keras")
class TargetRate(LossTerm):
    """Holds each unit near a share of the images that run it: the loss of ConvNet-AIG (Veit and Belongie, 2018).

    It is `weight * mean_k (use_k - rate_k)^2`, where `use_k` is the mean over images of 1 minus the zero unit's score
    in iteration k (their section 3.3). So a unit may run for some kinds of images and not for others, but none is
    dropped or always run. The mean is over the global batch, as its square is not linear in the batch; iterations of
    modules without a zero unit are left out.

    The gradient goes through the zero unit's score: it needs a scorer that lets one through. The authors' is
    `"gumbel_st"`, with `GateController` and `allowed="sequential"`.

    The weight becomes a variable when a model is compiled with this object, so that `target_rate.weight.assign(0.0)`
    also reaches a compiled step.

    Args:
        rate: Float in [0, 1], or a sequence of them: the share for all iterations, or for each iteration of all modules
            with a zero unit, in order.
        weight: Float, 0 or above, in units of the loss. Default 2, as in the authors' training on CIFAR-10.

    Raises:
        ValueError: an argument is out of its range, or the number of rates is not the number of iterations.

    Examples:
        >>> target_rate = TargetRate(0.6)
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("sgd", loss, target_rate=target_rate)  # doctest: +SKIP
    """

    def __init__(self, rate: float | Sequence[float], weight: float = 2.0) -> None:
        rate = rate.tolist() if isinstance(rate, np.ndarray) else rate
        rates = rate if isinstance(rate, list | tuple) else (rate,)
        if not rates or not all(is_real(r) and 0.0 <= r <= 1.0 for r in rates):
            raise ValueError(f"`rate` must be a number in [0, 1], or a sequence of them. Received: rate={rate!r}")
        self.rate = [float(r) for r in rates] if isinstance(rate, list | tuple) else float(rates[0])
        self.weight: Any = check_real("weight", weight, least=0.0)
        super().__init__(rate=self.rate, weight=self.weight)

    def check_iterations(self, num_iterations: int) -> None:
        """Raises `ValueError` where rates were given for another number of iterations of modules with a zero unit."""
        check_integer("num_iterations", num_iterations, least=1)
        if isinstance(self.rate, list) and len(self.rate) != num_iterations:
            raise ValueError(
                f"`rate` must be one number, or one for each of the {num_iterations} iterations of modules with a zero "
                f"unit. Received: {len(self.rate)} numbers"
            )

    def build(self, num_iterations: int) -> None:
        """Turns the weight into a variable, once, for modules with `num_iterations` iterations in all.

        Raises:
            ValueError: there are rates for another number of iterations.
        """
        self.check_iterations(num_iterations)
        if not self.variables:
            self.weight = self._variable("target_rate_weight", self.weight)

    def __call__(self, deviation: Tensor) -> Tensor:
        """The loss of what `deviation` returns: a float32 scalar."""
        return self.weight * deviation

    def deviation(self, uses: Tensor) -> Tensor:
        """`mean_k (use_k - rate_k)^2` over the global batch: a float32 scalar.

        Args:
            uses: What `unit_uses` returns.
        """
        rates = ops.convert_to_tensor(self.rate, dtype="float32")
        return ops.mean(ops.square(global_mean(uses) - rates))


def unit_uses(all_scores: list[Tensor], zero_units: Sequence[bool]) -> Tensor:
    """What each iteration that may skip leaves to units, 1 minus the zero unit's score: float32, `(batch, iterations)`.

    Args:
        all_scores: For each module a tensor of shape `(batch, num_iterations, num_scores)`.
        zero_units: For each module, whether its last score is the zero unit's; others are left out.
    """
    skips = [scores[..., -1] for scores, zero_unit in zip(all_scores, zero_units, strict=True) if zero_unit]
    return 1.0 - ops.cast(ops.concatenate(skips, axis=1), "float32")
