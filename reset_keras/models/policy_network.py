"""Networks that see the image once and tell the controllers of all modules what they saw: policy networks."""

from collections.abc import Sequence
from typing import Any

import keras

from reset_keras.models.backbone import Backbone


def policy_network(parts: Backbone, stage_blocks: Sequence[int]) -> keras.Model:
    """A small ResNet without a classifier, from images to features `(batch, channels)`, as that of BlockDrop.

    Args:
        parts: The backbone of the network that it serves, whose width and image size it has.
        stage_blocks: Sequence of integers, blocks of each stage.
    """
    images = keras.Input(parts.input_shape, name="images")
    x = parts.stem(images)
    for stage, num_blocks in enumerate(stage_blocks):
        for index in range(num_blocks):
            x = parts.block(x, stage, index)
    features = keras.layers.GlobalAveragePooling2D(name="global_pool", dtype="float32")(x)
    return keras.Model(images, features, name="policy_network")


def policy_layers(network: keras.Model, modules: Sequence[Any]) -> list[keras.layers.Layer]:
    """The layers that serve nothing but to compute the contexts of modules, as a policy network does.

    Args:
        network: A functional model.
        modules: Its ReSet modules, in order.
    """
    contexts = [tensor for module in modules for tensor in keras.tree.flatten(module.input)[1:]]
    if not contexts:
        return []
    first = keras.tree.flatten(modules[0].input)[0]
    shared = {id(layer) for layer in keras.Model(network.input, first).layers}
    return [layer for layer in keras.Model(network.input, contexts).layers if id(layer) not in shared]
