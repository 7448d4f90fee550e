"""Batches without tf.data's tuning."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import images_and_labels, one_module_reset, randomize
from reset_keras.batches_ahead import ahead, predicted
from reset_keras.data import evaluation_batches, training_batches

IMAGES, LABELS = images_and_labels(20)
ONE, TWO = keras.Input((3,)), keras.Input((2,))
NETWORKS = {
    "array": keras.Model(ONE, keras.ops.exp(ONE)),
    "list": keras.Model([ONE, TWO], keras.layers.Concatenate()([TWO, ONE])),
    "dict": keras.Model({"one": ONE, "two": TWO}, {"sum": keras.ops.sum(ONE, axis=-1), "same": TWO}),
}


def arrays(dtype="float32"):
    rng = np.random.default_rng(0)
    one, two = (rng.integers(0, 9, (11, width)).astype(dtype) for width in (3, 2))
    return {"array": one, "list": [one, two], "dict": {"one": one, "two": two}}


def types_given(monkeypatch, model):
    given = []
    of_keras = model.predict
    monkeypatch.setattr(model, "predict", lambda x, **options: given.append(type(x)) or of_keras(x, **options))
    return given


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_arrays_are_predicted_as_by_keras(kind, dtype, batch_size, monkeypatch):
    model, x = NETWORKS[kind], arrays(dtype)[kind]
    expected = model.predict(x, batch_size=batch_size, verbose=0)
    given = types_given(monkeypatch, model)
    found = predicted(model, x, batch_size, verbose=0)
    keras.tree.map_structure(np.testing.assert_array_equal, found, expected)
    assert (given[0] is type(x)) == (dtype == "float64")  # which Keras makes float32 of


@pytest.mark.parametrize("x", [[[0.0, 1.0, 2.0]], arrays()["array"].tolist()], ids=["one", "many"])
def test_what_is_no_array_goes_to_keras(x, monkeypatch):
    model = NETWORKS["array"]
    given = types_given(monkeypatch, model)
    np.testing.assert_allclose(predicted(model, np.array(x, "float16"), verbose=0), np.exp(x), rtol=1e-2)
    assert given == [np.ndarray]


def test_arrays_of_several_lengths_are_refused_as_by_keras():
    one, two = arrays()["list"]
    with pytest.raises(ValueError, match="cardinality"):
        predicted(NETWORKS["list"], [one, two[:4]])


def test_routes_are_those_of_a_call():
    model = randomize(one_module_reset("hard"))
    (expected,) = model(IMAGES, training=False, return_routes=True).routes
    for options in ({}, {"batch_size": 7}):
        (found,) = model.predict_routes(IMAGES, verbose=0, **options)
        np.testing.assert_array_equal(found["scores"], expected["scores"])
    (of_a_part,) = model.predict_routes(IMAGES, batch_size=7, steps=1, verbose=0)
    np.testing.assert_array_equal(of_a_part["scores"], expected["scores"][:7])


def test_no_stream_is_tuned():
    import tensorflow as tf

    digits = rk.data.load_digits()
    for batches in (training_batches(digits, 8, 0), evaluation_batches(digits, digits.test)):
        assert batches.options().autotune.enabled is False
    assert [int(number) for number in ahead(tf.data.Dataset.range(20))] == [*range(20)]
