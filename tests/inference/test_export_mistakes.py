"""What cannot be exported is refused in a sentence, and leaves nothing behind."""

import sys

import keras
import numpy as np
import pytest

import reset_keras as rk
from exported_networks import exported, frozen, model_of_own_units, reset
from networks import one_module_reset
from reset_keras.inference import export, freeze

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow")


@keras.saving.register_keras_serializable("tests")
class Cholesky(keras.layers.Layer):
    """An operation that neither LiteRT nor ONNX has."""

    def call(self, inputs):
        return keras.ops.cholesky(inputs)


@pytest.mark.parametrize(("file_format", "message"), [("litert", "LiteRT lacks"), ("onnx", "ONNX lacks")])
def test_a_conversion_that_fails_leaves_what_was_there(file_format, message, tmp_path):
    inputs = keras.Input((4, 4))
    network = freeze(keras.Model(inputs, Cholesky()(inputs)))
    (tmp_path / "network").write_text("earlier")
    with pytest.raises(ValueError, match=message):
        exported(network, tmp_path / "network", file_format)
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["earlier"]


def mixed_precision(around=lambda layer: layer):
    inputs = keras.Input((8, 8, 1))
    return freeze(keras.Model(inputs, around(keras.layers.Conv2D(1, 1, dtype="mixed_bfloat16"))(inputs)))


def in_a_model(layer):
    return keras.Sequential([keras.Input((8, 8, 1)), layer, keras.layers.DepthwiseConv2D(3)])


def in_a_pool(layer):
    return rk.ReSet([layer, keras.layers.Conv2D(1, 1)], 2)


def two_outputs():
    inputs = keras.Input((8, 8, 1))
    return freeze(keras.Model(inputs, {name: keras.layers.Conv2D(4, 3)(inputs) for name in ("first", "second")}))


@pytest.mark.parametrize(
    ("make", "file_format", "message"),
    [
        (frozen, "tflite", "`format` must be one of .* Received: format='tflite'"),
        (lambda: reset("gumbel_st"), "onnx", "Only a frozen network can be exported: .* Received: a ReSetNet"),
        (lambda: freeze(model_of_own_units(), "sparse"), "onnx", "needs residual units: .* in \\['re_set"),
        (two_outputs, "savedmodel", "one output can be exported: .* Received: 2 outputs"),
        (mixed_precision, "litert", "computes in \\['bfloat16'\\]"),
        (mixed_precision, "onnx", "computes in \\['bfloat16'\\]"),
        (lambda: mixed_precision(in_a_model), "onnx", "computes in \\['bfloat16'\\]"),
        (lambda: mixed_precision(in_a_pool), "litert", "computes in \\['bfloat16'\\]"),
    ],
)
def test_mistakes_are_explained(make, file_format, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(make(), tmp_path / "network", file_format)
    assert not [*tmp_path.iterdir()]


def test_nothing_but_an_export_is_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("keep")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match="a folder that is new, empty or an earlier SavedModel"):
            export(frozen(), path)
    with pytest.raises(ValueError, match=r"is written to a file\. Received: a folder"):
        export(frozen(), tmp_path, "litert")
    assert (tmp_path / "notes.txt").read_text() == "keep"


@pytest.mark.parametrize(("package", "make"), [("onnx", frozen), ("tf2onnx", lambda: freeze(model_of_own_units()))])
def test_missing_packages_are_named(package, make, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "reset_keras\[export\]"'):
        export(make(), tmp_path / "network.onnx", "onnx")
    assert not [*tmp_path.iterdir()]


def test_other_backends_are_refused(tmp_path, monkeypatch):
    network = frozen()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"needs the TensorFlow backend\. Received: the jax backend"):
        export(network, str(tmp_path / "network"))


def model_of_units(unit):
    inputs = keras.Input((8, 8, 4))
    x, routes = rk.ReSet([unit, keras.layers.Conv2D(4, 1)], 1, return_routes=True)(inputs)
    return rk.RoutedModel(inputs, x, routes=[routes])


@pytest.mark.parametrize(
    "unit",
    [
        lambda: rk.ResidualUnit(4),
        lambda: keras.Sequential([keras.layers.Conv2D(4, 1), keras.layers.BatchNormalization()]),
    ],
)
def test_folded_weights_of_ones_own_units_that_are_not_finite_are_refused(unit, tmp_path):
    model = model_of_units(unit())
    weight = model.routed_modules[0].pool.units[0].trainable_weights[0]
    weight.assign(np.full(weight.shape, np.nan))
    with pytest.raises(ValueError, match=r"weights of 're_set\w*' must be finite"):
        export(freeze(model), tmp_path / "network")


@pytest.mark.parametrize("part", ["stem", "units", "own units", "controller"])
@pytest.mark.parametrize("nested", [False, True], ids=["", "in a model"])
def test_weights_that_are_not_finite_are_refused(part, nested, tmp_path):
    model = model_of_own_units.__wrapped__() if part == "own units" else one_module_reset("gumbel_st")
    module = model.routed_modules[-1]
    layer = {"stem": model.layers[1], "controller": module.controller}.get(part, module.pool)
    weight = layer.trainable_weights[0]
    weight.assign(np.full(weight.shape, np.nan))
    name = layer.name if part == "stem" else module.name
    model = keras.Sequential([keras.Input(model.input_shape[1:]), model]) if nested else model
    with pytest.raises(ValueError, match=rf"weights of '{name}' must be finite\. Received: NaN or infinity"):
        export(freeze(model, "dense"), tmp_path / "network")
    assert not [*tmp_path.iterdir()]


def test_weights_in_bfloat16_that_are_not_finite_are_refused(tmp_path):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.layers.Dense(4, dtype="bfloat16")(inputs))
    model.layers[-1].kernel.assign(np.full((8, 4), np.nan))
    with pytest.raises(ValueError, match=r"must be finite\. Received: NaN or infinity"):
        export(freeze(model), tmp_path / "network")


def test_files_for_one_image_are_for_onnx_and_litert_and_for_layers_that_are_written(tmp_path):
    with pytest.raises(ValueError, match=r"`one_image` is for 'onnx' and 'litert'.* Received: 'savedmodel'"):
        export(frozen(), tmp_path / "network", one_image=True)
    with pytest.raises(ValueError, match=r"`one_image` needs layers that this package writes\. Received: it takes"):
        export(freeze(model_of_own_units()), tmp_path / "network", "onnx", one_image=True)
    assert not [*tmp_path.iterdir()]
