"""The loss terms of a routed model, computed from what its call returned."""

from reset_keras.losses.distillation import Distillation
from reset_keras.losses.drop_reward import DropReward
from reset_keras.losses.early_exits import EarlyExits
from reset_keras.losses.entropy import Entropy, entropies
from reset_keras.losses.ponder_cost import PonderCost
from reset_keras.losses.skip_reward import SkipReward
from reset_keras.losses.smoothed_crossentropy import SmoothedCrossentropy
from reset_keras.losses.target_rate import TargetRate

__all__ = [
    "Distillation",
    "DropReward",
    "EarlyExits",
    "Entropy",
    "PonderCost",
    "SkipReward",
    "SmoothedCrossentropy",
    "TargetRate",
    "entropies",
]
