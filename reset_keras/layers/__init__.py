"""The layers of a ReSet: units, pools of them, controllers, scorers, and the module itself."""

from reset_keras.layers.cnn_controller import CNNController
from reset_keras.layers.controller import Controller, FixedController
from reset_keras.layers.gate_controller import GateController
from reset_keras.layers.halting import ACT, SACT, Halting
from reset_keras.layers.halting_controller import HaltingController
from reset_keras.layers.iteration_batch_normalization import IterationBatchNormalization
from reset_keras.layers.pad_shortcut import PadShortcut
from reset_keras.layers.policy_controller import PolicyController
from reset_keras.layers.reset import ReSet
from reset_keras.layers.residual_pool import ResidualPool
from reset_keras.layers.residual_unit import ResidualUnit
from reset_keras.layers.rnn_controller import RNNController
from reset_keras.layers.scorers import (
    GumbelSoftmaxScorer,
    GumbelSTScorer,
    HardScorer,
    Scorer,
    SoftmaxScorer,
    TopKScorer,
)
from reset_keras.layers.unit_pool import Pool, UnitPool

__all__ = [
    "ACT",
    "SACT",
    "CNNController",
    "Controller",
    "FixedController",
    "GateController",
    "GumbelSTScorer",
    "GumbelSoftmaxScorer",
    "Halting",
    "HaltingController",
    "HardScorer",
    "IterationBatchNormalization",
    "PadShortcut",
    "PolicyController",
    "Pool",
    "RNNController",
    "ReSet",
    "ResidualPool",
    "ResidualUnit",
    "Scorer",
    "SoftmaxScorer",
    "TopKScorer",
    "UnitPool",
]
