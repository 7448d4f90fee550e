"""The mean compute fraction of a network for every budget, as an input of exported files."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from reset_keras.inference.budgets.dial import TOLERANCE
from reset_keras.inference.frozen.frozen_network import FrozenNetwork
from reset_keras.layers import HaltingController

Tensor = Any

COMPUTE = "compute"
"""Name of the input."""


def settings_of(controller: HaltingController) -> np.ndarray:
    """Cost, depth and threshold of each setting, the cheapest first, and at last of the present one, at any cost."""
    table = ops.convert_to_numpy(controller.budgets)
    present = [np.inf, *(float(ops.convert_to_numpy(weight)) for weight in (controller.depth, controller.threshold))]
    return np.array([*table[table[:, 0] > 0], present])


def calibrated_controllers(network: FrozenNetwork) -> list[HaltingController]:
    """The controllers of a calibrated network for every budget; of another network none."""
    controllers = [module.controller for module in network.modules_with_budgets]
    fits = all(isinstance(x, HaltingController) and len(settings_of(x)) > 1 for x in controllers)
    return controllers if fits else []


def with_compute(run: Callable[[Tensor], Tensor], controllers: list[HaltingController]) -> Callable:
    """A function of images and of a compute fraction, which sets the network to it; infinity leaves it as it is."""
    tables = [settings_of(controller) for controller in controllers]

    def run_at(images: Tensor, compute: Tensor) -> Tensor:
        is_within = ops.convert_to_tensor(tables[0][:, 0] - TOLERANCE, "float32") <= compute
        # A request below the cheapest setting gets that one: a file cannot refuse.
        row = ops.maximum(ops.sum(ops.cast(is_within, "int32")), 1) - 1
        settings = []
        for controller, table in zip(controllers, tables, strict=True):
            depth, threshold = (ops.take(ops.convert_to_tensor(column, "float32"), row) for column in table.T[1:])
            settings += [(controller.depth, depth), (controller.threshold, threshold)]
        with keras.StatelessScope(state_mapping=settings):  # which gives these in the place of the weights
            return run(images)

    return run_at
