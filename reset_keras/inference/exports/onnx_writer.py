"""A frozen network as an ONNX model, from its folded weights: no TensorFlow in between, and no transposes within."""

from typing import Any

import keras

from reset_keras.inference.exports.onnx_graph import OnnxGraph
from reset_keras.inference.exports.onnx_layers import write_network
from reset_keras.inference.exports.onnx_modules import UnwrittenLayerError
from reset_keras.inference.frozen.frozen_network import FrozenNetwork
from reset_keras.layers import RNNController


def onnx_model(network: FrozenNetwork, one_image: bool = False) -> Any:
    """The model, opset 18: `images` to `outputs`, float32.

    Args:
        network: A frozen network with one output.
        one_image: Boolean, whether a batch has one image, or any number of them. Default `False`.

    Raises:
        UnwrittenLayerError: a layer, or what the network takes or returns, is none of those that can be written.
    """
    from onnx import TensorProto, helper

    output = keras.tree.flatten(network.graph.output)[0]
    shapes = {"images": network.input_shape, "outputs": tuple(output.shape)}
    if network.input_dtype != "float32" or any(len(shape) not in (2, 4) for shape in shapes.values()):
        taken = f"{network.input_dtype} of shape {shapes['images']}"
        raise UnwrittenLayerError(f"it takes {taken} and returns float32 of shape {shapes['outputs']}")
    graph = OnnxGraph(one_image=one_image)
    recurrent = any(isinstance(module.controller, RNNController) for module in network.modules)
    needs_image = recurrent and not one_image
    x = _with_an_image(graph, "images") if needs_image else "images"
    if len(network.input_shape) == 4:
        x = graph.add("Transpose", x, perm=(0, 3, 1, 2))
    y = write_network(graph, network.graph, [x])[0]
    if not y:
        raise UnwrittenLayerError("routes are the output")
    if len(output.shape) == 4:
        y = graph.add("Transpose", y, perm=(0, 2, 3, 1))
    if needs_image:
        zero = graph.constant([0], "int64")
        y = graph.add("Slice", y, zero, graph.add("Shape", "images", start=0, end=1), zero)
    graph.nodes.append(helper.make_node("Identity", [y], ["outputs"]))
    described = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1 if one_image else "batch", *shape[1:]])
        for name, shape in shapes.items()
    }
    return graph.model([described["images"]], [described["outputs"]])


def _with_an_image(graph: OnnxGraph, images: str) -> str:
    """The images, of an empty batch one of zeros: ONNX Runtime's LSTM ends the process where there is none."""
    count = graph.add("Shape", images, start=0, end=1)
    is_empty = graph.add("Cast", graph.add("Equal", count, graph.constant([0], "int64")), to=7)  # int64
    zero = graph.constant([0], "int64")
    return graph.add("Pad", images, graph.add("Concat", zero, is_empty, axis=0), "", zero)
