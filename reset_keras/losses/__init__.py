"""The loss terms of a routed model, computed from the routes that its call returned."""

from reset_keras.losses.entropy import Entropy
from reset_keras.losses.skip_reward import SkipReward

__all__ = ["Entropy", "SkipReward"]
