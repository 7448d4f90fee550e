"""Frozen networks as files for other programs: SavedModel, LiteRT and ONNX."""

import contextlib
import logging
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import keras

from reset_keras.inference.frozen.frozen_network import FrozenNetwork
from reset_keras.inference.frozen.frozen_pool import FrozenResidualPool

DTYPES = {"savedmodel": ("float32", "float16", "bfloat16"), "litert": ("float32",), "onnx": ("float32", "float16")}
"""Types in which the programs that run a format compute convolutions."""

ONNX_OPSET = 18


def export(network: FrozenNetwork, path: str | pathlib.Path, format: str = "savedmodel") -> None:  # noqa: A002
    """Writes a frozen network to a file that other programs run, without Keras and without this package.

    The result takes `images`, float32 or the type of a model's integers, a batch of any size (of one or more in
    LiteRT), and returns `outputs`, float32: what the network returns. What was at `path` is replaced once all is
    written, and stays as it was where the conversion fails.

    Args:
        network: What `freeze` returned. Networks frozen with `execution="auto"` become dense in LiteRT and ONNX, and in
            a SavedModel what this machine would run for large batches.
        path: Where to write: a folder for a SavedModel, otherwise a file. Missing folders above it are made.
        format: `"savedmodel"`, dense or sparse, for TensorFlow and TensorFlow Serving; `"litert"` for phones and small
            devices, dense, or sparse if frozen with `execution="sparse"`: image after image then, each by branches;
            `"onnx"`, dense, or sparse if frozen with `execution="sparse"` and of residual units, for ONNX Runtime.
            Default `"savedmodel"`.

    Raises:
        ValueError: `format` is unknown, or cannot hold this network; `network` is not frozen, or has several outputs;
            `path` holds something else; the backend is not TensorFlow.
        ImportError: `format` is `"onnx"` and its packages are missing: `pip install "reset_keras[export]"`.

    Examples:
        >>> import tempfile, numpy as np, tensorflow as tf
        >>> from reset_keras.inference import freeze
        >>> network = freeze(ReSetNet((1, 1), input_shape=(8, 8, 1), scorer="gumbel_st"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export(network, f"{folder}/digits")
        ...     loaded = tf.saved_model.load(f"{folder}/digits")
        >>> loaded.signatures["serving_default"](images=np.zeros((3, 8, 8, 1), "float32"))["outputs"].shape
        TensorShape([3, 10])
    """
    path = pathlib.Path(path).resolve()
    if format not in DTYPES:
        raise ValueError(f"`format` must be one of {tuple(DTYPES)}. Received: format={format!r}")
    _check_network(network, format)
    _check_path(path, format)
    write = {"savedmodel": _write_savedmodel, "litert": _write_litert, "onnx": _write_onnx}[format]
    execution = _execution_in(format, network.execution)
    with _replaced_when_whole(path) as unfinished, _executed_as(network, execution):
        one_by_one = execution == "branches" and network.modules
        write(_serving_module(network, _image_after_image(network) if one_by_one else network.run, format), unfinished)


def _execution_in(format: str, execution: str) -> str:  # noqa: A002
    """How a format runs what was frozen with an `execution`."""
    if format == "litert" and execution == "sparse":
        return "branches"  # LiteRT's convolutions are slow where kernels or shapes are not constant
    return "dense" if format != "savedmodel" and execution == "auto" else execution


def _check_network(network: FrozenNetwork, format: str) -> None:  # noqa: A002
    if not isinstance(network, FrozenNetwork):
        raise ValueError(
            "Only a frozen network can be exported: export(reset_keras.inference.freeze(model), ...). "
            f"Received: a {type(network).__name__}"
        )
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Exporting needs the TensorFlow backend. Received: the {keras.backend.backend()} backend. Save the model, "
            "and load, freeze and export it with KERAS_BACKEND=tensorflow"
        )
    if len(_outputs(network)) != 1:
        raise ValueError(
            "Only a network with one output can be exported: freeze a model of one of them. "
            f"Received: {len(_outputs(network))} outputs"
        )
    own = [module.name for module in network.modules if not isinstance(module.pool, FrozenResidualPool)]
    if format == "onnx" and network.execution == "sparse" and own:
        raise ValueError(
            "A sparse ONNX file needs residual units: ONNX Runtime fails in other layers where a group has no images. "
            f"Received: units of another kind in {own}. Use freeze(model, 'dense')"
        )
    foreign = {layer.compute_dtype for layer in network.graph.layers}.difference(DTYPES[format])
    if foreign:
        raise ValueError(
            f"format='{format}' takes networks that compute in {DTYPES[format]}. Received: one that computes in "
            f"{sorted(foreign)}. Load its weights into a model made under keras.config.set_dtype_policy('float32')"
        )


