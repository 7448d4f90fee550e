"""Networks that see the image once and tell the controllers of all modules what they saw: policy networks."""

from collections.abc import Sequence
from typing import Any

import keras

from reset_keras.keras_internals import calls_of
from reset_keras.models.backbone import Backbone, mean_over_positions


def policy_network(parts: Backbone, stage_blocks: Sequence[int]) -> keras.Model:
    """A small ResNet without a classifier, from images to features `(batch, channels)`, as that of BlockDrop.

    Args:
        parts: The backbone of the network that it serves, whose width and image size it has.
        stage_blocks: Sequence of integers, blocks of each stage.
    """
    images = keras.Input(parts.input_shape, name="images")
    # Its layers have the names of the network's own; the paths of their weights must not be the same, too.
    with keras.name_scope("policy_network"):
        x = parts.features(images, stage_blocks)
    return keras.Model(images, mean_over_positions(x), name="policy_network")


def policy_layers(network: keras.Model, modules: Sequence[Any]) -> list[keras.layers.Layer]:
    """The layers that only compute the modules' contexts, such as a policy network.

    Args:
        network: A functional model.
        modules: Its ReSet modules, in order.
    """
    own = {id(module) for module in modules}
    calls = [call for call in calls_of(network) if id(call.operation) in own]
    contexts = [tensor for call in calls for tensor in call.input_tensors[1:]]
    if not contexts:
        return []
    features = [call.input_tensors[0] for call in calls]
    shared = _upstream(network, features, {id(tensor) for tensor in contexts})
    return [layer for layer in keras.Model(network.input, contexts).layers if id(layer) not in shared]


def _upstream(network: keras.Model, tensors: list[Any], left_out: set[int]) -> set[int]:
    """The ids of the layers that tensors are computed by, but for what only serves those that are left out."""
    makers = {id(output): call for call in calls_of(network) for output in call.output_tensors}
    found: set[int] = set()
    while tensors:
        call = makers[id(tensors.pop())]
        if id(call.operation) not in found:
            found.add(id(call.operation))
            tensors += [tensor for tensor in call.input_tensors if id(tensor) not in left_out]
    return found
