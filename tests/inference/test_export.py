"""Exported networks, run by the programs they are for, against the Keras models that they were made of."""

import functools
import logging
import pathlib
import sys
import tempfile

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import images_and_labels, one_module_reset, randomize, small_resnet
from reset_keras.inference import export, freeze

IMAGES, _ = images_and_labels(32)
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow")


@functools.cache
def reset(scorer):
    return randomize(one_module_reset(scorer))


@functools.cache
def expected_of(scorer):
    return np.array(reset(scorer)(IMAGES))


@functools.cache
def frozen(scorer="gumbel_st", execution="dense"):
    return freeze(reset(scorer), execution)


def runner_of_savedmodel(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return lambda images: loaded.signatures["serving_default"](images=tf.constant(images))["outputs"].numpy()


def runner_of_litert(path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(model_path=str(path))
    return lambda images: interpreter.get_signature_runner("serving_default")(images=images)["outputs"]


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


@pytest.mark.parametrize(
    ("file_format", "scorer"),
    [
        ("savedmodel", "softmax"),
        ("savedmodel", "gumbel_st"),
        ("litert", "softmax"),
        ("litert", "top_k"),
        ("onnx", "gumbel_st"),  # the others in test_onnx_files.py
    ],
)
def test_a_dense_network_computes_what_its_model_does(file_format, scorer, tmp_path):
    if file_format == "litert":  # which takes no empty batch
        (tmp_path / "network").write_bytes(dense_litert_file(scorer))
        run = runner_of_litert(tmp_path / "network")
    else:
        run = exported(frozen(scorer), tmp_path / "network", file_format)
        assert run(IMAGES[:0]).shape == (0, 4)
    assert_equal_at_every_batch_size(run, IMAGES, expected_of(scorer))


@pytest.mark.parametrize(
    ("file_format", "scorer"),
    [
        ("savedmodel", "gumbel_st"),
        ("savedmodel", "top_k"),
        ("litert", "gumbel_st"),
        ("litert", "top_k"),
        ("onnx", "gumbel_st"),
    ],
)
def test_a_sparse_network_computes_what_its_model_does(file_format, scorer, tmp_path):
    run = exported(frozen(scorer, "sparse"), tmp_path / "network", file_format)
    if file_format != "litert":
        assert run(IMAGES[:0]).shape == (0, 4)
    assert_equal_at_every_batch_size(run, IMAGES, expected_of(scorer))


@functools.cache
def frozen_with_spoilt_units():
    """All images take the zero unit, and the units would spoil whatever runs them."""
    model = randomize(one_module_reset("gumbel_st"))
    for module in model.routed_modules:
        module.controller.dense.bias.assign([0, 0, 100])
    expected = np.array(model(IMAGES))
    for module in model.routed_modules:
        module.pool.kernel2.assign(np.full(module.pool.kernel2.shape, 1e30))
    return freeze(model, "sparse"), expected


@pytest.mark.parametrize("file_format", RUNNERS)
def test_units_that_are_not_chosen_are_not_run(file_format, tmp_path):
    network, expected = frozen_with_spoilt_units()
    assert_equal_at_every_batch_size(exported(network, tmp_path / "network", file_format), IMAGES, expected)


def test_a_network_frozen_to_run_anyhow_is_dense_where_it_must_be(tmp_path):
    network = frozen(execution="auto")
    run = exported(network, tmp_path / "network", "litert")
    assert_equal_at_every_batch_size(run, IMAGES, expected_of("gumbel_st"))
    assert {module.execution for module in network.modules} == {"auto"}


@functools.cache
def model_of_own_units():
    inputs = keras.Input((6, 8))
    units = [keras.layers.Dense(8, activation="relu"), keras.layers.Conv1D(8, 3, padding="same")]
    x, routes = rk.ReSet(units, 1, scorer="gumbel_st", activation=None, return_routes=True)(inputs)
    return randomize(rk.RoutedModel(inputs, keras.layers.Dense(3)(x), routes=[routes]))


@pytest.mark.parametrize(
    ("file_format", "execution"),
    [*((name, "dense") for name in RUNNERS), ("savedmodel", "sparse"), ("litert", "sparse")],
)
def test_a_pool_of_layers_of_ones_own(file_format, execution, tmp_path):
    model = model_of_own_units()
    sequences = np.random.default_rng(0).normal(size=(32, 6, 8)).astype("float32")
    run = exported(freeze(model, execution), tmp_path / "sequences", file_format)
    assert_equal_at_every_batch_size(run, sequences, np.array(model(sequences)))


def test_names_and_shapes_of_an_onnx_file(tmp_path):
    exported(freeze(small_resnet()), tmp_path / "network.onnx", "onnx")
    session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "network.onnx")
    shapes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {"images": ["batch", 8, 8, 1], "outputs": ["batch", 4]}


def test_an_earlier_export_is_replaced(tmp_path):
    path = tmp_path / "folders" / "above" / "network"
    earlier, later = (keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3)]) for _ in range(2))
    export(freeze(earlier), path)
    run = exported(freeze(later), path, "savedmodel")
    assert np.abs(np.array(earlier(IMAGES)) - np.array(later(IMAGES))).max() > 0.1
    assert_equal_at_every_batch_size(run, IMAGES, np.array(later(IMAGES)))
    assert [entry.name for entry in path.parent.iterdir()] == ["network"]


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


