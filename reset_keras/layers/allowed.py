"""What an iteration may choose: masks over a module's scores."""

from typing import Any

import numpy as np
from keras import ops

Tensor = Any
FORBIDDEN = -1e9
"""Logit of a choice that is not allowed.

Its probability is exactly 0. It is not minus infinity, since 0 times that is not a number.
"""


class Allowed:
    """The choices that each iteration of a module has.

    Args:
        allowed: `"any"`; `"sequential"`, in iteration k unit k, or the zero unit where there is one; or an array of
            booleans, `(num_iterations, num_scores)`.
        num_iterations: Integer.
        num_units: Integer.
        zero_unit: Boolean.

    Raises:
        ValueError: the mask has another shape, holds something else than booleans, or leaves an iteration no choice; or
            there are more iterations than units to be run in their order.
    """

    def __init__(self, allowed: Any, num_iterations: int, num_units: int, zero_unit: bool) -> None:
        shape = (num_iterations, num_units + int(zero_unit))
        in_order = np.eye(*shape, dtype=bool)
        in_order[:, num_units:] = True
        if isinstance(allowed, str) and allowed == "sequential":
            if num_iterations > num_units:
                raise ValueError(
                    "allowed='sequential' runs unit k in iteration k, and needs at least as many units as iterations. "
                    f"Received: {num_units} units and {num_iterations} iterations"
                )
            mask = in_order
        elif isinstance(allowed, str) and allowed == "any":
            mask = np.ones(shape, bool)
        else:
            mask = _checked(allowed, shape)
        self.mask = mask
        self.is_sequential = num_iterations <= num_units and not (mask & ~in_order).any()
        self.config = allowed if isinstance(allowed, str) else mask.tolist()
        self._num_units = num_units

    def masked(self, logits: Tensor, iteration: int) -> Tensor:
        """The logits, `(batch, num_scores)`, those of choices that are not allowed far below all others."""
        mask = self.mask[iteration]
        return logits if mask.all() else ops.where(mask, logits, FORBIDDEN)

    def units(self, iteration: int) -> list[int]:
        """The units that may be run in an iteration."""
        return [int(unit) for unit in np.flatnonzero(self.mask[iteration][: self._num_units])]

    def check_route(self, route: list[int]) -> None:
        """Raises `ValueError` unless a route, the same for all images, is allowed."""
        # A route may be longer than the module has iterations.
        for k, (choice, mask) in enumerate(zip(route, self.mask, strict=False)):
            if not mask[choice]:
                raise ValueError(
                    f"The controller's route must be allowed. Received: unit {choice} in iteration {k}, which may "
                    f"choose from {np.flatnonzero(mask).tolist()}"
                )


def _checked(allowed: Any, shape: tuple[int, int]) -> np.ndarray:
    try:
        mask = np.asarray(allowed)
    except ValueError:  # rows of several lengths
        mask = np.asarray(None)
    if mask.shape != shape or not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"`allowed` must be 'any', 'sequential' or booleans of the shape {shape}, a row for each iteration and a "
            f"column for each score. Received: allowed={allowed!r}"
        )
    mask = mask.astype(bool)
    if not mask.any(axis=1).all():
        empty = np.flatnonzero(~mask.any(axis=1)).tolist()
        raise ValueError(f"`allowed` must leave each iteration a choice. Received: none in iterations {empty}")
    return mask
