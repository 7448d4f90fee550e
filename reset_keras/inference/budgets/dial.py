"""A requested compute fraction, as depths and threshold of a network of every budget."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from reset_keras.argument_checks import check_real
from reset_keras.layers import HaltingController


def set_compute(modules: Sequence[Any], compute: float) -> float:
    """Sets depth and threshold of some modules' controllers to the best that cost at most what is requested.

    Args:
        modules: `model.routed_modules`, or those of a frozen network.
        compute: Float, the mean compute fraction requested.

    Returns:
        What the settings cost on the images that they were chosen by.

    Raises:
        ValueError: the network was not calibrated, or `compute` is below its cheapest setting, or no number.
    """
    check_real("compute", compute, above=0.0)
    controllers = [module.controller for module in modules]
    if not controllers or not all(isinstance(controller, HaltingController) for controller in controllers):
        raise ValueError(
            "Only a network with HaltingControllers can be set to a compute fraction. Received: "
            f"{sorted({type(controller).__name__ for controller in controllers}) or 'no modules'}"
        )
    tables = [keras.ops.convert_to_numpy(controller.budgets) for controller in controllers]
    costs = tables[0][:, 0]
    if not costs.any():
        raise ValueError("The network has no budgets yet: call rk.inference.calibrate(model, images, labels) first")
    costs = costs[costs > 0]
    if compute < costs[0] - 1e-6:
        raise ValueError(f"`compute` must be at least {costs[0]:.3f}, the least there is. Received: compute={compute}")
    row = int(np.flatnonzero(costs <= compute + 1e-6)[-1])
    for controller, table in zip(controllers, tables, strict=True):
        controller.depth.assign(table[row, 1])
        controller.threshold.assign(table[row, 2])
    return float(costs[row])
