"""Layers around modules as ONNX nodes: features channels first, all else as in Keras."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from reset_keras.inference.exports.onnx_graph import OnnxGraph
from reset_keras.inference.exports.onnx_modules import UnwrittenLayerError, write_module
from reset_keras.inference.exports.onnx_operations import convolution, dense, exceed, padded, pooled, residual_unit
from reset_keras.inference.frozen.folding import affine_map
from reset_keras.inference.frozen.frozen_graph import FrozenUnit, graph_of
from reset_keras.inference.frozen.frozen_reset import FrozenReSet
from reset_keras.keras_internals import calls_of
from reset_keras.layers import IterationBatchNormalization, PadShortcut

ACTIVATIONS = {
    keras.activations.relu: "Relu",
    keras.activations.sigmoid: "Sigmoid",
    keras.activations.tanh: "Tanh",
    keras.activations.softmax: "Softmax",
}


def write_network(graph: OnnxGraph, network: keras.Model, inputs: Sequence[str]) -> list[str]:
    """The nodes of a frozen functional network.

    Args:
        graph: Where they are written.
        network: The functional network; models in it are written likewise.
        inputs: Names of its inputs, images channels first.

    Returns:
        Names of its outputs, in the order of `keras.tree.flatten(network.output)`; `""` for routes, which have none.

    Raises:
        UnwrittenLayerError: a layer is none of those that can be written.
    """
    values = dict(zip(map(id, network.inputs), inputs, strict=True))
    for call in calls_of(network):
        layer = call.operation
        if isinstance(layer, keras.layers.InputLayer):
            continue
        given = [values.get(id(tensor), "") for tensor in call.input_tensors]
        if not all(given):
            raise UnwrittenLayerError(f"'{layer.name}' takes routes")
        if (inner := graph_of(layer)) is not None:
            results = write_network(graph, inner, given)
        else:
            results = [_write(graph, layer, given, call)]
        # Of a module only the features, its first result, get a name: its routes are not written.
        values.update(zip(map(id, keras.tree.flatten(call.output_tensors)), results, strict=False))
    return [values.get(id(tensor), "") for tensor in keras.tree.flatten(network.output)]


def _write(graph: OnnxGraph, layer: Any, inputs: list[str], call: Any) -> str:
    writer = WRITERS.get(type(layer))
    if writer is None:  # as for all operations that are no layers
        raise UnwrittenLayerError(f"'{layer.name}' is of class {type(layer).__name__}")
    if layer.compute_dtype != "float32":
        raise UnwrittenLayerError(f"'{layer.name}' computes in {layer.compute_dtype}")
    if layer.quantization_mode is not None:
        raise UnwrittenLayerError(f"'{layer.name}' is quantized")
    _check_rank(layer, call, 2, 4)
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise UnwrittenLayerError(f"'{layer.name}' takes channels first")
    return writer(graph, layer, inputs, call)


def _conv(graph: OnnxGraph, layer: Any, inputs: list[str], call: Any) -> str:
    sizes = {"strides": layer.strides, "dilations": layer.dilation_rate, "group": layer.groups}
    positions = _positions(layer, call, layer.kernel_size, layer.strides)
    x = convolution(graph, inputs[0], layer.kernel, layer.bias, layer.padding, positions, **sizes)
    return activated(graph, layer, x)


def _dense(graph: OnnxGraph, layer: Any, inputs: list[str], call: Any) -> str:
    _check_rank(layer, call, 2)
    return activated(graph, layer, dense(graph, inputs[0], layer))


def activated(graph: OnnxGraph, layer: Any, x: str) -> str:
    """A layer's activation."""
    if layer.activation is keras.activations.linear:
        return x
    operation = ACTIVATIONS.get(layer.activation)
    is_spread = operation == "Softmax" and len(layer.output.shape) != 2
    if operation is None or is_spread:
        raise UnwrittenLayerError(f"'{layer.name}' has the activation {keras.activations.serialize(layer.activation)}")
    return graph.add(operation, x)


def _relu(graph: OnnxGraph, layer: Any, inputs: list[str], _: Any) -> str:
    if layer.max_value is not None or layer.negative_slope or layer.threshold:
        raise UnwrittenLayerError(f"'{layer.name}' is no plain ReLU")
    return graph.add("Relu", inputs[0])


def _pool(operation: str) -> Callable:
    def write(graph: OnnxGraph, layer: Any, inputs: list[str], call: Any) -> str:
        window, strides = layer.pool_size, layer.strides
        padding = padded(layer.padding, window, strides, _positions(layer, call, window, strides))
        return graph.add(operation, inputs[0], kernel_shape=window, strides=strides, **padding)

    return write


def _global_pool(operation: str) -> Callable:
    def write(graph: OnnxGraph, layer: Any, inputs: list[str], _: Any) -> str:
        return graph.add(operation, inputs[0]) if layer.keepdims else pooled(graph, inputs[0], operation)

    return write


def _flatten(graph: OnnxGraph, _: Any, inputs: list[str], call: Any) -> str:
    x = inputs[0]
    if len(call.input_tensors[0].shape) == 4:
        x = graph.add("Transpose", x, perm=(0, 2, 3, 1))
    return graph.add("Flatten", x)


def _padding(graph: OnnxGraph, layer: Any, inputs: list[str], _: Any) -> str:
    (top, bottom), (left, right) = layer.padding
    return graph.add("Pad", inputs[0], graph.constant([0, 0, top, left, 0, 0, bottom, right], "int64"))


