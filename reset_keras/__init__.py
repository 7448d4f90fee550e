"""ReSet in Keras 3: networks that choose, image by image, which of their units to apply next.

    import keras, reset_keras as rk

Kemaev, Polykovskiy, Vetrov: ReSet: Learning Recurrent Dynamic Routing in ResNet-like Neural Networks, ACML 2018.
"""

from reset_keras import data, inference, layers, losses, models
from reset_keras.layers import *  # noqa: F403
from reset_keras.losses import *  # noqa: F403
from reset_keras.models import ReSetNet, ResNet, RoutedModel, resnet_to_reset, with_scorer

__version__ = "0.1.0"
__all__ = [
    "ReSetNet",
    "ResNet",
    "RoutedModel",
    "data",
    "inference",
    "layers",
    "losses",
    "models",
    "resnet_to_reset",
    "with_scorer",
    *layers.__all__,
    *losses.__all__,
]
