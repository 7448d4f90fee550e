"""A requested compute fraction, as depths and threshold of a network for every budget."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from reset_keras.argument_checks import check_real
from reset_keras.inference.budgets.every_depth import halting_controllers

TOLERANCE = 1e-6
"""Controllers keep costs in float32: with it the costs that `calibrate` returned, float64, find their own settings."""


def set_compute(modules: keras.Model | Sequence[Any], compute: float) -> float:
    """Sets depth and threshold of a network's controllers to the best that cost at most what is requested.

    Args:
        modules: A calibrated `RoutedModel`, or its `routed_modules`. For a frozen network set `network.compute`.
        compute: Float, the mean compute fraction requested.

    Returns:
        The cost of the settings on the images of the calibration.

    Raises:
        ValueError: a module has another controller, the network was not calibrated, or `compute` is below its cheapest
            setting, or no number, or above 1 and above its costliest setting.

    Examples:
        >>> from reset_keras.inference import calibrate
        >>> from reset_keras.models import ResNet, resnet_to_reset
        >>> resnet = ResNet((3, 3), num_classes=4, input_shape=(8, 8, 1), width=4)
        >>> model = resnet_to_reset(resnet, HaltingController(1, num_classes=4), HardScorer(sampled=False))
        >>> budgets = calibrate(model, np.zeros((4, 8, 8, 1)), np.arange(4))
        >>> set_compute(model, 0.9) <= 0.9
        True
    """
    check_real("compute", compute, above=0.0)
    controllers = halting_controllers(modules)
    tables = [keras.ops.convert_to_numpy(controller.budgets) for controller in controllers]
    costs = tables[0][:, 0]
    if not costs.any():
        raise ValueError("The network has no budgets yet: call rk.inference.calibrate(model, images, labels) first")
    costs = costs[costs > 0]
    if compute < costs[0] - TOLERANCE:
        raise ValueError(
            f"`compute` must be at least {costs[0]:.3f}, what the network costs without any unit. Received: "
            f"compute={compute}. Ask for at least that"
        )
    most = max(1.0, float(costs[-1]))
    if compute > most + TOLERANCE:  # as a number of percent is
        raise ValueError(
            f"`compute` is a share of the ResNet's operations, 0.7 for 70 %, and at most {most:.4g} here. Received: "
            f"compute={compute}"
        )
    row = int(np.flatnonzero(costs <= compute + TOLERANCE)[-1])
    for controller, table in zip(controllers, tables, strict=True):
        controller.depth.assign(table[row, 1])
        controller.threshold.assign(table[row, 2])
    return float(costs[row])
