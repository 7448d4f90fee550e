"""What a network computes for an image, in multiply-accumulate operations (MACs)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from reset_keras.keras_internals import functional
from reset_keras.models import RoutedModel
from reset_keras.models.operations import count_operations


def macs(model: keras.Model) -> int:
    """MACs of a network for one image: convolutions and dense layers, each as often as it is called.

    Args:
        model: A Keras functional or sequential model without ReSet modules, such as `ResNet`.

    Raises:
        ValueError: a layer with weights is of a kind that cannot be counted, or the model is of a custom class.

    Examples:
        >>> from reset_keras.models import ResNet
        >>> macs(ResNet((3, 3, 3)))
        40551040
    """
    network = functional(model)
    if network is None:
        raise ValueError(
            "Only the MACs of functional and sequential models can be counted; those of a RoutedModel are "
            f"`routed_macs`'. Received: '{model.name}' of the type {type(model).__name__}"
        )
    return count_operations(network, []).fixed


@dataclasses.dataclass(frozen=True)
class RoutedMacs:
    """MACs that routing asks for, per image.

    Args:
        fixed: Integer, MACs of all layers outside the modules.
        controllers: Integer, MACs of all controllers, over all iterations.
        units: For each module a float64 array of shape `(images, num_units)`: MACs spent in each unit, over all
            iterations. A unit counts where its score is not zero.
        static: Float, MACs of the network that runs one unit of each pool in every iteration, and no controller; for a
            `ReSetNet` the `ResNet` of the same depth.
    """

    fixed: int
    controllers: int
    units: list[np.ndarray]
    static: float

    @property
    def total(self) -> np.ndarray:
        """Float64 array of shape `(images,)`."""
        return self.fixed + self.controllers + sum(units.sum(axis=1) for units in self.units)


def routed_macs(model: RoutedModel, routes: Sequence[dict[str, Any]]) -> RoutedMacs:
    """Counts what a model's routes ask for: convolutions and dense layers, those of the controllers among them.

    Args:
        model: A `RoutedModel`.
        routes: What `model.predict_routes` returned for the images.

    Raises:
        ValueError: a layer is of a kind that cannot be counted.
    """
    counted = count_operations(model.network, model.routed_modules)
    spent = []
    for units, route in zip(counted.units, routes, strict=True):
        chosen = np.asarray(route["scores"])[..., : len(units)] != 0
        spent.append(chosen.sum(axis=1) * units)
    return RoutedMacs(counted.fixed, counted.controllers, spent, counted.static)


def compute_fractions(model: RoutedModel, routes: Sequence[dict[str, Any]]) -> np.ndarray:
    """MACs that routing asks for, per image, over those of the static network of the same depth.

    Args:
        model: A `RoutedModel`.
        routes: What `model.predict_routes` returned for the images.

    Returns:
        Float64 array of shape `(images,)`.

    Raises:
        ValueError: a layer is of a kind that cannot be counted.
    """
    counted = routed_macs(model, routes)
    return counted.total / counted.static
