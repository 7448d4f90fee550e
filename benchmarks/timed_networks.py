"""Networks whose time is measured, and what they are given."""

from typing import Any

import keras
import numpy as np

import reset_keras as rk
from prescribed_controller import PrescribedController
from random_decisions import decide_at_random

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
    """Gives batch norms random weights and statistics, as if trained: the initial ones would fold into nothing."""
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
    decide_at_random(model, np.array(noise(256)), 1.0 - share)
    return model
