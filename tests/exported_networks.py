"""Small networks to export, and the programs that run what is exported."""

import functools
import pathlib
import tempfile

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import images_and_labels, one_module_reset, randomize
from reset_keras.inference import export, freeze

IMAGES, _ = images_and_labels(32)


@functools.cache
def reset(scorer):
    return randomize(one_module_reset(scorer))


@functools.cache
def expected_of(scorer):
    return np.array(reset(scorer)(IMAGES))


@functools.cache
def frozen(scorer="gumbel_st", execution="dense"):
    return freeze(reset(scorer), execution)


def runner_of_savedmodel(path, signature="serving_default"):
    import tensorflow as tf

    run = tf.saved_model.load(str(path)).signatures[signature]
    return lambda images, **settings: run(images=tf.constant(images), **settings)["outputs"].numpy()


def runner_of_litert(path, signature="serving_default"):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(model_path=str(path))
    run = interpreter.get_signature_runner(signature)
    return lambda images, **settings: run(images=images, **settings)["outputs"]


def runner_of_onnx(path):
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    return lambda images: session.run(["outputs"], {"images": images})[0]


@functools.cache
def dense_litert_file(scorer):
    """The file that is made of a dense network."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "network"
        export(frozen(scorer), path, "litert")
        return path.read_bytes()


RUNNERS = {"savedmodel": runner_of_savedmodel, "litert": runner_of_litert, "onnx": runner_of_onnx}


def exported(network, path, file_format):
    if file_format == "onnx":
        pytest.importorskip("tf2onnx")
    export(network, path, file_format)
    return RUNNERS[file_format](path)


def assert_equal_at_every_batch_size(run, images, expected):
    for size in (1, 7, 32):
        outputs = run(images[:size])
        assert outputs.dtype == np.float32
        np.testing.assert_allclose(outputs, expected[:size], atol=1e-4, rtol=1e-4)


@functools.cache
def model_of_own_units():
    inputs = keras.Input((6, 8))
    units = [keras.layers.Dense(8, activation="relu"), keras.layers.Conv1D(8, 3, padding="same")]
    x, routes = rk.ReSet(units, 1, scorer="gumbel_st", activation=None, return_routes=True)(inputs)
    return randomize(rk.RoutedModel(inputs, keras.layers.Dense(3)(x), routes=[routes]))
