"""Routes that are set beforehand, by a controller that does its ordinary work all the same."""

from typing import Any

import keras
import numpy as np
from keras import ops

from reset_keras.layers import RNNController

TABLE_SIZE = 4096


@keras.saving.register_keras_serializable("reset_keras_benchmarks")
class PrescribedController(RNNController):
    """An `RNNController` whose choice is overruled: image `i` of a batch takes route `i` of a table.

    What a route costs must not depend on what an untrained controller happens to choose. Units are drawn evenly.

    Args:
        num_scores: Integer, units and the zero unit.
        num_iterations: Integer, iterations of the module.
        skipped: Pair of integers, iterations without a unit: of images with an even place in the batch, with an odd.
    """

    def __init__(
        self,
        num_scores: int,
        num_iterations: int,
        skipped: tuple[int, int] = (0, 0),
        **kwargs: Any,
    ) -> None:
        super().__init__(num_scores, **kwargs)
        self.num_iterations, self.skipped = num_iterations, tuple(skipped)
        rng = np.random.default_rng(0)
        routes = rng.integers(0, num_scores - 1, (TABLE_SIZE, num_iterations))
        for place, route in enumerate(routes):
            route[rng.permutation(num_iterations)[: self.skipped[place % 2]]] = num_scores - 1
        self.table = 10.0 * np.eye(num_scores, dtype="float32")[routes]

    def call(self, inputs: Any, state: list[Any], iteration: int = 0) -> tuple[Any, list[Any]]:
        logits, state = super().call(inputs, state, iteration)
        prescribed = ops.convert_to_tensor(self.table[:, iteration])[: ops.shape(inputs)[0]]
        # Its own logits change no choice, but without them a compiler would leave out the controller's work.
        return 1e-6 * logits + prescribed, state

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_iterations": self.num_iterations, "skipped": self.skipped}
