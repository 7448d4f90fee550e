"""Which parts of a layer are frozen, for its config: Keras keeps that of the outermost layers only."""

from collections.abc import Sequence

import keras

from reset_keras.keras_internals import all_layers


def frozen_parts(layer: keras.layers.Layer) -> list[int]:
    """Those of a layer's parts, itself the first and all at any depth, that are not trained.

    Examples:
        >>> model = keras.Sequential([keras.layers.ReLU(), keras.layers.ReLU(trainable=False)])
        >>> frozen_parts(model)
        [2]
    """
    return [index for index, part in enumerate(all_layers(layer)) if not part.trainable]


def freeze_parts(layer: keras.layers.Layer, frozen: Sequence[int]) -> None:
    """Freezes what `frozen_parts` found in a layer of the same config, and nothing else.

    Examples:
        >>> model = keras.Sequential([keras.layers.ReLU(), keras.layers.ReLU()])
        >>> freeze_parts(model, [2])
        >>> [part.trainable for part in model.layers]
        [True, False]
    """
    for index, part in enumerate(all_layers(layer)):  # from the outside in: what a layer is told, its parts are too
        part.trainable = index not in frozen
