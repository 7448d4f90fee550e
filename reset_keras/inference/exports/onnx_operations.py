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


def convolution(
    graph: OnnxGraph, x: str, kernel: Any, bias: Any = None, padding: str = "same", positions: Any = None, **sizes: Any
) -> str:
    """A convolution by kernel, bias and padding as Keras has them; `sizes` are ONNX's strides, dilations and group.

    Its `positions`, height and width of what it is given, are asked for as in `padded`.
    """
    weights = [graph.weight(np.transpose(kernel, (3, 2, 0, 1))), *([] if bias is None else [graph.weight(bias)])]
    if padding == "same" and set(sizes.get("strides", (1,))) == {1}:  # "SAME_UPPER" goes with no dilation
        steps = sizes.get("dilations", (1, 1))
        missing = [(size - 1) * step for size, step in zip(kernel.shape[:2], steps, strict=True)]
        sizes["pads"] = [*(count // 2 for count in missing), *(-(-count // 2) for count in missing)]
    else:
        sizes |= padded(padding, kernel.shape[:2], sizes.get("strides", (1, 1)), positions)
    return graph.add("Conv", x, *weights, kernel_shape=kernel.shape[:2], **sizes)


def padded(padding: str, window: Sequence[int], strides: Sequence[int], positions: Any) -> dict[str, Any]:
    """Attributes of a convolution or pooling, padded as by Keras.

    Where strides exceed the window, ONNX Runtime takes "SAME_UPPER" for a padding by negative numbers: it fails, or
    moves the window. There the `positions` must be known, height and width of what is padded.
    """
    if padding == "valid":
        return {"auto_pad": "VALID"}
    if not exceed(strides, window):
        return {"auto_pad": "SAME_UPPER"}
    missing = [
        max(0, size - 1 - (count - 1) % stride) if size > 1 else 0
        for size, stride, count in zip(window, strides, positions or (1, 1), strict=True)
    ]
    return {"pads": [*(count // 2 for count in missing), *(-(-count // 2) for count in missing)]}


def exceed(strides: Sequence[int], window: Sequence[int]) -> bool:
    """Whether strides leave out positions."""
    return any(stride > size for stride, size in zip(strides, window, strict=True))


def residual_unit(
    graph: OnnxGraph, x: str, weights: Sequence[np.ndarray], strides: int = 1, positions: Any = None
) -> str:
    """`F(x)` of a folded unit, by kernel and bias of its two convolutions."""
    kernel1, bias1, kernel2, bias2 = weights
    y = graph.add("Relu", convolution(graph, x, kernel1, bias1, positions=positions, strides=(strides, strides)))
    return convolution(graph, y, kernel2, bias2)
