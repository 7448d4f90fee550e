"""How the routes of the classes differ (section 5.6)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from reset_keras.analysis.routes import Routes
from reset_keras.analysis.score_map import name_axes, score_map, show_map

COLUMNS = 4
MOST_CLASSES = 20


def class_routes_figure(routes: Routes, class_names: Sequence[str], title: str) -> Figure:
    """The mean route of all images, and for each class by how much its mean route differs from that.

    Args:
        routes: Routes with labels; of more than 20 classes the first 20 are shown.
        class_names: Names of the classes, or none: they are then called by their numbers.
        title: String, above the maps.

    Raises:
        ValueError: the routes have no labels.
    """
    means = [part[np.newaxis] for part in routes.mean_scores()]
    pairs = zip(routes.mean_scores_by_class(), means, strict=True)
    differences = [by_class - mean for by_class, mean in pairs]
    classes = min(routes.num_classes, MOST_CLASSES)
    rows = -(-(classes + 1) // COLUMNS)
    figure = Figure(figsize=(1.9 * COLUMNS + 0.8, 1.25 * rows + 0.9), layout="constrained")
    figure.suptitle(title, fontsize=10)
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    overall = show_map(panels[0], score_map(means, routes.zero_units, 0), means, vmin=0.0, vmax=1.0, cmap="Blues")
    panels[0].set_title("mean of all", fontsize=8)
    name_axes(panels[0], means, routes.zero_units)
    maps = [score_map(differences, routes.zero_units, label) for label in range(classes)]
    largest = max(float(np.nanmax(np.abs(part), initial=0.0)) for part in maps) or 1.0
    for label, (axes, part) in enumerate(zip(panels[1:], maps, strict=False)):
        shown = show_map(axes, part, differences, vmin=-largest, vmax=largest, cmap="RdBu_r")
        axes.set_title(class_names[label] if len(class_names) else str(label), fontsize=8)
    for drawn, text in ((overall, "mean score"), (shown, "score of the class less that mean")):
        bar = figure.colorbar(drawn, ax=list(panels), location="bottom", shrink=0.4, aspect=40, pad=0.02)
        bar.set_label(text, fontsize=8)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
    return figure
