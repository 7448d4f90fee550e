from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from reset_keras.argument_checks import check_real
from reset_keras.distribution import local_mean

Tensor = Any


@keras.saving.register_keras_serializable("reset_keras")
class PonderCost:
    """What modules with `halting` pay for their iterations: `weight * sum_modules mean_batch(N + R)`.

    `N + R`, iterations and remainder, is the ponder cost of Graves 2016 (section 2.1); Figurnov et al. 2017 add it up
    over the modules of a network, with weights of 0.01 and 0.005. With `SACT` it is the mean over an image's positions.
    Its gradient makes the scores of all iterations before the last one larger, so that images halt earlier.

    The weight becomes a variable when a model is compiled with this object, so that `ponder_cost.weight.assign(0.02)`
    also reaches a compiled step.

    Args:
        weight: Float, 0 or above, in loss per iteration. 0 asks for no fewer iterations than the task does.

    Raises:
        ValueError: the weight is negative, no number, or not finite.

    Examples:
        >>> model = ReSetNet((2, 2), input_shape=(8, 8, 1), scorer="gumbel_st", halting="act")
        >>> model.compile("sgd", "sparse_categorical_crossentropy", ponder_cost=PonderCost(0.01))
        >>> round(float(model.ponder_cost.weight), 2)
        0.01
    """

    def __init__(self, weight: float) -> None:
        check_real("weight", weight, least=0.0)
        self._initial = float(weight)
        self.weight: Any = float(weight)
        self.variables: list[Any] = []

    def build(self) -> None:
        """Turns the weight into a variable, once."""
        if not self.variables:
            self.weight = keras.Variable(self.weight, trainable=False, dtype="float32", name="ponder_weight")
            self.variables = [self.weight]

    def __call__(self, cost: Tensor) -> Tensor:
        """The loss of what `mean_ponder_cost` returns: a float32 scalar."""
        return self.weight * cost

    def get_config(self) -> dict[str, Any]:
        return {"weight": self._initial}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PonderCost":
        return cls(**config)


def mean_ponder_cost(routes: Sequence[dict[str, Tensor]]) -> Tensor:
    """`sum_modules mean_batch(N + R)` over this replica's part of the batch: a float32 scalar.

    Args:
        routes: For each module a dict, with `"ponder"`, of shape `(batch, num_iterations)`, where it has halting.
    """
    return _sum_of_means(routes, "ponder")


def mean_iterations(routes: Sequence[dict[str, Tensor]]) -> Tensor:
    """`sum_modules mean_batch N`, of positions the mean: how many iterations modules with halting run, as a scalar.

    Args:
        routes: For each module a dict, with `"active"`, of shape `(batch, num_iterations)`, where it has halting.
    """
    return _sum_of_means(routes, "active")


def _sum_of_means(routes: Sequence[dict[str, Tensor]], name: str) -> Tensor:
    costs = [ops.sum(local_mean(route[name])) for route in routes if name in route]
    return sum(costs, start=ops.zeros((), "float32"))
