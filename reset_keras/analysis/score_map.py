"""A route as a picture: iterations of all modules from left to right, units from top to bottom."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from reset_keras.analysis.unit_names import unit_names


def score_map(scores: Sequence[np.ndarray], zero_units: Sequence[bool], index: int) -> np.ndarray:
    """One route as a matrix, `(units, iterations of all modules)`; NaN for units that a module lacks.

    The zero units of all modules share the last row.

    Args:
        scores: For each module an array of shape `(routes, num_iterations, num_scores)`.
        zero_units: For each module, whether its last score is the zero unit's.
        index: Integer, which of the routes.
    """
    routed = [part.shape[-1] - int(zero) for part, zero in zip(scores, zero_units, strict=True)]
    height = max(routed) + int(any(zero_units))
    blocks = []
    for part, zero, units in zip(scores, zero_units, routed, strict=True):
        block = np.full((height, part.shape[1]), np.nan)
        block[:units] = part[index, :, :units].T
        if zero:
            block[-1] = part[index, :, -1]
        blocks.append(block)
    return np.concatenate(blocks, axis=1)


def show_map(axes: Any, values: np.ndarray, scores: Sequence[np.ndarray], **colours: Any) -> Any:
    """Draws a matrix of `score_map` with lines between the modules; grey where there is no unit.

    Args:
        axes: Matplotlib axes.
        values: The matrix.
        scores: What it was made from.
        **colours: `vmin`, `vmax` and `cmap` of `imshow`.

    Returns:
        Matplotlib's image, for a colour bar.
    """
    axes.set_axis_on()
    axes.set_facecolor("0.9")
    axes.set_xticks([])
    axes.set_yticks([])
    for boundary in np.cumsum([part.shape[1] for part in scores])[:-1]:
        axes.axvline(boundary - 0.5, color="black", linewidth=0.8)
    return axes.imshow(values, aspect="auto", **colours)


def name_axes(axes: Any, scores: Sequence[np.ndarray], zero_units: Sequence[bool]) -> None:
    """Names units and modules beside a drawn map."""
    lengths = np.array([part.shape[1] for part in scores])
    rows = axes.images[0].get_array().shape[0]
    axes.set_yticks(range(rows), unit_names(rows, any(zero_units)), fontsize=6)
    centres = np.cumsum(lengths) - lengths / 2 - 0.5
    axes.set_xticks(centres, [str(index + 1) for index in range(len(lengths))], fontsize=6)
    axes.set_ylabel("unit", fontsize=6)
    axes.set_xlabel("module", fontsize=6, labelpad=1)
    axes.tick_params(length=0, pad=2)
