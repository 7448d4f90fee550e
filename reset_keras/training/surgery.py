"""Which part of a model is trained: frozen layers keep weights and batch-norm statistics alike."""

import keras

from reset_keras.models import RoutedModel


def train_only_controllers(model: RoutedModel) -> None:
    """Freezes all but the controllers: pools, batch-norm statistics, and every layer outside the modules (step 2).

    As with any change of `trainable`, compile the model afterwards.

    Args:
        model: A `RoutedModel`.

    Example:

    >>> from reset_keras.models import ReSetNet
    >>> model = ReSetNet((2, 2), input_shape=(8, 8, 1))
    >>> train_only_controllers(model)
    >>> {variable.path.split("/")[1] for variable in model.trainable_variables}
    {'controller'}
    """
    modules = {id(module): module for module in model.routed_modules}
    for layer in _leaves(model.network, set(modules)):
        layer.trainable = False
    for module in modules.values():
        module.pool.trainable = False
        module.controller.trainable = True


def _leaves(network: keras.Model, kept: set[int]) -> list[keras.layers.Layer]:
    """Layers of a network but those in `kept`, looking into nested models."""
    leaves = []
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            leaves += _leaves(layer, kept)
        elif id(layer) not in kept:
            leaves.append(layer)
    return leaves
