"""What the parts of a network compute for one image, in multiply-accumulate operations (MACs)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from reset_keras.argument_checks import is_real
from reset_keras.keras_internals import calls_of, functional, shapes_in
from reset_keras.layers import (
    SACT,
    CNNController,
    Controller,
    FixedController,
    GateController,
    Halting,
    HaltingController,
    PolicyController,
    Pool,
    ReSet,
    ResidualPool,
    ResidualUnit,
    RNNController,
    UnitPool,
    decisions,
)
from reset_keras.models.module_calls import module_calls
from reset_keras.models.policy_network import policy_layers

Tensor = Any


@dataclasses.dataclass(frozen=True)
class Operations:
    """MACs of a network with ReSet modules, part by part, for one image.

    Args:
        fixed: Integer, MACs of all layers outside the modules.
        controllers: Integer, MACs of all controllers, in the iterations in which they must be asked, of halting scores,
            and of the layers that compute only what controllers decide by.
        units: For each module a float64 array of shape `(num_units,)`: MACs of running each unit once.
        num_iterations: For each module an integer.
        choices: For each module booleans of shape `(num_iterations, num_scores)`: what an iteration may choose. A zero
            unit is the last.
    """

    fixed: int
    controllers: int
    units: list[np.ndarray]
    num_iterations: list[int]
    choices: list[np.ndarray]

    @property
    def static(self) -> float:
        """MACs of the network that runs one unit of each pool in every iteration, and no controller."""
        return self.fixed + float(self._iteration_costs().sum())

    @property
    def smallest_fraction(self) -> float:
        """The least that routes can lead to, over `static`: zero units where they may be chosen, else the cheapest."""
        return self._fraction_of(lambda costs, choices: np.where(choices, costs, np.inf).min(axis=1))

    @property
    def largest_fraction(self) -> float:
        """The most that routes of one unit an iteration can lead to, over `static`: the most expensive everywhere."""
        return self._fraction_of(lambda costs, choices: np.where(choices, costs, 0.0).max(axis=1))

    @property
    def whole_fraction(self) -> float:
        """What all units together cost, in every iteration that may choose them, over `static`."""
        return self._fraction_of(lambda costs, choices: np.where(choices, costs, 0.0).sum(axis=1))

    def check_fraction(self, name: str, fraction: float) -> None:
        """Raises `ValueError` unless routes may cost more, or less, than a mean compute fraction that is asked for.

        One above the most expensive routes changes nothing, so that it is a mistake; often it is a number of percent.
        """
        least, most = self.smallest_fraction, max(1.0, self.largest_fraction)
        if not is_real(fraction) or not least < fraction <= most + 1e-6:
            raise ValueError(
                f"`{name}` must be above {least:.3f}, the compute fraction where all is skipped that may be (the fixed "
                f"layers, the controllers and what may not be skipped), and at most {most:.3f}: it is a share of the "
                f"static network's operations, 0.7 for 70 %. Received: {name}={fraction!r}"
            )

    @property
    def skip_weights(self) -> np.ndarray:
        """What skipping each iteration of all modules saves, with mean 1: float32, shape `(total iterations,)`."""
        costs = self._iteration_costs()
        return (costs / costs.mean()).astype("float32")

    def expected_fractions(self, routes: Sequence[dict[str, Tensor]]) -> Tensor:
        """MACs that the scores, taken as probabilities, lead to expect, over `static`: float32, `(batch,)`.

        With one-hot scores they are those of the units that run.

        Args:
            routes: For each module a dict, with tensors `"scores"`, `(batch, num_iterations, num_scores)`, and where it
                has halting `"active"`, `(batch, num_iterations)`.
        """
        fractions = (self.fixed + self.controllers) / self.static
        for route, units in zip(routes, self.units, strict=True):
            shares = ops.convert_to_tensor(units / self.static, dtype="float32")
            chosen = ops.cast(route["scores"][..., : len(units)], "float32")
            if "active" in route:
                chosen = chosen * route["active"][..., None]
            chosen = ops.sum(chosen, axis=1)
            fractions = fractions + ops.sum(chosen * shares, axis=-1)
        return fractions

    def of_units(self, routes: Sequence[dict[str, Any]]) -> list[np.ndarray]:
        """MACs that routes spend in each unit, where its score is not zero: for each module, `(images, num_units)`.

        Where positions have halted, only the share of those that have not counts.
        """
        runs = [
            (np.asarray(route["scores"])[..., : len(units)] != 0) * np.asarray(route.get("active", 1.0))[..., None]
            for route, units in zip(routes, self.units, strict=True)
        ]
        return [run.sum(axis=1, dtype=np.float64) * units for run, units in zip(runs, self.units, strict=True)]

    def of_images(self, routes: Sequence[dict[str, Any]]) -> np.ndarray:
        """MACs that routes ask for, all parts together: float64, `(images,)`."""
        return self.fixed + self.controllers + sum(units.sum(axis=1) for units in self.of_units(routes))

    def _fraction_of(self, chosen: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
        """The compute fraction where a function of the scores' costs, and of what may be chosen, says what runs."""
        costs = [np.append(units, 0.0)[: c.shape[1]] for units, c in zip(self.units, self.choices, strict=True)]
        spent = sum(float(chosen(*module).sum()) for module in zip(costs, self.choices, strict=True))
        return (self.fixed + self.controllers + spent) / self.static

    def _iteration_costs(self) -> np.ndarray:
        return np.concatenate(
            [np.full(k, units.mean()) for units, k in zip(self.units, self.num_iterations, strict=True)]
        )


