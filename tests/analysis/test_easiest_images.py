"""The figure of the images that run the fewest and the most units."""

import numpy as np
import pytest

import reset_keras as rk
from reset_keras.analysis import Routes
from reset_keras.analysis.easiest_images_figure import easiest_images_figure, has_easy_images


def routes_of(depths, units=2):
    """Routes of images that run unit k in iteration k until they halt, in one module for each column of depths."""
    runs = np.arange(units)[None, :, None] < np.array(depths)[:, None, :]
    scores = np.concatenate([runs[:, :, None] * np.eye(units)[None, :, :, None], ~runs[:, :, None]], axis=2)
    return Routes([{"scores": scores[..., module]} for module in range(scores.shape[-1])], [True] * scores.shape[-1])


def test_where_images_halt_at_different_depths():
    assert has_easy_images(routes_of([[0, 1], [2, 1]]))
    assert not has_easy_images(routes_of([[2, 1], [2, 1]]))
    again = routes_of([[0, 1], [2, 1]])
    again.modules[0]["scores"][0] = [[0, 0, 1], [0, 1, 0]]  # skips, then runs a unit
    assert not has_easy_images(again)


def test_the_easiest_are_on_the_left_and_the_hardest_on_the_right():
    digits = rk.data.load_digits()
    depths = np.random.default_rng(0).integers(0, 3, (len(digits.test), 2))
    figure = easiest_images_figure(routes_of(depths), digits, "title")
    shown = [axes.get_title() for axes in figure.axes]
    assert len(shown) == 10 * 9
    for label in range(10):
        units = [sum(map(int, text.split("-"))) for text in shown[9 * label : 9 * label + 9] if text]
        members = np.sort(depths[digits.test.labels == label].sum(axis=1))
        assert units == [*members[:4], *members[-4:]]
    assert figure.axes[0].texts[0].get_text() == "0"


@pytest.mark.parametrize("count", [1, 3])
def test_classes_of_few_images(count):
    part = rk.data.LabelledImages(np.zeros((count, 8, 8, 3), np.uint8), np.zeros(count, np.int64))
    dataset = rk.data.ImageDataset("few", part, {"test": part}, num_classes=1, class_names=("only",))
    figure = easiest_images_figure(routes_of(np.arange(count)[:, None] % 3), dataset, "title")
    assert sum(bool(axes.get_title()) for axes in figure.axes) == 2 * count