def _outputs(network: FrozenNetwork) -> list[Any]:
    output = network.graph.output
    return list(keras.tree.flatten(output["outputs"] if network.routed else output))


def _check_path(path: pathlib.Path, format: str) -> None:  # noqa: A002
    if format != "savedmodel" and path.is_dir():
        raise ValueError(f"format='{format}' is written to a file. Received: a folder, path={str(path)!r}")
    earlier = path / "saved_model.pb"
    if format == "savedmodel" and path.exists() and not earlier.exists() and not (path.is_dir() and _is_empty(path)):
        raise ValueError(
            "A SavedModel is written to a folder that is new, empty or an earlier SavedModel. "
            f"Received: path={str(path)!r}, which holds something else"
        )


def _is_empty(folder: pathlib.Path) -> bool:
    return not any(folder.iterdir())


@contextlib.contextmanager
def _replaced_when_whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path beside `path` for a file or folder that gets the name `path` when all is written, never before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        unfinished = pathlib.Path(folder) / path.name
        yield unfinished
        if path.is_dir():  # a folder cannot be put in the place of one that holds files
            path.rename(pathlib.Path(folder) / "replaced")
        unfinished.replace(path)


@contextlib.contextmanager
def _executed_as(network: FrozenNetwork, execution: str) -> Iterator[None]:
    for module in network.modules:
        module.execution = execution
    try:
        yield
    finally:
        for module in network.modules:
            module.execution = network.execution


def _image_after_image(network: FrozenNetwork) -> Callable[[Any], Any]:
    """The network as a loop over the images of a batch."""
    import tensorflow as tf

    (output,) = _outputs(network)

    def one(image: Any) -> Any:
        return keras.tree.flatten(network.run(image[tf.newaxis]))[0][0]

    def run(images: Any) -> Any:
        return tf.map_fn(one, images, fn_output_signature=tf.TensorSpec(output.shape[1:], output.dtype))

    return run


def _serving_module(network: FrozenNetwork, run: Callable[[Any], Any], format: str) -> Any:  # noqa: A002
    """A `tf.Module` whose function `serve` takes `images` and returns `outputs`: what `run` returns for them.

    Weights are constants in it: LiteRT files that keep variables convert, and then fail when they run. On TensorFlow
    convolutions of no image fail: an empty batch gets an image, whose output is dropped. ONNX Runtime takes empty
    batches as they are, LiteRT takes none.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    signature = [tf.TensorSpec((None, *network.input_shape[1:]), network.input_dtype, name="images")]
    traced = tf.function(run, input_signature=signature, autograph=False)
    constant = convert_variables_to_constants_v2(traced.get_concrete_function())

    def serve(images: Any) -> dict[str, Any]:
        return {"outputs": tf.cast(constant(images)[0], tf.float32)}

    def serve_also_none(images: Any) -> dict[str, Any]:
        count = tf.shape(images)[0]
        missing = [[0, tf.cast(count == 0, tf.int32)], *[[0, 0]] * (len(images.shape) - 1)]
        return {"outputs": serve(tf.pad(images, missing))["outputs"][:count]}

    module = tf.Module()
    module.constant = constant
    function = serve_also_none if format == "savedmodel" else serve
    module.serve = tf.function(function, input_signature=signature, autograph=False)
    return module


def _write_savedmodel(module: Any, path: pathlib.Path) -> None:
    import tensorflow as tf

    tf.saved_model.save(module, str(path), signatures=module.serve)


def _write_litert(module: Any, path: pathlib.Path) -> None:
    import tensorflow as tf
    from tensorflow.lite.python.convert import ConverterError

    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)
    try:
        path.write_bytes(converter.convert())
    except ConverterError as error:
        raise ValueError(f"LiteRT lacks operations of this network; a SavedModel has them all. {error}") from error


def _write_onnx(module: Any, path: pathlib.Path) -> None:
    try:
        import onnx
        import tf2onnx
    except ImportError as error:
        raise ImportError('Exporting to ONNX needs further packages: pip install "reset_keras[export]"') from error
    signature = module.serve.input_signature
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # what it cannot convert is told below, in one sentence
    model, _ = tf2onnx.convert.from_function(module.serve, input_signature=signature, opset=ONNX_OPSET)
    try:
        onnx.checker.check_model(model)  # the converter leaves operations in that it does not know, and goes on
    except onnx.checker.ValidationError as error:
        raise ValueError(f"ONNX lacks operations of this network; a SavedModel has them all. {error}") from error
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    path.write_bytes(model.SerializeToString())