def count_operations(network: keras.Model, modules: Sequence[ReSet]) -> Operations:
    """Counts convolutions and dense layers, those of the controllers among them, as often as they are called.

    Args:
        network: Functional model whose outputs hold the modules' routes, as that of a `RoutedModel`.
        modules: Its ReSet modules.

    Raises:
        ValueError: a layer is of a kind that cannot be counted, a ReSet is called without its routes, or the images'
            size is not fixed.
    """
    calls = calls_of(network)
    # Without modules it may be any functional model, whose output is no dict of routes.
    routed = module_calls(network) if modules else []
    policy = {id(layer) for layer in policy_layers(network, modules)}
    others = [call for call in calls if isinstance(call.operation, keras.layers.Layer) and call not in routed]
    fixed, of_policy = (
        sum(_call_macs(call) for call in others if (id(call.operation) in policy) is is_policy)
        for is_policy in (False, True)
    )
    of_modules = [(module, _shape(call.input_tensors)) for module, call in zip(modules, routed, strict=True)]
    if not any(module.controller.takes_context and any(decisions.asks_controller(module)) for module in modules):
        of_policy = 0
    of_controllers = sum(
        sum(decisions.asks_controller(module)) * _controller_macs(module.controller, shape)
        + _halting_macs(module.halting, shape)
        for module, shape in of_modules
    )
    return Operations(
        fixed=fixed,
        controllers=of_policy + of_controllers,
        units=[np.array(_unit_macs(module.pool, shape), np.float64) for module, shape in of_modules],
        num_iterations=[module.num_iterations for module in modules],
        choices=[decisions.choices(module) for module in modules],
    )


def _call_macs(call: Any) -> int:
    return _layer_macs(call.operation, _shape(call.input_tensors)) if call.operation.weights else 0


def _shape(inputs: Any) -> tuple:
    """Shape of the first of a call's inputs; layers that can be counted have no other."""
    return tuple(keras.tree.flatten(inputs)[0].shape)


