"""What a network says if its modules stop after any number of units."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from reset_keras.batches_ahead import predicted
from reset_keras.layers import HaltingController
from reset_keras.models import RoutedModel
from reset_keras.models.parts_between import parts_between

Tensor = Any
# Small, as the last part of the network gets each image at all depths at once.
BATCH_SIZE = 64


class EveryDepth(keras.Model):
    """A network's outputs for all depths of its modules; parts that depths have in common are computed once.

    Args:
        model: A `RoutedModel` of layers that follow one another, whose controllers are `HaltingController`s.

    Call arguments:
        inputs: Tensor of the shape of the model's input.

    Returns:
        Logits of shape `(batch, units of the first module + 1, ..., units of the last + 1, classes)`.
    """

    def __init__(self, model: RoutedModel) -> None:
        super().__init__(dtype="float32")  # its parts compute in their own types
        self.routed = model.routed_modules
        self.between = parts_between(model)

    def call(self, inputs: Tensor) -> Tensor:
        *_, features = self.features(inputs)
        return self.by_depth(self.between[-1](features, training=False), len(self.routed))

    def features(self, inputs: Tensor) -> list[Tensor]:
        """What each module returns for all depths of it and of those before, in one batch."""
        x, found = inputs, []
        for module, entrance in zip(self.routed, self.between, strict=False):  # one part more: after the last module
            # Keras casts inputs of calls, and `run_unit` is none.
            x = ops.cast(entrance(x, training=False), module.compute_dtype)
            # As in the module: without any unit it returns activated inputs, but the first unit gets them as they are.
            depths = [module.activation(x)]
            for k in range(module.num_iterations):
                x = module.activation(x + module.pool.run_unit(k, x, iteration=k, training=False))
                depths.append(x)
            x = ops.concatenate(depths)
            found.append(x)
        return found

    def by_depth(self, x: Tensor, modules: int) -> Tensor:
        """Vectors that belong to all depths of so many modules: `(images, first module, ..., last, length)`."""
        # In the batch the last module's depth counts slowest, and the images fastest.
        sizes = [module.num_iterations + 1 for module in reversed(self.routed[:modules])]
        x = ops.reshape(x, (*sizes, -1, x.shape[-1]))
        return ops.transpose(x, (modules, *reversed(range(modules)), modules + 1))


def outputs_at_every_depth(model: RoutedModel, images: np.ndarray) -> np.ndarray:
    """A network's logits for all depths of its modules.

    Args:
        model: A `RoutedModel` of layers that follow one another, whose controllers are `HaltingController`s.
        images: Array of the shape of the model's input.

    Returns:
        Array of shape `(images, units of the first module + 1, ..., units of the last + 1, classes)`, float32.

    Raises:
        ValueError: a module has another controller.

    Examples:
        >>> from reset_keras.models import ResNet, resnet_to_reset
        >>> resnet = ResNet((3, 3), num_classes=4, input_shape=(8, 8, 1), width=4)
        >>> model = resnet_to_reset(resnet, HaltingController(1, num_classes=4), HardScorer(sampled=False))
        >>> outputs_at_every_depth(model, np.zeros((5, 8, 8, 1))).shape  # none, one or two units in each of two modules
        (5, 3, 3, 4)
    """
    halting_controllers(model)
    return predicted(EveryDepth(model), images, BATCH_SIZE, verbose=0)


def halting_controllers(model: keras.Model | Sequence[Any]) -> list[HaltingController]:
    """The controllers of a model or of its modules; `ValueError` unless all are `HaltingController`s."""
    modules = model if isinstance(model, Sequence) else getattr(model, "routed_modules", [])
    controllers = [module.controller for module in modules]
    if not controllers or not all(isinstance(controller, HaltingController) for controller in controllers):
        kinds = sorted({type(controller).__name__ for controller in controllers}) or "no routed_modules"
        given = "modules" if isinstance(model, Sequence) else f"a {type(model).__name__}"
        advice = " Set `network.compute` of a frozen network." if hasattr(model, "compute") else ""
        raise ValueError(
            "Only a RoutedModel whose controllers are HaltingControllers has budgets, as reset38_any_budget_cifar10 "
            f"does.{advice} Received: {given} with {kinds}"
        )
    return controllers
