"""Operations that layers, units and controllers are written by."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from reset_keras.inference.exports.onnx_graph import OnnxGraph


def dense(graph: OnnxGraph, x: str, layer: Any) -> str:
    """What a dense layer computes of features `(batch, channels)`, without its activation."""
    weights = (layer.kernel, layer.bias) if layer.use_bias else (layer.kernel,)
    return graph.add("Gemm", x, *(graph.constant(np.array(weight)) for weight in weights))


def pooled(graph: OnnxGraph, x: str, operation: str = "GlobalAveragePool") -> str:
    """Features over all positions: `(batch, channels)`."""
    return graph.add("Flatten", graph.add(operation, x))


def convolution(graph: OnnxGraph, x: str, kernel: Any, bias: Any = None, padding: str = "same", **sizes: Any) -> str:
    """A convolution by kernel, bias and padding as Keras has them; `sizes` are ONNX's strides, dilations and group."""
    weights = [graph.weight(np.transpose(kernel, (3, 2, 0, 1))), *([] if bias is None else [graph.weight(bias)])]
    if padding == "same" and set(sizes.get("strides", (1,))) == {1}:  # "SAME_UPPER" goes with no dilation
        steps = sizes.get("dilations", (1, 1))
        missing = [(size - 1) * step for size, step in zip(kernel.shape[:2], steps, strict=True)]
        sizes["pads"] = [*(count // 2 for count in missing), *(-(-count // 2) for count in missing)]
    else:
        sizes["auto_pad"] = "SAME_UPPER" if padding == "same" else "VALID"
    return graph.add("Conv", x, *weights, kernel_shape=kernel.shape[:2], **sizes)


def residual_unit(graph: OnnxGraph, x: str, weights: Sequence[np.ndarray], strides: int = 1) -> str:
    """`F(x)` of a folded unit, by kernel and bias of its two convolutions."""
    kernel1, bias1, kernel2, bias2 = weights
    y = graph.add("Relu", convolution(graph, x, kernel1, bias1, strides=(strides, strides)))
    return convolution(graph, y, kernel2, bias2)
