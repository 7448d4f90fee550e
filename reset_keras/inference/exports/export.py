"""Frozen networks as files for other programs: SavedModel, LiteRT and ONNX."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from reset_keras.inference.exports.converted import DTYPES, convert
from reset_keras.inference.exports.onnx_modules import UnwrittenLayerError
from reset_keras.inference.exports.onnx_writer import onnx_model
from reset_keras.inference.frozen.frozen_graph import FrozenUnit, graph_of
from reset_keras.inference.frozen.frozen_network import FrozenNetwork
from reset_keras.inference.frozen.frozen_pool import FrozenUnitPool
from reset_keras.inference.frozen.frozen_reset import FrozenReSet
from reset_keras.keras_internals import all_layers


def export(
    network: FrozenNetwork,
    path: str | pathlib.Path,
    format: str = "savedmodel",  # noqa: A002
    one_image: bool = False,
) -> None:
    """Writes a frozen network to a file that other programs run, without Keras and without this package.

    The result takes `images`, float32 or the type of a model's integers, a batch of any size (of one or more in
    LiteRT), and returns `outputs`, float32: what the network returns. What was at `path` is replaced once all is
    written, and stays as it was where the conversion fails.

    An ONNX file (opset 18) runs only the chosen units, for one image or many. Networks with unusual layers, or other
    types than float32, are converted by TensorFlow, and then dense unless frozen with `execution="sparse"`.

    The file of a calibrated network for every budget also takes `compute`, the mean compute fraction that it is set to:
    in ONNX, unless converted, an input that may be left out; in a SavedModel and in LiteRT an input of a second
    signature, `"at_compute"`.

    Args:
        network: What `freeze` returned. Networks frozen with `execution="auto"` become dense in LiteRT, unless for
            `one_image`, and in a SavedModel what this machine would run for large batches.
        path: Where to write: a folder for a SavedModel, otherwise a file. Missing folders above it are made.
        format: `"savedmodel"`, dense or sparse, for TensorFlow and TensorFlow Serving; `"litert"` for phones and small
            devices, dense, or sparse if frozen with `execution="sparse"`: image after image then, each by branches;
            `"onnx"` for ONNX Runtime, on any backend; the others need TensorFlow. Default `"savedmodel"`.
        one_image: Boolean, whether an ONNX or LiteRT file takes one image at a time, not a batch of any size. It is
            then faster, and in ONNX half as large. Default `False`.

    Raises:
        ValueError: `format` is unknown, or cannot hold this network; `network` is not frozen, has several outputs, or
            weights that are not finite; `path` holds something else; the backend is not TensorFlow, but must be.
        ImportError: `format` is `"onnx"` and its packages are missing: `pip install "reset_keras[export]"`.

    Examples:
        >>> import tempfile, numpy as np, tensorflow as tf
        >>> from reset_keras.inference import freeze
        >>> network = freeze(ReSetNet((1,), input_shape=(8, 8, 1), scorer="gumbel_st"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export(network, f"{folder}/digits")
        ...     loaded = tf.saved_model.load(f"{folder}/digits")
        >>> loaded.signatures["serving_default"](images=np.zeros((3, 8, 8, 1), "float32"))["outputs"].shape
        TensorShape([3, 10])
    """
    path = pathlib.Path(path).resolve()
    if format not in DTYPES:
        raise ValueError(f"`format` must be one of {tuple(DTYPES)}. Received: format={format!r}")
    if one_image and format == "savedmodel":
        raise ValueError("`one_image` is for 'onnx' and 'litert': a SavedModel takes any batch. Received: 'savedmodel'")
    _check_network(network)
    _check_path(path, format)
    with _replaced_when_whole(path) as unfinished:
        _write(network, unfinished, format, one_image)


def _write(network: FrozenNetwork, path: pathlib.Path, file_format: str, one_image: bool) -> None:
    reason = ""
    if file_format == "onnx":
        try:
            path.write_bytes(onnx_model(network, one_image).SerializeToString())
        except ImportError as error:
            raise ImportError('Exporting to ONNX needs a further package: pip install "reset_keras[export]"') from error
        except UnwrittenLayerError as error:
            if one_image:
                raise ValueError(f"`one_image` needs layers that this package writes. Received: {error}") from error
            reason = f" to ONNX a network in which {error}"
        else:
            return
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Exporting{reason} needs the TensorFlow backend. Received: the {keras.backend.backend()} backend. Save "
            "the model, and load, freeze and export it with KERAS_BACKEND=tensorflow"
        )
    convert(network, path, file_format, one_image)


def _check_network(network: FrozenNetwork) -> None:
    if not isinstance(network, FrozenNetwork):
        raise ValueError(
            "Only a frozen network can be exported: export(reset_keras.inference.freeze(model), ...). "
            f"Received: a {type(network).__name__}"
        )
    output = network.graph.output
    count = len(keras.tree.flatten(output["outputs"] if network.routed else output))
    if count != 1:
        raise ValueError(
            f"Only a network with one output can be exported: freeze a model of one of them. Received: {count} outputs"
        )
    layers = [layer for layer in all_layers(network.graph) if graph_of(layer) is None]
    # Layers come before those in them. So each weight is looked at once, by the name of the outermost layer.
    weights = {id(weight): (weight, layer.name) for layer in reversed(layers) for weight in _weights(layer)}
    for weight, name in weights.values():
        array = keras.ops.convert_to_numpy(weight).astype("float64")  # bfloat16 is no kind of NumPy's
        if not np.isfinite(array).all():
            raise ValueError(
                f"The weights of '{name}' must be finite. Received: NaN or infinity among them; the training of this "
                "network has failed"
            )


def _weights(layer: Any) -> list[Any]:
    """Weights of a layer of a frozen network, constants among them."""
    if isinstance(layer, FrozenUnit):
        return [*layer.folded]
    if not isinstance(layer, FrozenReSet):
        return layer.weights
    # A frozen pool is no layer: `layer.weights` leaves out its arrays, and the `UnitPool` that it may hold.
    if isinstance(layer.pool, FrozenUnitPool):
        return [*layer.weights, *(weight for unit in all_layers(layer.pool.pool) for weight in _weights(unit))]
    return [*layer.weights, *layer.pool.folded]


def _check_path(path: pathlib.Path, file_format: str) -> None:
    if file_format != "savedmodel" and path.is_dir():
        raise ValueError(f"format='{file_format}' is written to a file. Received: a folder, path={str(path)!r}")
    is_earlier = (path / "saved_model.pb").exists() or (path.is_dir() and not any(path.iterdir()))
    if file_format == "savedmodel" and path.exists() and not is_earlier:
        raise ValueError(
            "A SavedModel is written to a folder that is new, empty or an earlier SavedModel. "
            f"Received: path={str(path)!r}, which holds something else"
        )


@contextlib.contextmanager
def _replaced_when_whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path beside `path` for a file or folder that gets the name `path` when all is written, never before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, as a rename is one step only within a file system.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        unfinished = pathlib.Path(folder) / path.name
        yield unfinished
        if path.is_dir():  # a folder cannot be put in the place of one that holds files
            path.rename(pathlib.Path(folder) / "replaced")
        unfinished.replace(path)