def _pad_shortcut(graph: OnnxGraph, layer: Any, inputs: list[str], call: Any) -> str:
    """As a convolution with a kernel of ones and zeros: ONNX Runtime keeps its own layout of features through it."""
    kernel = np.eye(call.input_tensors[0].shape[-1], layer.filters)[np.newaxis, np.newaxis]
    return convolution(graph, inputs[0], kernel, strides=(layer.strides,) * 2)


def _norm(graph: OnnxGraph, layer: Any, inputs: list[str], call: Any) -> str:
    """A batch norm that is not folded into a convolution, as an affine map."""
    if not isinstance(layer, IterationBatchNormalization):
        _check_last_axis(layer, call)
    scale, offset = (np.array(part) for part in affine_map(layer, call.arguments.kwargs.get("iteration", 0)))
    return _affine(graph, inputs[0], scale, offset, call)


def _rescaling(graph: OnnxGraph, layer: Any, inputs: list[str], call: Any) -> str:
    return _affine(graph, inputs[0], layer.scale, layer.offset, call)


def _affine(graph: OnnxGraph, x: str, scale: Any, offset: Any, call: Any) -> str:
    shape = (-1, 1, 1) if len(call.input_tensors[0].shape) == 4 else (-1,)
    scale, offset = (graph.constant(np.reshape(value, shape)) for value in (scale, offset))
    return graph.add("Add", graph.add("Mul", x, scale), offset)


def _concatenate(graph: OnnxGraph, layer: Any, inputs: list[str], call: Any) -> str:
    _check_last_axis(layer, call)
    return graph.add("Concat", *inputs, axis=1)


def _summed(operation: str) -> Callable:
    def write(graph: OnnxGraph, layer: Any, inputs: list[str], call: Any) -> str:
        if len({tuple(tensor.shape) for tensor in call.input_tensors}) != 1:
            raise UnwrittenLayerError(f"'{layer.name}' is given features of several shapes")
        total = inputs[0]
        for other in inputs[1:]:
            total = graph.add(operation, total, other)
        return total

    return write


def _unit(graph: OnnxGraph, layer: FrozenUnit, inputs: list[str], call: Any) -> str:
    iteration = call.arguments.kwargs.get("iteration", 0)
    weights = [array[iteration, 0] for array in layer.folded]
    positions = _positions(layer, call, (3, 3), (layer.strides,) * 2)
    return residual_unit(graph, inputs[0], weights, layer.strides, positions)


def _positions(layer: Any, call: Any, window: Sequence[int], strides: Sequence[int]) -> tuple:
    """Height and width of what a layer is given.

    `ValueError` where they must be known and are not: how much "same" pads depends on them where strides exceed the
    window. Another converter would write a file of wrong numbers.
    """
    positions = tuple(call.input_tensors[0].shape[1:3])
    is_padded = getattr(layer, "padding", "same") == "same" and max(window) > 1
    if is_padded and None in positions and exceed(strides, window):
        raise ValueError(
            f"ONNX files pad as Keras does only features of a fixed size where strides exceed the window: give the "
            f"model's Input a height and width. Received: '{layer.name}' with strides of {tuple(strides)}, a window of "
            f"{tuple(window)} and features of shape {tuple(call.input_tensors[0].shape)}"
        )
    return positions


def _check_rank(layer: Any, call: Any, *ranks: int) -> None:
    shape = tuple(call.input_tensors[0].shape)
    if len(shape) not in ranks:
        raise UnwrittenLayerError(f"'{layer.name}' is given features of shape {shape}")


def _check_last_axis(layer: Any, call: Any) -> None:
    rank = len(call.input_tensors[0].shape)
    if layer.axis % rank != rank - 1:
        raise UnwrittenLayerError(f"'{layer.name}' works along axis {layer.axis}")


def _same(_: OnnxGraph, __: Any, inputs: list[str], ___: Any) -> str:
    return inputs[0]


WRITERS: dict[type, Callable[[OnnxGraph, Any, list[str], Any], str]] = {
    FrozenReSet: lambda graph, layer, inputs, _: write_module(graph, layer, *inputs),
    FrozenUnit: _unit,
    IterationBatchNormalization: _norm,
    PadShortcut: _pad_shortcut,
    keras.layers.Activation: lambda graph, layer, inputs, _: activated(graph, layer, inputs[0]),
    keras.layers.Add: _summed("Add"),
    keras.layers.AveragePooling2D: _pool("AveragePool"),
    keras.layers.BatchNormalization: _norm,
    keras.layers.Concatenate: _concatenate,
    keras.layers.Conv2D: _conv,
    keras.layers.Dense: _dense,
    keras.layers.Dropout: _same,
    keras.layers.Flatten: _flatten,
    keras.layers.GaussianNoise: _same,
    keras.layers.GlobalAveragePooling2D: _global_pool("GlobalAveragePool"),
    keras.layers.GlobalMaxPooling2D: _global_pool("GlobalMaxPool"),
    keras.layers.Identity: _same,
    keras.layers.MaxPooling2D: _pool("MaxPool"),
    keras.layers.Multiply: _summed("Mul"),
    keras.layers.ReLU: _relu,
    keras.layers.Rescaling: _rescaling,
    keras.layers.SpatialDropout2D: _same,
    keras.layers.ZeroPadding2D: _padding,
}
"""How each class of layers is written, and no subclass of it: that may compute something else."""
