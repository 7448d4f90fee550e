"""Figure 4 of the paper: how much the scores differ from image to image."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from reset_keras.analysis.unit_names import unit_names

CELL = 0.52
"""Width and height of a value's cell, inches."""


def score_deviation_figure(deviations: Sequence[np.ndarray], zero_units: Sequence[bool], title: str) -> Figure:
    """A panel for each module, iterations from left to right and units from top to bottom, all on one scale.

    Args:
        deviations: What `Routes.deviations` returns.
        zero_units: For each module, whether its last unit is the zero unit.
        title: String, above the panels.
    """
    widths = [len(part) for part in deviations]
    height = max(part.shape[1] for part in deviations)
    size = (max(4.5, CELL * sum(widths) + 0.6 * len(widths) + 1.2), CELL * height + 1.3)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=10)
    panels = figure.subplots(1, len(deviations), squeeze=False, width_ratios=widths)[0]
    largest = max(float(part.max()) for part in deviations) or 1.0
    for index, (axes, part) in enumerate(zip(panels, deviations, strict=True)):
        image = axes.imshow(part.T, vmin=0.0, vmax=largest, cmap="Blues")
        for iteration, unit in np.ndindex(part.shape):
            value = part[iteration, unit]
            text, color = f"{value:.2f}" if value else "0", "white" if value > 0.6 * largest else "black"
            axes.text(iteration, unit, text, ha="center", va="center", fontsize=7, color=color)
        axes.set_anchor("N")
        axes.set_title(f"module {index + 1}", fontsize=9)
        axes.set_xticks(range(len(part)), [str(k + 1) for k in range(len(part))])
        axes.set_yticks(range(part.shape[1]), unit_names(part.shape[1], zero_units[index]))
        axes.set_xlabel("iteration", fontsize=8)
        axes.tick_params(labelsize=8, length=0)
        axes.spines[:].set_visible(False)
    panels[0].set_ylabel("unit", fontsize=8)
    bar = figure.colorbar(image, ax=list(panels), fraction=0.05, pad=0.02)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    return figure
