"""What TensorFlow writes, or what is converted from TensorFlow: SavedModel, LiteRT, and some ONNX files."""

import logging
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from reset_keras.inference.exports.compute_input import COMPUTE, calibrated_controllers, with_compute
from reset_keras.inference.exports.onnx_graph import OPSET
from reset_keras.inference.frozen.frozen_graph import graph_of
from reset_keras.inference.frozen.frozen_network import FrozenNetwork
from reset_keras.inference.frozen.frozen_pool import FrozenResidualPool, FrozenUnitPool
from reset_keras.inference.frozen.frozen_reset import FrozenReSet
from reset_keras.keras_internals import all_layers

DTYPES = {
    "savedmodel": ("float32", "float64", "float16", "bfloat16"),
    "litert": ("float32",),
    "onnx": ("float32", "float16"),
}
"""Types in which the programs that run a format compute convolutions."""
WITH_COMPUTE = ("savedmodel", "litert")
"""Formats that may have a second signature, which takes a compute fraction; converted ONNX files have only one."""


def convert(network: FrozenNetwork, path: pathlib.Path, format: str, one_image: bool = False) -> None:  # noqa: A002
    """Writes a frozen network by TensorFlow, on its backend.

    Args:
        network: A frozen network with one output.
        path: Where to write; nothing is there.
        format: One of `DTYPES`.
        one_image: Boolean, whether a LiteRT file takes one image at a time. Default `False`.

    Raises:
        ValueError: the format cannot hold this network.
        ImportError: a converter is missing.
    """
    _check(network, format)
    write = {"savedmodel": _write_savedmodel, "litert": _write_litert, "onnx": _write_onnx}[format]
    before = [module.execution for module in network.modules]
    # Modules look at this attribute while they are traced, in `write`.
    for module in network.modules:
        module.execution = _execution_in(format, module, one_image)
    try:
        one_by_one = not one_image and any(module.execution == "branches" for module in network.modules)
        run = _image_after_image(network) if one_by_one else network.run
        write(_serving_module(network, run, format, 1 if one_image else None), path)
    finally:
        for module, execution in zip(network.modules, before, strict=True):
            module.execution = execution


def _check(network: FrozenNetwork, file_format: str) -> None:
    own = [module.name for module in network.modules if not isinstance(module.pool, FrozenResidualPool)]
    if file_format == "onnx" and network.execution == "sparse" and own:
        raise ValueError(
            "A sparse ONNX file needs residual units: ONNX Runtime fails in other layers where a group has no images. "
            f"Received: units of another kind in {own}. Use freeze(model, 'dense')"
        )
    # A frozen pool is no layer: the units that it holds are not among those of the graph.
    pools = [module.pool.pool for module in network.modules if isinstance(module.pool, FrozenUnitPool)]
    layers = [layer for whole in (network.graph, *pools) for layer in all_layers(whole)]
    # Models and inputs compute nothing themselves, and have the type of the policy that they were made under.
    computing = [x for x in layers if graph_of(x) is None and not isinstance(x, keras.layers.InputLayer)]
    # Layers of ids and words compute in integers and strings.
    types = {layer.compute_dtype for layer in computing if "float" in layer.compute_dtype}
    foreign = types.difference(DTYPES[file_format])
    if foreign:
        raise ValueError(
            f"format='{file_format}' takes networks that compute in {DTYPES[file_format]}. Received: one that computes "
            f"in {sorted(foreign)}. Load its weights into a model made under keras.config.set_dtype_policy('float32')"
        )


def _execution_in(file_format: str, module: FrozenReSet, one_image: bool) -> str:
    """How a format runs a module."""
    by_branches = module.execution == "sparse" or (module.execution == "auto" and one_image and module.skips)
    if file_format == "litert" and by_branches:
        return "branches"  # LiteRT's convolutions are slow where kernels or shapes are not constant
    return "dense" if file_format != "savedmodel" and module.execution == "auto" else module.execution


