"""The layer that a network with a `HaltingController` ends with: it applies after any unit of the last module."""

from typing import Any

import keras

from reset_keras.keras_internals import calls_of
from reset_keras.models.module_calls import module_calls


def classifier_of(model: Any) -> keras.layers.Dense:
    """The dense layer that a `RoutedModel` ends with, which follows the last module's pooled features.

    Raises:
        ValueError: the model ends otherwise, or with another number of classes than its controllers have.
    """
    *_, pooling_call, call = calls_of(model)
    pooling, dense = pooling_call.operation, call.operation
    num_classes = model.routed_modules[-1].controller.num_classes
    follows = pooling_call.input_tensors[0] is module_calls(model.network)[-1].output_tensors[0]
    # No subclasses: the controllers' heads get the weights, and compute with them what a plain Dense does.
    is_simple = type(pooling) is keras.layers.GlobalAveragePooling2D and type(dense) is keras.layers.Dense
    is_simple = is_simple and pooling.data_format == "channels_last" and not pooling.keepdims
    if not is_simple or not follows or dense.activation is not keras.activations.linear:
        raise ValueError(
            "Early halting needs a model whose last module is followed by GlobalAveragePooling2D and a Dense layer "
            "without an activation, and nothing else, the pooling with data_format='channels_last' and keepdims=False. "
            "Received: "
            f"'{model.name}', which ends with {_words(pooling)}, {_words(dense)}"
        )
    if dense.units != num_classes or not dense.use_bias:
        raise ValueError(
            "The model's last layer becomes the head of its HaltingControllers: give them its number of units as "
            f"num_classes, and it a bias. Received: '{dense.name}' with {dense.units} units and "
            f"use_bias={dense.use_bias}, a controller with num_classes={num_classes}"
        )
    return dense


def _words(layer: Any) -> str:
    name = type(layer).__name__
    if not isinstance(layer, keras.layers.GlobalAveragePooling2D):
        return name
    return f"{name}(data_format={layer.data_format!r}, keepdims={layer.keepdims})"
