"""Which depths and threshold a network for every budget takes for a compute fraction."""

import dataclasses
from typing import Any

import keras
import numpy as np

from reset_keras.argument_checks import labels_of
from reset_keras.inference.budgets.every_depth import halting_controllers, outputs_at_every_depth
from reset_keras.layers.halting_controller import NEVER, NUM_BUDGETS, doubt
from reset_keras.models import RoutedModel
from reset_keras.models.classifier import classifier_of
from reset_keras.models.operations import count_operations

THRESHOLDS = np.array([*np.arange(0.2, 0.9, 0.05), *(1 - np.geomspace(0.1, 1e-6, 41)), NEVER], np.float32)
"""Thresholds of the last module that are tried.

They are dense near 1, in equal ratios of what is left to 1: trained networks are sure to within a millionth.
"""


@dataclasses.dataclass(frozen=True)
class Budgets:
    """Settings of a network, the cheapest first, with their cost and accuracy on the images of the calibration.

    Args:
        compute: Float array of shape `(settings,)`, mean compute fractions.
        accuracy: Float array of shape `(settings,)`, in [0, 1].
        depths: Integer array of shape `(settings, modules)`, the most units that an image runs.
        threshold: Float array of shape `(settings,)`, of the last module; above 1 where no image halts by it.

    Examples:
        >>> budgets = Budgets(np.array([0.4, 0.9]), np.array([0.7, 0.8]), np.array([[1, 0], [2, 2]]), np.full(2, 2.0))
        >>> budgets[budgets.compute < 0.5].depths.tolist()
        [[1, 0]]
    """

    compute: np.ndarray
    accuracy: np.ndarray
    depths: np.ndarray
    threshold: np.ndarray

    def __getitem__(self, chosen: Any) -> "Budgets":
        return Budgets(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))


def calibrate(model: RoutedModel, images: np.ndarray, labels: np.ndarray, halting: bool = True) -> Budgets:
    """Finds the settings of a network for every budget that are best on some images, and keeps them in its controllers.

    The last module's head becomes the classifier, which is then applied to the features after each unit. All depths of
    the modules are compared, with many thresholds for the last one. At most 64 settings are kept, each better than all
    cheaper ones. A file of the model keeps them. Calibrate again after further training.

    Args:
        model: A `RoutedModel` of layers that follow one another, with `HaltingController`s, that ends with global
            average pooling and a dense layer.
        images: Array of normalized images that the model was not trained on, and that are not used to test it.
        labels: Integer array of shape `(images,)`.
        halting: Boolean, whether images may halt by the threshold. `False`: all images run the same units. Default
            `True`.

    Returns:
        The settings that are kept.

    Raises:
        ValueError: a module has another controller, the model ends otherwise, or with another number of classes than
            the controllers have, or there are no images, or not as many labels.

    Examples:
        >>> from reset_keras.models import ResNet, resnet_to_reset
        >>> resnet = ResNet((3, 3), num_classes=4, input_shape=(8, 8, 1), width=4)
        >>> model = resnet_to_reset(resnet, HaltingController(1, num_classes=4), HardScorer(sampled=False))
        >>> budgets = calibrate(model, np.zeros((4, 8, 8, 1)), np.arange(4))
        >>> budgets.depths.shape == (len(budgets.compute), 2)
        True
    """
    controllers = halting_controllers(model)
    head, labels = classifier_of(model), labels_of(images, labels)
    logits = outputs_at_every_depth(model, images)
    operations = count_operations(model.network, model.routed_modules)
    least = (operations.fixed + operations.controllers) / operations.static
    by_depth = [np.cumsum([0.0, *units]) / operations.static for units in operations.units]
    thresholds = THRESHOLDS if halting else THRESHOLDS[-1:]
    found = best_budgets(_candidates(logits, labels, least, by_depth, thresholds))
    # Copies: two variables of one buffer are more than JAX can take.
    controllers[-1].head_kernel.assign(keras.ops.convert_to_numpy(head.kernel))
    controllers[-1].head_bias.assign(keras.ops.convert_to_numpy(head.bias))
    for index, controller in enumerate(controllers):
        threshold = found.threshold if controller is controllers[-1] else np.full_like(found.threshold, NEVER)
        kept = np.zeros(controller.budgets.shape)
        kept[: len(threshold)] = np.stack([found.compute, found.depths[:, index], threshold], axis=1)
        controller.budgets.assign(kept)
    return found


def best_budgets(candidates: Budgets) -> Budgets:
    """Those settings that no cheaper ones surpass, at most 64 of them, evenly spaced by what they cost."""
    in_order = candidates[np.lexsort((-candidates.accuracy, candidates.compute))]
    before = np.maximum.accumulate(np.concatenate([[-1.0], in_order.accuracy[:-1]]))
    best = in_order[in_order.accuracy > before]
    grid = np.linspace(best.compute[0], best.compute[-1], NUM_BUDGETS)
    # A point that is a setting's cost may have been rounded to just below it: the setting could be lost.
    return best[np.unique(np.searchsorted(best.compute, grid + 1e-9, side="right") - 1)]


def _candidates(
    logits: np.ndarray, labels: np.ndarray, least: float, by_depth: list[np.ndarray], thresholds: np.ndarray
) -> Budgets:
    """All depths with all thresholds: what they cost, and how many images they get right.

    Args:
        logits: What `outputs_at_every_depth` returns.
        labels: Integer array of shape `(images,)`.
        least: Compute fraction without any unit.
        by_depth: For each module, what its first units add to that: none of them, one, and so on.
        thresholds: Those of the last module that are tried.
    """
    *before, last, _ = logits.shape[1:]
    rows = []
    for depths in np.ndindex(*before):
        here = logits[:, *depths]
        right = here.argmax(axis=-1) == labels[:, None]
        doubts = keras.ops.convert_to_numpy(doubt(here))
        # Without the last module, whose depth varies below.
        cost = least + sum(costs[depth] for depth, costs in zip(depths, by_depth, strict=False))
        for threshold in thresholds:
            # All in float32, as `HaltingController.halts` compares.
            halts = doubts <= 1.0 - threshold
            for depth in range(last):
                halts_by_then = np.concatenate([halts[:, :depth], np.ones((len(halts), 1), bool)], axis=1)
                at = halts_by_then.argmax(axis=1)
                accuracy = np.take_along_axis(right, at[:, None], axis=1).mean()
                rows.append((cost + by_depth[-1][at].mean(), accuracy, (*depths, depth), threshold))
    return Budgets(*(np.array(column) for column in zip(*rows, strict=True)))
