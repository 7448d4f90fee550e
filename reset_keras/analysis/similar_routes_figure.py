"""Figure 5 of the paper: images that take similar routes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from reset_keras.analysis.similar_routes import SimilarRoutes
from reset_keras.analysis.unit_names import unit_names
from reset_keras.data import ImageDataset

WIDTH = 1.3
"""Width of an image, inches."""
GAP = 0.12
"""Space below a query's row, in widths of an image."""


def similar_routes_figure(
    found: Sequence[SimilarRoutes],
    scores: Sequence[np.ndarray],
    dataset: ImageDataset,
    zero_units: Sequence[bool],
    title: str,
) -> Figure:
    """A row for each query: the image, its neighbours, and below each of them its scores.

    A map of scores has the iterations of all modules from left to right and the units from top to bottom.

    Args:
        found: The queries and their neighbours, as `similar_routes` returns them for images of the first test set.
        scores: For each module an array of shape `(images, num_iterations, num_scores)`.
        dataset: The images, shown as they are, not normalized.
        zero_units: For each module, whether its last unit is the zero unit.
        title: String, above the rows.
    """
    maps = {image: _score_map(scores, zero_units, image) for row in found for image in (row.query, *row.neighbours)}
    largest = max(float(np.nanmax(part)) for part in maps.values())
    columns = 1 + max(len(row.neighbours) for row in found)
    rows, length = next(iter(maps.values())).shape
    map_height = min(1.0, max(0.35, rows / length))
    size = (WIDTH * columns + 1.6, (WIDTH * (1 + map_height + GAP) + 0.4) * len(found) + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=10)
    heights = [1.0, map_height, GAP] * len(found)
    panels = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for axes in panels.ravel():
        axes.set_axis_off()
    for index, row in enumerate(found):
        images = (row.query, *row.neighbours)
        titles = ["query", *(f"distance {distance:.3g}" for distance in row.distances)]
        for column, (image, text) in enumerate(zip(images, titles, strict=True)):
            shown, mapped, _ = panels[3 * index : 3 * index + 3, column]
            _show_image(shown, dataset, image, text)
            drawn = _show_map(mapped, maps[image], scores, largest)
            if column == 0:
                _name_axes(mapped, scores, zero_units)
        if row.left_out:
            _say_left_out(panels[3 * index, len(images) - 1], row)
    bar = figure.colorbar(drawn, ax=panels, location="bottom", shrink=0.4, aspect=40, pad=0.0)
    bar.set_label("score", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    return figure


def _score_map(scores: Sequence[np.ndarray], zero_units: Sequence[bool], image: int) -> np.ndarray:
    """Scores of one image, `(units, iterations of all modules)`; NaN for units that a module lacks.

    The zero units of all modules share the last row.
    """
    routed = [part.shape[-1] - int(zero) for part, zero in zip(scores, zero_units, strict=True)]
    height = max(routed) + int(any(zero_units))
    blocks = []
    for part, zero, units in zip(scores, zero_units, routed, strict=True):
        block = np.full((height, part.shape[1]), np.nan)
        block[:units] = part[image, :, :units].T
        if zero:
            block[-1] = part[image, :, -1]
        blocks.append(block)
    return np.concatenate(blocks, axis=1)


def _show_image(axes: Any, dataset: ImageDataset, image: int, text: str) -> None:
    pixels = dataset.test.images[image]
    axes.imshow(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
    axes.set_title(f"{dataset.class_name(dataset.test.labels[image])}\n{text}", fontsize=8)


def _show_map(axes: Any, values: np.ndarray, scores: Sequence[np.ndarray], largest: float) -> Any:
    axes.set_axis_on()
    axes.set_facecolor("0.9")
    axes.set_xticks([])
    axes.set_yticks([])
    for boundary in np.cumsum([part.shape[1] for part in scores])[:-1]:
        axes.axvline(boundary - 0.5, color="black", linewidth=0.8)
    return axes.imshow(values, vmin=0.0, vmax=largest, cmap="Blues", aspect="auto")


def _name_axes(axes: Any, scores: Sequence[np.ndarray], zero_units: Sequence[bool]) -> None:
    lengths = np.array([part.shape[1] for part in scores])
    rows = axes.images[0].get_array().shape[0]
    axes.set_yticks(range(rows), unit_names(rows, any(zero_units)), fontsize=6)
    centres = np.cumsum(lengths) - lengths / 2 - 0.5
    axes.set_xticks(centres, [str(index + 1) for index in range(len(lengths))], fontsize=6)
    axes.set_ylabel("unit", fontsize=6)
    axes.set_xlabel("module", fontsize=6, labelpad=1)
    axes.tick_params(length=0, pad=2)


def _say_left_out(axes: Any, row: SimilarRoutes) -> None:
    text = f"and {row.left_out:,} more\nat distance {row.distances[-1]:.3g}"
    axes.annotate(text, (1.05, 0.5), xycoords="axes fraction", fontsize=8, va="center", annotation_clip=False)
