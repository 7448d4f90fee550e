"""What decides in a network, made to decide at random, so that a given share of the images runs each unit."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

import reset_keras as rk

HALVINGS = 20
SPREAD = 3.0
"""Standard deviation of the weights that decide."""


@dataclasses.dataclass(frozen=True)
class Decider:
    """What decides on some iterations of a module.

    Args:
        module: Integer, the module's place in the network.
        iterations: Those that it decides on.
        share: Float, how many of the images should run a unit there.
        kernels: Its variables that take features.
        bias: Its bias.
        skips: Which entries of the bias are for skipping, as booleans of its shape.
    """

    module: int
    iterations: slice
    share: float
    kernels: list[Any]
    bias: Any
    skips: np.ndarray

    def share_that_runs(self, network: rk.RoutedModel, images: np.ndarray, bias: float) -> float:
        """How many of the images run a unit, with a bias for skipping, which it keeps."""
        self.bias.assign(np.where(self.skips, bias, keras.ops.convert_to_numpy(self.bias)))
        route = network.predict_routes_on_batch(images)[self.module]
        runs = 1.0 - route["scores"][:, self.iterations, -1]
        if "active" in route:
            runs = runs * route["active"][:, self.iterations]
        return float(runs.mean())


def decide_at_random(network: rk.RoutedModel, images: np.ndarray, share: float) -> None:
    """Gives a network random decisions by which a share of the images runs each unit.

    Where one bias serves all iterations of a module, and where images halt, it is the share on average over these.
    """
    for decider in deciders(network, share):
        for kernel in decider.kernels:
            kernel.assign(keras.random.normal(kernel.shape, stddev=SPREAD))
        low, high = -1000.0, 1000.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            runs = decider.share_that_runs(network, images, middle)
            if runs == decider.share:
                break
            low, high = (middle, high) if runs > decider.share else (low, middle)
        else:
            # Only to set the bias: of the two ends, the one at which no more images than asked for run the unit.
            decider.share_that_runs(network, images, high)


def deciders(network: rk.RoutedModel, share: float) -> Iterator[Decider]:
    """What decides in each module, from the first iteration to the last.

    As many images halt after each iteration: none before the first, and before the last twice the mean.
    """
    for index, module in enumerate(network.routed_modules):
        controller, halting, last = module.controller, module.halting, module.num_iterations - 1
        if halting is not None:
            local = getattr(halting, "convolutions", [])
            for k, (kernel, bias) in enumerate(zip(halting.kernels, halting.biases, strict=True)):
                goes_on = max(0.0, 1.0 - 2.0 * (1.0 - share) * (k + 1) / last)
                iterations = slice(k + 1, k + 2)
                yield Decider(index, iterations, goes_on, [kernel, *local[k : k + 1]], bias, np.array([True]))
        elif isinstance(controller, rk.GateController):
            for k, dense in enumerate(controller.dense[: last + 1]):
                yield Decider(index, slice(k, k + 1), share, [dense.kernel], dense.bias, _is_last(module, 1))
        elif isinstance(controller, rk.PolicyController):
            dense, zero_units = controller.dense, np.flatnonzero(_is_last(module, controller.num_iterations))
            # One kernel decides on all iterations: to draw it again would undo the biases that were found before.
            for k in range(last + 1):
                skips = np.arange(dense.bias.shape[0]) == zero_units[k]
                yield Decider(index, slice(k, k + 1), share, [dense.kernel] if k == 0 else [], dense.bias, skips)
        elif isinstance(controller, rk.RNNController):
            dense = controller.dense
            yield Decider(index, slice(None), share, [dense.kernel], dense.bias, _is_last(module, 1))


def _is_last(module: rk.ReSet, times: int) -> np.ndarray:
    """Which of so many rows of a module's scores are the zero unit's."""
    return np.arange(times * module.num_scores) % module.num_scores == module.num_scores - 1