def _image_after_image(network: FrozenNetwork) -> Callable[[Any], Any]:
    """The network as a loop over the images of a batch."""
    import tensorflow as tf

    output = keras.tree.flatten(network.graph.output)[0]

    def one(image: Any) -> Any:
        return keras.tree.flatten(network.run(image[tf.newaxis]))[0][0]

    def run(images: Any) -> Any:
        return tf.map_fn(one, images, fn_output_signature=tf.TensorSpec(output.shape[1:], output.dtype))

    return run


def _serving_module(network: FrozenNetwork, run: Callable[[Any], Any], file_format: str, batch_size: int | None) -> Any:
    """A `tf.Module` whose functions return `outputs`: what `run` returns for `images`.

    `serving_default` takes images only. Of a calibrated network `at_compute` takes the compute fraction, too.

    Weights are constants in it: LiteRT files that keep variables convert, and then fail when they run.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    controllers = calibrated_controllers(network) if file_format in WITH_COMPUTE else []
    signature = [tf.TensorSpec((batch_size, *network.input_shape[1:]), network.input_dtype, name="images")]
    whole_signature = [*signature, tf.TensorSpec((), "float32", name=COMPUTE)] if controllers else signature
    run = with_compute(run, controllers) if controllers else run
    traced = tf.function(run, input_signature=whole_signature)
    is_lowered = file_format != "litert"  # its converter cannot put branches within branches together again
    constant = convert_variables_to_constants_v2(traced.get_concrete_function(), lower_control_flow=is_lowered)

    def at_compute(images: Any, *settings: Any) -> dict[str, Any]:
        if file_format != "savedmodel":
            return {"outputs": tf.cast(constant(images, *settings)[0], tf.float32)}
        # With oneDNN TensorFlow fails in convolutions of no image: one is put in the place of none.
        shape, count = tf.shape(images), tf.shape(images)[:1]
        in_place = tf.zeros(tf.concat([tf.cast(count == 0, tf.int32), shape[1:]], axis=0), images.dtype)
        outputs = constant(tf.concat([images, in_place], axis=0), *settings)[0]
        return {"outputs": tf.cast(outputs[: count[0]], tf.float32)}

    def serving_default(images: Any) -> dict[str, Any]:
        return at_compute(images, *[tf.constant(np.inf)] * bool(controllers))

    module = tf.Module()
    module.serving_default = tf.function(serving_default, input_signature=signature)
    if controllers:
        module.at_compute = tf.function(at_compute, input_signature=whole_signature)
    return module


def _write_savedmodel(module: Any, path: pathlib.Path) -> None:
    import tensorflow as tf

    signatures = {"serving_default": module.serving_default}
    if hasattr(module, "at_compute"):
        signatures["at_compute"] = module.at_compute
    tf.saved_model.save(module, str(path), signatures=signatures)


def _write_litert(module: Any, path: pathlib.Path) -> None:
    import tensorflow as tf
    from tensorflow.lite.python.convert import ConverterError

    functions = [module.serving_default, *([module.at_compute] if hasattr(module, "at_compute") else [])]
    functions = [function.get_concrete_function() for function in functions]
    converter = tf.lite.TFLiteConverter.from_concrete_functions(functions, module)
    try:
        path.write_bytes(converter.convert())
    except ConverterError as error:
        raise ValueError(f"LiteRT lacks operations of this network; a SavedModel has them all. {error}") from error


def _write_onnx(module: Any, path: pathlib.Path) -> None:
    try:
        import onnx
        import tf2onnx
    except ImportError as error:
        raise ImportError(
            'Exporting this network to ONNX needs further packages: pip install "reset_keras[export]"'
        ) from error
    signature = module.serving_default.input_signature
    log = logging.getLogger("tf2onnx")
    level = log.level
    log.setLevel(logging.CRITICAL)  # what it cannot convert is told below, in one sentence
    try:
        model, _ = tf2onnx.convert.from_function(module.serving_default, input_signature=signature, opset=OPSET)
    finally:
        log.setLevel(level)
    try:
        onnx.checker.check_model(model)  # the converter leaves operations in that it does not know, and goes on
    except onnx.checker.ValidationError as error:
        raise ValueError(f"ONNX lacks operations of this network; a SavedModel has them all. {error}") from error
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    path.write_bytes(model.SerializeToString())
