"""What a network computes for an image, in multiply-accumulate operations (MACs)."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from reset_keras.keras_internals import functional
from reset_keras.models import RoutedModel
from reset_keras.models.operations import count_operations
from reset_keras.models.routed_model import check_routed


def macs(model: keras.Model) -> int:
    """MACs of a network for one image: convolutions and dense layers, each as often as it is called.

    Args:
        model: A Keras functional or sequential model without ReSet modules, such as `ResNet`.

    Returns:
        Integer.

    Raises:
        ValueError: a layer with weights is of a kind that cannot be counted, or the model is of a custom class.

    Examples:
        >>> from reset_keras.models import ResNet
        >>> macs(ResNet((3, 3, 3)))
        40551040
    """
    network = functional(model)
    if network is None or isinstance(model, RoutedModel):
        raise ValueError(
            "Only the MACs of functional and sequential models can be counted; for a RoutedModel call `routed_macs`. "
            f"Received: '{model.name}' of the type {type(model).__name__}"
        )
    return count_operations(network, []).fixed


def routed_macs(model: RoutedModel, routes: Sequence[dict[str, Any]]) -> np.ndarray:
    """MACs that routes ask for, per image: those of convolutions and dense layers, the controllers' among them.

    A unit counts where its score is not zero. `cost` also tells what each part of the model takes.

    Args:
        model: A `RoutedModel`.
        routes: What `model.predict_routes` returned for the images.

    Returns:
        Float64 array of shape `(images,)`.

    Raises:
        ValueError: a layer is of a kind that cannot be counted.

    Examples:
        >>> from reset_keras.models import ReSetNet
        >>> model = ReSetNet((2, 2), input_shape=(8, 8, 1), scorer="gumbel_st")
        >>> routed_macs(model, model.predict_routes(np.zeros((3, 8, 8, 1)), verbose=0)).shape
        (3,)
    """
    check_routed(model)
    return count_operations(model.network, model.routed_modules).of_images(routes)


def compute_fractions(model: RoutedModel, routes: Sequence[dict[str, Any]]) -> np.ndarray:
    """`routed_macs` over those of the static network of the same shape.

    That network runs one unit of each pool in every iteration, and no controller; for a `ReSetNet` it is the `ResNet`.

    Args:
        model: A `RoutedModel`.
        routes: What `model.predict_routes` returned for the images.

    Returns:
        Float64 array of shape `(images,)`.

    Raises:
        ValueError: a layer is of a kind that cannot be counted.

    Examples:
        >>> from reset_keras.models import ReSetNet
        >>> model = ReSetNet((2, 2), input_shape=(8, 8, 1))  # softmax-routed: every unit runs in every iteration
        >>> fractions = compute_fractions(model, model.predict_routes(np.zeros((3, 8, 8, 1)), verbose=0))
        >>> round(float(fractions.mean()), 2)
        1.75
    """
    check_routed(model)
    operations = count_operations(model.network, model.routed_modules)
    return operations.of_images(routes) / operations.static
