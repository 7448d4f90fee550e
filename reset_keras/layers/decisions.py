"""What a module has to decide: which iterations have a choice, and where its controller must be asked."""

from typing import Any

import numpy as np

from reset_keras.layers.cnn_controller import CNNController
from reset_keras.layers.gate_controller import GateController
from reset_keras.layers.policy_controller import PolicyController
from reset_keras.layers.scorers import (
    GumbelSoftmaxScorer,
    GumbelSTScorer,
    HardScorer,
    SoftmaxScorer,
    TopKScorer,
    is_plain,
)

SHARE_ONE = (SoftmaxScorer, GumbelSoftmaxScorer, GumbelSTScorer, HardScorer, TopKScorer)
"""Scorers whose scores add up to one, so that the only choice of an iteration has the score 1, whatever its logit."""
WITHOUT_STATE = (CNNController, GateController, PolicyController)
"""Controllers whose decisions do not depend on their calls before. A subclass with another `call` may remember."""


def choices(module: Any) -> np.ndarray:
    """What each iteration of a `ReSet`, or a frozen one, may choose: booleans, `(num_iterations, num_scores)`."""
    mask = module.allowed.mask.copy()
    if module.halting is not None:
        mask[1:, -1] = True  # what has halted takes the zero unit, also where the mask forbids it
    return mask


def asks_controller(module: Any) -> list[bool]:
    """Of each iteration, whether its scores depend on what the controller says, there or later.

    Where the mask leaves a single choice the controller decides nothing, and inference need not ask it. One with a
    state is asked until its last decision, since the state comes from all that it has seen before.
    """
    if not is_plain(module.scorer, *SHARE_ONE):
        return [True] * module.num_iterations
    decides = (module.allowed.mask.sum(axis=1) > 1).tolist()  # whether an image has halted, it does not decide
    if any(type(module.controller).call is known.call for known in WITHOUT_STATE):
        return decides
    return [any(decides[k:]) for k in range(module.num_iterations)]
