"""Layers in ONNX files that are written without TensorFlow, and those that cannot be written."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import ONE_BACKEND, randomize, slow_on_jax, small_resnet
from onnx_sessions import AboveScorer, check
from reset_keras.inference import export, freeze
from reset_keras.inference.exports.onnx_modules import UnwrittenLayerError
from reset_keras.inference.exports.onnx_writer import onnx_model


def layers_of_many_kinds():
    inputs = keras.Input((9, 8, 3))
    x = keras.layers.Rescaling(0.5, 0.1)(inputs)
    x = keras.layers.ZeroPadding2D(((1, 0), (2, 1)))(x)
    x = keras.layers.Conv2D(4, (3, 2), strides=2, padding="same", activation="relu")(x)
    y = keras.layers.Conv2D(4, 3, padding="same", dilation_rate=2, groups=2, use_bias=False)(x)
    y = keras.layers.Activation("tanh")(keras.layers.BatchNormalization()(y))
    x = keras.layers.Add()([x, keras.layers.SpatialDropout2D(0.5)(y), y])
    x = keras.layers.Concatenate()([x, keras.layers.Multiply()([x, y])])
    x = keras.layers.AveragePooling2D(3, 1, padding="same")(keras.layers.MaxPooling2D(2, 1)(x))
    x = keras.layers.ReLU()(rk.PadShortcut(10, 2)(rk.layers.IterationBatchNormalization()(x)))
    largest = keras.layers.Flatten()(keras.layers.GlobalMaxPooling2D()(x))
    flat = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
    flat = keras.layers.BatchNormalization(scale=False)(keras.layers.Dense(5, activation="sigmoid")(flat))
    x = keras.layers.Concatenate()([flat, keras.layers.GaussianNoise(0.1)(largest)])
    return randomize(keras.Model(inputs, keras.layers.Dense(4, activation="softmax", use_bias=False)(x)))


@slow_on_jax
def test_layers_of_many_kinds():
    images = np.random.default_rng(0).normal(size=(32, 9, 8, 3)).astype("float32")
    check(layers_of_many_kinds(), images)


@pytest.mark.parametrize("size", [8, 9, 10])
def test_strides_may_exceed_the_window(size):
    """What is left out, and what is padded, depends on the size. One output for all, as each model compiles."""
    inputs = keras.Input((size, size, 3))
    layers = [
        keras.layers.MaxPooling2D(1, 2, padding="same"),
        keras.layers.AveragePooling2D((2, 3), (3, 2), padding="same"),
        keras.layers.MaxPooling2D(2, 5, padding="same"),
        keras.layers.Conv2D(3, 2, 5, padding="same"),
        rk.ResidualUnit(3, 5),
        rk.PadShortcut(4, 5),
    ]
    features = [keras.layers.Flatten()(layer(inputs)) for layer in layers]
    model = randomize(keras.Model(inputs, keras.layers.Concatenate()(features)))
    check(model, np.random.default_rng(0).normal(size=(32, size, size, 3)).astype("float32"))


def test_strides_above_the_window_need_features_of_a_fixed_size(tmp_path):
    inputs = keras.Input((None, None, 1))
    fine = keras.layers.MaxPooling2D(1, 2, padding="same")(inputs)
    assert onnx_model(freeze(keras.Model(inputs, fine)))
    network = freeze(keras.Model(inputs, keras.layers.MaxPooling2D(2, 3, padding="same", name="own")(fine)))
    with pytest.raises(ValueError, match=r"give the model's Input a height and width. Received: 'own' with strides of"):
        export(network, tmp_path / "network.onnx", "onnx")


@ONE_BACKEND
def test_a_model_in_a_model_and_images_as_outputs():
    inner = randomize(small_resnet())
    features = keras.Model(inner.inputs, inner.get_layer("stem_relu").output, name="inner")
    inputs = keras.Input((8, 8, 1))
    check(keras.Model(inputs, keras.layers.Conv2D(2, 1)(features(inputs))))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (keras.layers.DepthwiseConv2D(3, name="own"), "'own' is of class DepthwiseConv2D"),
        (keras.layers.Conv2D(4, 3, activation="gelu", name="own"), "'own' has the activation gelu"),
        (keras.layers.ReLU(max_value=6, name="own"), "'own' is no plain ReLU"),
        (keras.layers.BatchNormalization(axis=1, name="own"), "'own' works along axis 1"),
        (keras.layers.Dense(4, name="own"), r"'own' is given features of shape \(None, 8, 8, 1\)"),
        (keras.layers.Conv2D(4, 3, dtype="mixed_bfloat16", name="own"), "'own' computes in bfloat16"),
        (keras.layers.MaxPooling2D(1, data_format="channels_first", name="own"), "'own' takes channels first"),
        (rk.ReSet([keras.layers.Conv2D(1, 1)], 2, name="own"), "the pool of 'own' is a FrozenUnitPool"),
        (rk.ReSet(2, 2, activation="tanh", name="own"), "the activation of 'own' is a tanh"),
        (rk.ReSet(2, 2, scorer=AboveScorer(), name="own"), "the scorer of 'own' is a AboveScorer"),
    ],
)
def test_what_cannot_be_written_is_named(layer, message):
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, layer(inputs))
    with pytest.raises(UnwrittenLayerError, match=message):
        onnx_model(freeze(model))


def test_operations_that_are_no_layers_are_named():
    inputs = keras.Input((8, 8, 1))
    x = keras.ops.add(keras.layers.Conv2D(1, 3, padding="same")(inputs), inputs)
    with pytest.raises(UnwrittenLayerError, match="is of class Add"):
        onnx_model(freeze(keras.Model(inputs, x)))


def test_layers_that_add_features_of_several_shapes_or_take_routes_are_named():
    inputs = keras.Input((8, 8, 1))
    wide = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    with pytest.raises(UnwrittenLayerError, match="'own' is given features of several shapes"):
        onnx_model(freeze(keras.Model(inputs, keras.layers.Add(name="own")([inputs, wide]))))
    x, routes = rk.ReSet(2, 2, scorer="gumbel_st", return_routes=True)(wide)
    scores = keras.layers.Flatten(name="own")(routes["scores"])
    with pytest.raises(UnwrittenLayerError, match="'own' takes routes"):
        onnx_model(freeze(keras.Model(inputs, keras.layers.Concatenate()([keras.layers.Flatten()(x), scores]))))


def test_quantized_layers_are_named():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(4, name="own")(inputs))
    model.layers[-1].quantize("int8")
    with pytest.raises(UnwrittenLayerError, match="'own' is quantized"):
        onnx_model(freeze(model))


@ONE_BACKEND
def test_routes_within_a_model_do_not_take_the_place_of_features():
    inputs = keras.Input((8, 8, 3))
    x, routes = rk.ReSet(2, 2, scorer="gumbel_st", halting="act", return_routes=True)(inputs)
    inner, outer = keras.Model(inputs, [routes["ponder"], x], name="inner"), keras.Input((8, 8, 3))
    ponder, features = inner(outer)
    check(
        randomize(keras.Model(outer, features)), np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")
    )
    with pytest.raises(UnwrittenLayerError, match="routes are the output"):
        onnx_model(freeze(keras.Model(outer, ponder)))


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow converts it")
def test_what_only_tensorflow_converts_is_refused_elsewhere(tmp_path):
    inputs = keras.Input((8, 8, 1))
    network = freeze(keras.Model(inputs, keras.layers.DepthwiseConv2D(3, name="own")(inputs)))
    message = "Exporting to ONNX a network in which 'own' is of class DepthwiseConv2D needs the TensorFlow backend"
    with pytest.raises(ValueError, match=message):
        export(network, tmp_path / "network.onnx", "onnx")
    export(freeze(small_resnet()), tmp_path / "network.onnx", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]
