"""The images that a network runs the fewest and the most units for."""

import numpy as np
from matplotlib.figure import Figure

from reset_keras.analysis.routes import Routes
from reset_keras.data import ImageDataset

EACH = 4
"""Easiest, and hardest, images of a class."""
MOST_CLASSES = 10


def has_easy_images(routes: Routes) -> bool:
    """Whether images differ in how many units they run, one after the other: those of a `HaltingController`."""
    runs = _runs(routes)
    goes_on = any((~part[:, :-1] & part[:, 1:]).any() for part in runs)  # after it has halted
    return not goes_on and len(np.unique(sum(part.sum(axis=1) for part in runs))) > 1


def _runs(routes: Routes) -> list[np.ndarray]:
    """Whether images run a unit: for each module booleans of shape `(images, num_iterations)`."""
    ends = np.cumsum([scores.shape[1] for scores in routes.scores])
    return np.split(~routes.skips(), ends[:-1], axis=1)


def easiest_images_figure(routes: Routes, dataset: ImageDataset, title: str) -> Figure:
    """A row for each class: on the left the images that run the fewest units, on the right those that run the most.

    Of images that run as many, the first ones of the test set are shown. Below each are the units that it runs in each
    module.

    Args:
        routes: Routes of the images of the first test set, such that `has_easy_images` says yes.
        dataset: The images, shown as they are, not normalized.
        title: String, above the rows.
    """
    depths = np.stack([part.sum(axis=1) for part in _runs(routes)], axis=1)
    images, labels = dataset.test.images, dataset.test.labels
    classes = np.unique(labels)[:MOST_CLASSES]
    figure = Figure(figsize=(0.62 * (2 * EACH + 1) + 1.2, 0.8 * len(classes) + 0.7), layout="constrained")
    figure.suptitle(title, fontsize=10)
    panels = figure.subplots(len(classes), 2 * EACH + 1, squeeze=False)
    for axes in panels.ravel():
        axes.set_axis_off()
    for row, label in zip(panels, classes, strict=True):
        members = np.flatnonzero(labels == label)
        units = depths[members].sum(axis=1)
        easiest, hardest = (members[order.argsort(kind="stable")[:EACH]] for order in (units, -units))
        for axes, image in zip(row, [*easiest, None, *hardest[::-1]], strict=False):
            if image is not None:
                axes.imshow(images[image], cmap="gray", vmin=0, vmax=255)
                axes.set_title("-".join(map(str, depths[image])), fontsize=7, y=-0.32)
        row[0].annotate(
            dataset.class_name(label), (-0.2, 0.5), xycoords="axes fraction", ha="right", va="center", fontsize=8
        )
    return figure
