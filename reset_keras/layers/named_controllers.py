"""Controllers by name."""

from typing import Any

from reset_keras.layers.cnn_controller import CNNController
from reset_keras.layers.controller import Controller
from reset_keras.layers.gate_controller import GateController
from reset_keras.layers.policy_controller import PolicyController
from reset_keras.layers.rnn_controller import RNNController

NAMES = ("rnn", "cnn", "gate", "policy")


def named_controller(
    name: Any, num_scores: int, num_iterations: int, zero_unit: bool, kernel_regularizer: Any = None
) -> Controller:
    """A new controller by its name, for a module of these sizes.

    Raises:
        ValueError: the name is unknown.
    """
    options: dict[str, Any] = {"kernel_regularizer": kernel_regularizer, "name": "controller"}
    if name == "rnn":
        return RNNController(num_scores, **options)
    if name == "cnn":
        return CNNController(num_scores, num_iterations, **options)
    if name == "gate":
        return GateController(num_scores, num_iterations, open_bias=2.0 if zero_unit else 0.0, **options)
    if name == "policy":
        return PolicyController(num_scores, num_iterations, **options)
    raise ValueError(f"`controller` must be one of {NAMES} or a Controller. Received: controller={name!r}")
