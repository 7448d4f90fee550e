"""Operations that layers, units and controllers are written by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reset_keras.inference.exports.onnx_graph import OnnxGraph


def dense(graph: OnnxGraph, x: str, layer: Any) -> str:
    """What a dense layer computes of features `(batch, channels)`, without its activation."""
    weights = (layer.kernel, layer.bias) if layer.use_bias else (layer.kernel,)
    return graph.add("Gemm", x, *(graph.constant(np.array(weight)) for weight in weights))


def convolution(graph: OnnxGraph, x: str, kernel: np.ndarray, bias: Any = None, strides: int = 1) -> str:
    """A convolution 3x3 whose kernel is as ONNX has it: output channels, input channels, height, width."""
    weights = [graph.weight(array) for array in (kernel, bias) if array is not None]
    padding: dict[str, Any] = {"pads": (1, 1, 1, 1)} if strides == 1 else {"auto_pad": "SAME_UPPER"}
    return graph.add("Conv", x, *weights, kernel_shape=(3, 3), strides=(strides, strides), **padding)


def residual_unit(graph: OnnxGraph, x: str, weights: Sequence[np.ndarray], strides: int = 1) -> str:
    """`F(x)` of a folded unit, by kernel and bias of its two convolutions, as Keras has them."""
    kernel1, bias1, kernel2, bias2 = weights
    y = graph.add("Relu", convolution(graph, x, np.transpose(kernel1, (3, 2, 0, 1)), bias1, strides))
    return convolution(graph, y, np.transpose(kernel2, (3, 2, 0, 1)), bias2)
