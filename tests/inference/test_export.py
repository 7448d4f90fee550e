"""Exported networks, run by the programs they are for, against the Keras models that they were made of."""

import functools
import logging

import keras
import numpy as np
import pytest

import reset_keras as rk
from exported_networks import (
    IMAGES,
    RUNNERS,
    assert_equal_at_every_batch_size,
    dense_litert_file,
    expected_of,
    exported,
    frozen,
    model_of_own_units,
    runner_of_litert,
)
from networks import one_module_reset, randomize, small_resnet
from reset_keras.inference import export, freeze

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow")


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


@functools.cache
def calibrated():
    """A network for every budget, set to the least, another one of its budgets, and what it returns then."""
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


@pytest.mark.parametrize(("file_format", "execution"), [("litert", "sparse"), ("savedmodel", "auto")])
def test_the_compute_fraction_is_an_input_of_a_second_signature(tmp_path, file_format, execution):
    model, compute, expected = calibrated()
    path = tmp_path / "network"
    export(freeze(model, execution), path, file_format)
    run = RUNNERS[file_format](path, "at_compute")
    least, most = np.array(model(IMAGES)), np.array(freeze(model, compute=1.0)(IMAGES))
    assert np.abs(most - expected).max() > 0.1
    for requested, outputs in ((compute, expected), (0.0, least), (1.0, most), (np.inf, least)):
        at_requested = functools.partial(run, compute=np.float32(requested))
        assert_equal_at_every_batch_size(at_requested, IMAGES, outputs)
    # The other signature is as the network was set, and stays so.
    assert_equal_at_every_batch_size(RUNNERS[file_format](path), IMAGES, least)


@pytest.mark.slow
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
