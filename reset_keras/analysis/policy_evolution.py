"""Figure 6 of the paper: how the policy evolves along a training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from reset_keras.analysis.unit_names import unit_names

THOUSANDS_FROM = 2_000
"""Length of a training, in batches, from which they are counted in thousands."""


def policy_evolution_figure(
    steps: np.ndarray, mean_scores: Sequence[np.ndarray], zero_units: Sequence[bool], title: str
) -> Figure:
    """A grid of plots, modules from top to bottom and iterations from left to right: each unit's mean score.

    Args:
        steps: Integer array of shape `(records,)`, training batches before each record.
        mean_scores: For each module an array of shape `(records, num_iterations, num_scores)`.
        zero_units: For each module, whether its last unit is the zero unit.
        title: String, above the grid.
    """
    columns = max(part.shape[1] for part in mean_scores)
    size = (1.35 * columns + 1.7, 1.25 * len(mean_scores) + 1.1)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(mean_scores), columns, squeeze=False, sharex=True, sharey=True)
    thousands = steps[-1] >= THOUSANDS_FROM
    palette = colormaps["tab10" if max(part.shape[2] for part in mean_scores) <= 10 else "tab20"]
    lines: dict[str, Any] = {}
    for row, (part, zero_unit) in enumerate(zip(mean_scores, zero_units, strict=True)):
        for iteration in range(columns):
            grid[row, iteration].set_visible(iteration < part.shape[1])
        for iteration in range(part.shape[1]):
            names = unit_names(part.shape[2], zero_unit)
            x = steps / 1000 if thousands else steps
            lines |= _plot(grid[row, iteration], x, part[:, iteration], names, palette)
        grid[row, 0].set_ylabel(f"module {row + 1}", fontsize=8)
    for iteration in range(columns):
        shown = [axes for axes in grid[:, iteration] if axes.get_visible()]
        shown[0].set_title(f"iteration {iteration + 1}", fontsize=8)
        shown[-1].tick_params(labelbottom=True)
    figure.supxlabel("training batches, in thousands" if thousands else "training batches", fontsize=9)
    figure.supylabel("mean score", fontsize=9)
    ordered = sorted(lines, key=lambda name: (name == "zero", len(name), name))
    handles = [lines[name] for name in ordered]
    figure.legend(handles, ordered, title="unit", loc="outside right center", frameon=False, fontsize=8)
    return figure


def _plot(axes: Any, steps: np.ndarray, means: np.ndarray, names: list[str], palette: Any) -> dict[str, Any]:
    """Draws the units' lines in one plot and returns them by the units' names."""
    lines = {}
    marker = "." if len(steps) < 15 else ""
    for index, name in enumerate(names):
        style = {"color": "black", "linestyle": "--"} if name == "zero" else {"color": palette(index % palette.N)}
        lines[name] = axes.plot(steps, means[:, index], linewidth=1.2, marker=marker, markersize=3, **style)[0]
    axes.set(ylim=(-0.04, 1.04), yticks=(0.0, 0.5, 1.0))
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return lines
