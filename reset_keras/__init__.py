"""ReSet in Keras 3: networks that choose, image by image, which of their units to apply next.

    import keras, reset_keras as rk

Kemaev, Polykovskiy, Vetrov: ReSet: Learning Recurrent Dynamic Routing in ResNet-like Neural Networks, ACML 2018.
"""

import importlib
from typing import Any

from reset_keras import backend_check as backend_check  # before all that would fail on another backend
from reset_keras import data, inference, layers, losses, models
from reset_keras.layers import (
    ACT,
    SACT,
    CNNController,
    Controller,
    FixedController,
    GateController,
    GumbelSoftmaxScorer,
    GumbelSTScorer,
    Halting,
    HaltingController,
    HardScorer,
    IterationBatchNormalization,
    PadShortcut,
    PolicyController,
    Pool,
    ReSet,
    ResidualPool,
    ResidualUnit,
    RNNController,
    Scorer,
    SoftmaxScorer,
    TopKScorer,
    UnitPool,
)
from reset_keras.losses import (
    Distillation,
    DropReward,
    EarlyExits,
    Entropy,
    PonderCost,
    SkipReward,
    SmoothedCrossentropy,
    TargetRate,
)
from reset_keras.models import ReSetNet, ResNet, RoutedModel, resnet_to_reset, with_scorer

__version__ = "0.2.0.dev0"
__all__ = [
    "ACT",
    "SACT",
    "CNNController",
    "Controller",
    "Distillation",
    "DropReward",
    "EarlyExits",
    "Entropy",
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
    "PonderCost",
    "Pool",
    "RNNController",
    "ReSet",
    "ReSetNet",
    "ResNet",
    "ResidualPool",
    "ResidualUnit",
    "RoutedModel",
    "Scorer",
    "SkipReward",
    "SmoothedCrossentropy",
    "SoftmaxScorer",
    "TargetRate",
    "TopKScorer",
    "UnitPool",
    "analysis",
    "callbacks",
    "data",
    "inference",
    "layers",
    "losses",
    "models",
    "resnet_to_reset",
    "training",
    "with_scorer",
]
LOADED_WHEN_USED = ("analysis", "callbacks", "training")
"""Subpackages that import what a model's user may never need: matplotlib, scikit-learn."""


def __getattr__(name: str) -> Any:
    if name in LOADED_WHEN_USED:
        return importlib.import_module(f"reset_keras.{name}")
    raise AttributeError(f"module 'reset_keras' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *LOADED_WHEN_USED})
