"""Which part of a model is trained: layers that are not keep weights and batch-norm statistics alike."""

import keras

from reset_keras.argument_checks import is_integer
from reset_keras.keras_internals import all_layers
from reset_keras.models import RoutedModel
from reset_keras.models.policy_network import policy_layers
from reset_keras.models.routed_model import check_routed


def train_only_controllers(model: RoutedModel) -> None:
    """Makes only the controllers trainable: pools keep their batch-norm statistics too (step 2).

    Halting scores and a policy network count as controllers, here and in `train_all_but_controllers`. As with any
    change of `trainable`, compile the model afterwards.

    Args:
        model: A `RoutedModel`.

    Examples:
        >>> from reset_keras.models import ReSetNet
        >>> model = ReSetNet((2,), input_shape=(8, 8, 1))
        >>> train_only_controllers(model)
        >>> {variable.path.split("/")[1] for variable in model.trainable_variables}
        {'controller'}
    """
    check_routed(model)
    train_everything(model)
    modules = {id(module): module for module in model.routed_modules}
    policy = map(id, policy_layers(model, model.routed_modules))
    # Leaves and pools, not the model and its modules: Keras lists no trainable variable of a layer that is not
    # trainable itself, even if a part of it is.
    for layer in _leaves(model, {*modules, *policy}):
        layer.trainable = False
    for module in modules.values():
        module.pool.trainable = False


def train_everything(model: keras.Model) -> None:
    """Makes a model trainable with all its layers.

    On TensorFlow, `layer.trainable = True` changes nothing if the layer's own flag is `True` already, even if layers
    inside it are not trainable.

    Args:
        model: A Keras model.

    Examples:
        >>> from reset_keras.models import ReSetNet
        >>> model = ReSetNet((2,), input_shape=(8, 8, 1))
        >>> train_only_controllers(model)
        >>> train_everything(model)
        >>> all(layer.trainable for layer in model.layers)
        True
    """
    for layer in all_layers(model):
        layer.trainable = True


def train_all_but_controllers(model: RoutedModel) -> None:
    """Makes all but the controllers trainable: the other phase of two-phase learning (section 5.4.1).

    Args:
        model: A `RoutedModel`.

    Examples:
        >>> from reset_keras.models import ReSetNet
        >>> model = ReSetNet((2,), input_shape=(8, 8, 1))
        >>> train_all_but_controllers(model)
        >>> any("controller" in variable.path for variable in model.trainable_variables)
        False
    """
    check_routed(model)
    train_everything(model)
    for module in model.routed_modules:
        module.controller.trainable = False
        if module.halting is not None:
            module.halting.trainable = False
    for layer in policy_layers(model, model.routed_modules):
        layer.trainable = False


def train_last_modules(model: RoutedModel, count: int) -> None:
    """Makes only the last modules trainable, and what follows them: incremental learning (section 5.4.2).

    Args:
        model: A `RoutedModel` whose layers follow one another, as those of a `ReSetNet`.
        count: Integer, how many modules are trained, each with the layers that lead to it from the module before. 0
            trains only what follows the last module; with all modules, everything is trained.

    Raises:
        ValueError: `count` is negative, or the model has fewer modules.

    Examples:
        >>> from reset_keras.models import ReSetNet
        >>> model = ReSetNet((2,), input_shape=(8, 8, 1))
        >>> train_last_modules(model, 0)
        >>> [variable.path for variable in model.trainable_variables]
        ['classifier/kernel', 'classifier/bias']
    """
    check_routed(model)
    modules = model.routed_modules
    if not is_integer(count) or not 0 <= count <= len(modules):
        raise ValueError(
            f"`count` must be an integer from 0 to the number of modules, {len(modules)}. Received: count={count!r}"
        )
    count = int(count)  # an integer of NumPy without a sign has no negative
    train_everything(model)
    if count < len(modules):
        layers = model.layers
        last_kept = next(i for i, layer in enumerate(layers) if layer is modules[-count - 1])
        for layer in layers[: last_kept + 1]:
            layer.trainable = False


def _leaves(network: keras.Model, kept: set[int]) -> list[keras.layers.Layer]:
    """Layers of a network but those in `kept`, looking into nested models."""
    leaves = []
    for layer in network.layers:
        if id(layer) in kept:
            continue
        if isinstance(layer, keras.Model):
            leaves += _leaves(layer, kept)
        else:
            leaves.append(layer)
    return leaves
