"""Models: a ResNet, the ReSet of the paper, and the class that trains any model with ReSet modules in it."""

from reset_keras.models.architectures import (
    reset38,
    reset_1_1_5,
    reset_1_5_1,
    reset_5_1_1,
    resnet38,
    resnet_1_1_5,
    resnet_1_5_1,
    resnet_5_1_1,
)
from reset_keras.models.conversion import first_blocks, resnet_to_reset, static_twin, with_dtype_policy, with_scorer
from reset_keras.models.one_route import with_one_route
from reset_keras.models.presets import PRESETS, Preset, from_preset
from reset_keras.models.reset_net import ReSetNet
from reset_keras.models.resnet import ResNet
from reset_keras.models.routed_model import RoutedModel
from reset_keras.models.routed_outputs import RoutedOutputs
from reset_keras.models.settled_routes import with_settled_routes

__all__ = [
    "PRESETS",
    "Preset",
    "ReSetNet",
    "ResNet",
    "RoutedModel",
    "RoutedOutputs",
    "first_blocks",
    "from_preset",
    "reset38",
    "reset_1_1_5",
    "reset_1_5_1",
    "reset_5_1_1",
    "resnet38",
    "resnet_1_1_5",
    "resnet_1_5_1",
    "resnet_5_1_1",
    "resnet_to_reset",
    "static_twin",
    "with_dtype_policy",
    "with_one_route",
    "with_scorer",
    "with_settled_routes",
]