def _unit_macs(pool: Pool, shape: tuple) -> list[int]:
    if isinstance(pool, ResidualPool):
        # Twice the first kernel, which holds those of all units; the second may hold one that they share.
        return [_conv_macs(pool.kernel1.shape, shape[1:3]) * 2 // pool.num_units] * pool.num_units
    if isinstance(pool, UnitPool):
        return [_layer_macs(unit, shape) for unit in pool.units]
    raise ValueError(
        f"Cannot count the MACs of a pool of the type {type(pool).__name__}, only those of a ResidualPool or a "
        "UnitPool: give the units as a list of layers, which makes a UnitPool"
    )


def _controller_macs(controller: Controller, shape: tuple) -> int:
    if isinstance(controller, FixedController):
        return 0
    if isinstance(controller, HaltingController):
        return shape[-1] * controller.num_classes
    if isinstance(controller, GateController):
        return controller.hidden_size * (shape[-1] + controller.num_scores)
    if isinstance(controller, PolicyController):
        return int(controller.dense.kernel.shape[0]) * controller.num_scores
    if isinstance(controller, RNNController):
        size = controller.hidden_size
        return 4 * size * (shape[-1] + size) + size * controller.num_scores
    if isinstance(controller, CNNController):
        return _conv_macs(controller.conv.kernel.shape, shape[1:3]) + controller.filters * controller.num_scores
    raise ValueError(
        f"Cannot count the MACs of a controller of the type {type(controller).__name__}, only those of an "
        "RNNController, a CNNController, a GateController, a PolicyController, a HaltingController or a "
        "FixedController: use one of these, or a subclass"
    )


def _halting_macs(halting: Halting | None, shape: tuple) -> int:
    """MACs of the halting scores, which all iterations have but the last."""
    if halting is None:
        return 0
    local = _conv_macs((3, 3, shape[-1], 1), shape[1:3]) if isinstance(halting, SACT) else 0
    return len(halting.scored) * (local + shape[-1])


def _layer_macs(layer: keras.layers.Layer, shape: tuple) -> int:
    if isinstance(layer, ReSet):
        raise ValueError(
            f"Cannot count the MACs of the ReSet '{layer.name}', whose routes the model does not know. "
            "Build it with return_routes=True, and give all routes that it returns to RoutedModel"
        )
    nested = functional(layer)
    if nested is not None:
        return _model_macs(nested, shape)
    if isinstance(layer, ResidualUnit):
        positions = layer.compute_output_shape(shape)[1:3]
        return _conv_macs(layer.conv1.kernel.shape, positions) + _conv_macs(layer.conv2.kernel.shape, positions)
    if isinstance(layer, keras.layers.Conv2D):
        return _product(layer.kernel.shape[:-1]) * _product(layer.compute_output_shape(shape)[1:])
    if isinstance(layer, keras.layers.Dense):
        return _product(layer.kernel.shape) * _product(shape[1:-1])
    if any(len(weight.shape) > 1 for weight in layer.weights):
        raise ValueError(
            f"Cannot count the MACs of layer '{layer.name}' of the type {type(layer).__name__}, only those of Conv2D, "
            "Dense, ResidualUnit, models of these, and layers without kernels: use these where operations are counted"
        )
    return 0


def _model_macs(model: keras.Model, shape: tuple) -> int:
    """Those of a model that is called with features of a shape, which may have been made for any size."""
    if len(model.inputs) > 1 or shape[1:] == tuple(model.inputs[0].shape[1:]):
        return sum(_call_macs(call) for call in calls_of(model) if isinstance(call.operation, keras.layers.Layer))
    parts = [(part, of_part) for part, of_part in shapes_in(model, shape) if isinstance(part, keras.layers.Layer)]
    return sum(_layer_macs(part, of_part) for part, of_part in parts if part.weights)


def _conv_macs(kernel_shape: tuple, positions: tuple) -> int:
    return _product(kernel_shape) * _product(positions)


def _product(sizes: tuple) -> int:
    if None in sizes:
        raise ValueError("Cannot count the MACs of images of no fixed size; give the model's Input a height and width")
    return int(np.prod(sizes))
