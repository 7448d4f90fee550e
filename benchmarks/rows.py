"""Lines of the table that `speed.py` writes."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from reset_keras.distribution import has_gpu
from reset_keras.training.devices.precision import cpu_instructions

HERE = {"any", "GPU" if has_gpu() else "CPU"}
if "amx_tile" in cpu_instructions():
    HERE.add("CPU with AMX")
"""Devices whose targets say something about this machine."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        what: What is measured.
        where: `"CPU"`, `"CPU with AMX"`, `"GPU"` or `"any"`: the device that the target is for.
        target: Largest value that meets it (smallest, where `at_least`).
        at_least: Whether more is better. Default `False`.
        unit: `"x"` for a ratio, `"s"` for seconds. Default `"x"`.
        value: Median, or `None` where it is not measured.
        spread: Quartiles of the turns.
    """

    what: str
    where: str
    target: float
    at_least: bool = False
    unit: str = "x"
    value: float | None = None
    spread: tuple[float, float] | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met, `None` where nothing was measured or the target is for another device."""
        if self.value is None or self.where not in HERE:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def measured(self, turns: np.ndarray) -> "Row":
        """The row with the median and the quartiles of what the turns gave."""
        low, middle, high = map(float, np.quantile(turns, [0.25, 0.5, 0.75]))
        return dataclasses.replace(self, value=middle, spread=(low, high))


def ratio(row: Row, times: Mapping[str, np.ndarray], ours: str, baseline: str) -> Row:
    """The row with the ratio of two computations in each turn, if its target is for this device."""
    return row.measured(times[ours] / times[baseline]) if row.where in HERE else row
