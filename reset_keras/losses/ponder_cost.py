from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from reset_keras.argument_checks import check_real
from reset_keras.distribution import local_mean
from reset_keras.losses.loss_term import LossTerm

Tensor = Any


@keras.saving.register_keras_serializable("reset_keras")
class PonderCost(LossTerm):
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
        >>> model = ReSetNet((2,), input_shape=(8, 8, 1), scorer="gumbel_st", halting="act")
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("sgd", loss, ponder_cost=PonderCost(0.01))
        >>> round(float(model.ponder_cost.weight), 2)
        0.01
    """

    def __init__(self, weight: float) -> None:
        self.weight: Any = check_real("weight", weight, least=0.0)
        super().__init__(weight=self.weight)

    def build(self) -> None:
        """Turns the weight into a variable, once."""
        if not self.variables:
            self.weight = self._variable("ponder_weight", self.weight)

    def __call__(self, cost: Tensor) -> Tensor:
        """The loss of what `halting_sum` returns: a float32 scalar."""
        return self.weight * cost


def halting_sum(routes: Sequence[dict[str, Tensor]], name: str) -> Tensor:
    """`sum_modules mean_batch` of what halting adds to routes, over this replica's part: a float32 scalar.

    Args:
        routes: For each module a dict; where it has halting, with entries of shape `(batch, num_iterations)`.
        name: `"ponder"`, for `N + R`, or `"active"`, for N, how many iterations are run, of positions the mean.
    """
    costs = [ops.sum(local_mean(route[name])) for route in routes if name in route]
    return sum(costs, start=ops.zeros((), "float32"))
