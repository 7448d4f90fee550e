"""What a network computes for an image, in multiply-accumulate operations (MACs)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from reset_keras.layers import (
    CNNController,
    Controller,
    FixedController,
    Pool,
    ReSet,
    ResidualPool,
    ResidualUnit,
    RNNController,
    UnitPool,
)
from reset_keras.models import RoutedModel


def macs(model: keras.Model) -> int:
    """MACs of a network for one image, with every layer run once: convolutions and dense layers.

    Args:
        model: A Keras functional model without ReSet modules, such as `ResNet`.

    Raises:
        ValueError: a layer with weights is of a kind that cannot be counted.

    Example:

    >>> from reset_keras.models import ResNet
    >>> macs(ResNet((3, 3, 3)))
    40551040
    """
    return sum(_layer_macs(layer, layer.input.shape) for layer in model.layers if layer.weights)


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
    fixed = sum(
        _layer_macs(layer, layer.input.shape)
        for layer in model.network.layers
        if layer.weights and not isinstance(layer, ReSet)
    )
    static, controllers, spent = float(fixed), 0, []
    for module, route in zip(model.routed_modules, routes, strict=True):
        shape = module.input.shape
        units = np.array(_unit_macs(module.pool, shape), np.float64)
        static += module.num_iterations * units.mean()
        controllers += module.num_iterations * _controller_macs(module.controller, shape)
        chosen = np.asarray(route["scores"])[..., : len(units)] != 0
        spent.append(chosen.sum(axis=1) * units)
    return RoutedMacs(fixed, controllers, spent, static)


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


def _unit_macs(pool: Pool, shape: tuple) -> list[int]:
    if isinstance(pool, ResidualPool):
        return [_conv_macs(pool.kernel1.shape, shape[1:3]) * 2 // pool.num_units] * pool.num_units
    if isinstance(pool, UnitPool):
        return [_layer_macs(unit, shape) for unit in pool.units]
    raise ValueError(f"Cannot count the MACs of a pool of the type {type(pool).__name__}")


def _controller_macs(controller: Controller, shape: tuple) -> int:
    if isinstance(controller, FixedController):
        return 0
    if isinstance(controller, RNNController):
        size = controller.hidden_size
        return 4 * size * (shape[-1] + size) + size * controller.num_scores
    if isinstance(controller, CNNController):
        return _conv_macs(controller.conv.kernel.shape, shape[1:3]) + controller.filters * controller.num_scores
    raise ValueError(f"Cannot count the MACs of a controller of the type {type(controller).__name__}")


def _layer_macs(layer: keras.layers.Layer, shape: tuple) -> int:
    output_shape = layer.compute_output_shape(shape)
    if isinstance(layer, ResidualUnit):
        positions = output_shape[1:3]
        return _conv_macs(layer.conv1.kernel.shape, positions) + _conv_macs(layer.conv2.kernel.shape, positions)
    if isinstance(layer, keras.layers.Conv2D):
        return _conv_macs(layer.kernel.shape, output_shape[1:3])
    if isinstance(layer, keras.layers.Dense):
        return int(np.prod(layer.kernel.shape) * np.prod(shape[1:-1], initial=1))
    if any(len(weight.shape) > 1 for weight in layer.weights):
        raise ValueError(f"Cannot count the MACs of layer '{layer.name}' of the type {type(layer).__name__}")
    return 0


def _conv_macs(kernel_shape: tuple, positions: tuple) -> int:
    return int(np.prod(kernel_shape) * np.prod(positions))
