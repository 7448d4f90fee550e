"""Networks whose time is measured, and what they are given."""

from typing import Any

import keras
import numpy as np

import reset_keras as rk
from prescribed_controller import PrescribedController

LEARNED = {"reset38_efficient_cifar10": None, "reset38_any_budget_cifar10": 0.7}
"""Presets whose routes were learned, of 0.70 of the operations, and the compute fraction that they are set to."""


def noise(batch_size: int) -> Any:
    """Images as unlike each other in brightness as in pattern, so that routes differ where no table sets them."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, 32, 32, 3)) + rng.normal(size=(batch_size, 1, 1, 1))
    return keras.ops.convert_to_tensor(images, dtype="float32")


def routed(skipped: tuple[int, int]) -> rk.ReSetNet:
    """A ReSet-38 with one unit per image and iteration, and so many iterations of five skipped."""
    controller = PrescribedController(6, 5, skipped)
    return as_trained(rk.ReSetNet((5, 5, 5), scorer="gumbel_st", controller=controller))


def as_trained(model: keras.Model) -> keras.Model:
    """Gives batch norms the statistics of no particular training: those of the start vanish when they are folded."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name.startswith(("gamma", "moving_variance")):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.name.startswith(("beta", "moving_mean")):
            weight.assign(rng.normal(0, 0.3, weight.shape))
    return model


def with_skips(share: float) -> rk.ReSetNet:
    """A ReSet-38 whose controllers, drawn at random, take the zero unit in so many of the iterations, or just over."""
    keras.utils.set_random_seed(0)
    model = as_trained(rk.models.reset38(scorer="gumbel_st"))
    rng = np.random.default_rng(0)
    for module in model.routed_modules:
        dense = module.controller.dense
        dense.kernel.assign(rng.normal(0, 3, dense.kernel.shape))
    for index, module in enumerate(model.routed_modules):
        low, high = -50.0, 50.0 if share else -50.0  # by halves to the least bias that skips enough
        while high - low > 0.01:
            middle = (low + high) / 2
            low, high = (low, middle) if skipped(model, index, middle) >= share else (middle, high)
        print(f"{module.name} skips {skipped(model, index, high):.3f} of its iterations, asked for {share}", flush=True)
    return model


def skipped(model: rk.ReSetNet, index: int, bias: float) -> float:
    """The share of the iterations that a module skips with a bias of its zero unit, which it keeps."""
    model.routed_modules[index].controller.dense.bias.assign([0.0] * 5 + [bias])
    return float(model.predict_routes(np.array(noise(256)), verbose=0)[index]["scores"][..., -1].mean())
