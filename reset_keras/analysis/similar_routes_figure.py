"""Figure 5 of the paper: images that take similar routes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from reset_keras.analysis.score_map import name_axes, score_map, show_map
from reset_keras.analysis.similar_routes import SimilarRoutes
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
    maps = {image: score_map(scores, zero_units, image) for row in found for image in (row.query, *row.neighbours)}
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
            drawn = show_map(mapped, maps[image], scores, vmin=0.0, vmax=largest, cmap="Blues")
            if column == 0:
                name_axes(mapped, scores, zero_units)
        if row.left_out:
            _say_left_out(panels[3 * index, len(images) - 1], row)
    bar = figure.colorbar(drawn, ax=panels, location="bottom", shrink=0.4, aspect=40, pad=0.0)
    bar.set_label("score", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    return figure


def _show_image(axes: Any, dataset: ImageDataset, image: int, text: str) -> None:
    pixels = dataset.test.images[image]
    axes.imshow(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
    axes.set_title(f"{dataset.class_name(dataset.test.labels[image])}\n{text}", fontsize=8)


def _say_left_out(axes: Any, row: SimilarRoutes) -> None:
    text = f"and {row.left_out:,} more\nat distance {row.distances[-1]:.3g}"
    axes.annotate(text, (1.05, 0.5), xycoords="axes fraction", fontsize=8, va="center", annotation_clip=False)