def test_operations_that_are_no_layers_are_converted_by_tensorflow(tmp_path):
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Conv2D(1, 3, padding="same")(inputs) + inputs)
    log = logging.getLogger("tf2onnx")
    log.setLevel(logging.ERROR)
    run = exported(freeze(model), tmp_path / "network", "onnx")
    assert_equal_at_every_batch_size(run, IMAGES, np.array(model(IMAGES)))
    assert log.level == logging.ERROR


def test_ids_and_double_precision_in_a_model_in_a_model(tmp_path):
    ids = keras.Input((5,), dtype="int64")
    hashed = keras.Sequential([keras.Input((5,), dtype="int64"), keras.layers.Hashing(4), keras.layers.Embedding(4, 2)])
    double = keras.Sequential([keras.Input((5, 2)), keras.layers.Flatten(), keras.layers.Dense(3, dtype="float64")])
    model = keras.Model(ids, double(hashed(ids)))
    given = np.random.default_rng(0).integers(0, 2**40, (4, 5))
    run = exported(freeze(model), tmp_path / "network", "savedmodel")
    np.testing.assert_allclose(run(given), model(given), atol=1e-6)


def test_other_backends_are_refused(tmp_path, monkeypatch):
    network = frozen()
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"needs the TensorFlow backend\. Received: the jax backend"):
        export(network, str(tmp_path / "network"))


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


@functools.cache
def calibrated():
    """A network of every budget, set to the least, another one of its budgets, and what it returns then."""
    resnet = randomize(rk.ResNet((2, 3), 4, (8, 8, 1), width=4))
    resnet.layers[-1].bias.assign_sub(np.array(resnet(IMAGES)).mean(axis=0))  # several classes are named
    model = rk.resnet_to_reset(resnet, rk.HaltingController(1, 4), rk.HardScorer(sampled=False))
    labels = np.array(model(IMAGES)).argmax(axis=-1)  # so that deeper is better
    settings = rk.inference.calibrate(model, IMAGES, labels).compute
    rk.inference.set_compute(model.routed_modules, settings[1])
    expected = np.array(model(IMAGES))
    rk.inference.set_compute(model.routed_modules, settings[0])
    assert np.abs(expected - np.array(model(IMAGES))).max() > 0.1
    return model, settings[1], expected


@pytest.mark.parametrize(("file_format", "execution"), [("onnx", "auto"), ("litert", "sparse"), ("savedmodel", "auto")])
def test_the_budget_that_a_network_is_set_to(tmp_path, file_format, execution):
    model, compute, expected = calibrated()
    run = exported(freeze(model, execution, compute=compute), tmp_path / "network", file_format)
    assert_equal_at_every_batch_size(run, IMAGES, expected)


@pytest.mark.parametrize("scorer", ["gumbel_st", "top_k", "softmax"])
def test_a_litert_file_for_one_image(scorer, tmp_path):
    """It is as large as the dense file for any batch, but for its branches."""
    network, path = frozen(scorer, "auto"), tmp_path / "one.tflite"
    export(network, path, "litert", one_image=True)
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(model_path=str(path))
    assert interpreter.get_input_details()[0]["shape"].tolist() == [1, 8, 8, 1]
    run = interpreter.get_signature_runner("serving_default")
    outputs = np.concatenate([run(images=IMAGES[n : n + 1])["outputs"] for n in range(32)])
    np.testing.assert_allclose(outputs, expected_of(scorer), atol=1e-4, rtol=1e-4)
    kernels = sum(array.nbytes for module in network.modules for array in module.pool.folded)
    assert kernels < path.stat().st_size < len(dense_litert_file(scorer)) + 100_000
    assert {module.execution for module in network.modules} == {"auto"}


def test_a_litert_file_for_one_image_runs_only_the_chosen_units(tmp_path):
    network, expected = frozen_with_spoilt_units()
    export(network, tmp_path / "network", "litert", one_image=True)
    run = runner_of_litert(tmp_path / "network")
    np.testing.assert_allclose(run(IMAGES[:1]), expected[:1], atol=1e-4, rtol=1e-4)


def test_a_litert_file_for_one_sequence_and_units_of_ones_own(tmp_path):
    model = model_of_own_units()
    export(freeze(model), tmp_path / "network", "litert", one_image=True)
    run = runner_of_litert(tmp_path / "network")
    sequences = np.random.default_rng(0).normal(size=(5, 6, 8)).astype("float32")
    outputs = np.concatenate([run(sequence[np.newaxis]) for sequence in sequences])
    np.testing.assert_allclose(outputs, np.array(model(sequences)), atol=1e-4)


def test_files_for_one_image_are_for_onnx_and_litert_and_for_layers_that_are_written(tmp_path):
    with pytest.raises(ValueError, match=r"`one_image` is for 'onnx' and 'litert'.* Received: 'savedmodel'"):
        export(frozen(), tmp_path / "network", one_image=True)
    with pytest.raises(ValueError, match=r"`one_image` needs layers that this package writes\. Received: it takes"):
        export(freeze(model_of_own_units()), tmp_path / "network", "onnx", one_image=True)
    assert not [*tmp_path.iterdir()]
