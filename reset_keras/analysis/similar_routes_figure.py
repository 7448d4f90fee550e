"""Figure 5 of the paper: images that take similar routes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from reset_keras.analysis.score_map import name_axes, score_map, show_map
from reset_keras.analysis.similar_routes import SimilarRoutes
from reset_keras.data import ImageDataset

WIDTH = 1.3
"""Width of an image and of the map below it, inches, as all that follows."""
TITLE, GAP, NAMES = 0.32, 0.08, 0.3
"""Height of an image's title, space between panels, height of what is said below a map."""
LEFT, RIGHT, TOP, BOTTOM = 0.45, 1.0, 0.35, 0.5
"""Space around all panels."""


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
    map_height = WIDTH * min(1.0, max(0.35, rows / length))
    row_height = TITLE + WIDTH + GAP + map_height + NAMES
    width, height = LEFT + columns * (WIDTH + GAP) + RIGHT, TOP + len(found) * row_height + BOTTOM
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, fontsize=10, y=1 - 0.1 / height, va="top")

    def panel(left: float, top: float, panel_height: float) -> Any:
        """Axes at a place from the figure's upper left corner: laid out by matplotlib, they take most of the time."""
        bottom = height - top - panel_height
        axes = figure.add_axes((left / width, bottom / height, WIDTH / width, panel_height / height))
        axes.set_axis_off()
        return axes

    for index, row in enumerate(found):
        top = TOP + index * row_height + TITLE
        images = (row.query, *row.neighbours)
        titles = ["query", *(f"distance {distance:.3g}" for distance in row.distances)]
        for column, (image, text) in enumerate(zip(images, titles, strict=True)):
            left = LEFT + column * (WIDTH + GAP)
            shown = panel(left, top, WIDTH)
            _show_image(shown, dataset, image, text)
            mapped = panel(left, top + WIDTH + GAP, map_height)
            drawn = show_map(mapped, maps[image], scores, vmin=0.0, vmax=largest, cmap="Blues")
            if column == 0:
                name_axes(mapped, scores, zero_units)
        if row.left_out:
            _say_left_out(shown, row)
    place = figure.add_axes(((width - 3) / 2 / width, 0.4 / height, 3 / width, 0.07 / height))
    bar = figure.colorbar(drawn, cax=place, orientation="horizontal")
    bar.set_label("score", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    return figure


def _show_image(axes: Any, dataset: ImageDataset, image: int, text: str) -> None:
    axes.imshow(dataset.test.images[image], cmap="gray", vmin=0, vmax=255)
    axes.set_title(f"{dataset.class_name(dataset.test.labels[image])}\n{text}", fontsize=8)


def _say_left_out(axes: Any, row: SimilarRoutes) -> None:
    text = f"and {row.left_out:,} more\nat distance {row.distances[-1]:.3g}"
    axes.annotate(text, (1.05, 0.5), xycoords="axes fraction", fontsize=8, va="center", annotation_clip=False)
