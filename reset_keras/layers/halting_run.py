"""What halting adds to a module's iterations, in training and in frozen networks."""

from typing import Any

import numpy as np
from keras import ops

from reset_keras.layers.allowed import FORBIDDEN
from reset_keras.layers.halting import Halting, of_images

Tensor = Any
HALTING_ROUTES = ("active", "ponder")
"""Routes, of shape `(batch, num_iterations)`, that only modules with halting have."""


class HaltingRun:
    """One call of a module: who has halted, and the output so far.

    Args:
        halting: The module's `Halting`, or `None`, with which nothing ever halts.
        inputs: The module's features.
    """

    def __init__(self, halting: Halting | None, inputs: Tensor) -> None:
        self.halting = halting
        self._state = [] if halting is None else halting.initial_state(inputs)
        self._output: Any = 0.0
        self._active: list[Tensor] = []
        self._ponder: list[Tensor] = []

    def masked(self, logits: Tensor) -> Tensor:
        """The logits, `(batch, num_scores)`, those of images that have halted leaving only the zero unit."""
        if self.halting is None or not self._active:  # at first, nothing has halted
            return logits
        zero_unit = np.full((1, logits.shape[-1]), FORBIDDEN, "float32")
        zero_unit[:, -1] = 0.0
        runs = of_images(self._state[1]) > 0
        return ops.where(runs[:, None], logits, zero_unit)

    def step(self, x: Tensor, updated: Tensor, iteration: int) -> Tensor:
        """The features after an iteration that made `updated` of `x`."""
        if self.halting is None:
            return updated
        if self.halting.copies_halted and iteration:  # before the first iteration nothing has halted
            updated = ops.where(self._state[1] > 0, updated, x)
        (weights, active, ponder), self._state = self.halting(updated, self._state, iteration=iteration)
        self._output = self._output + ops.cast(weights, updated.dtype) * updated
        self._active.append(active)
        self._ponder.append(ponder)
        return updated

    def active_positions(self) -> Tensor | None:
        """1 at the positions that have not halted, else 0: float32, `(batch, height, width, 1)`.

        `None` where positions do not halt by themselves, and before the first iteration, which all run.
        """
        halts = self.halting is not None and self.halting.copies_halted and self._active
        return self._state[1] if halts else None

    def output(self, x: Tensor) -> Tensor:
        """The module's output, where `x` are its last features: `sum_k p_k x_k+1` with halting."""
        return x if self.halting is None else self._output

    def routes(self) -> dict[str, Tensor]:
        """`"active"` and `"ponder"`, float32, of shape `(batch, num_iterations)`; nothing without halting."""
        if self.halting is None:
            return {}
        columns = (self._active, self._ponder)
        return {name: ops.stack(parts, axis=1) for name, parts in zip(HALTING_ROUTES, columns, strict=True)}
