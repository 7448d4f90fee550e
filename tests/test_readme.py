"""The examples of the README and of the guides are run as they stand."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import reset_keras as rk
from networks import LOSS, images_and_labels, small_reset

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.programs


def blocks_of(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def run(page, names, block=0):
    """Runs one of a page's blocks of Python."""
    exec(compile(blocks_of(page)[block], page, "exec"), names)


def test_the_example_of_the_readme():
    images = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype("float32")
    names = {"images": images, "labels": np.arange(8)}
    run("README.md", names)
    np.testing.assert_allclose(names["network"](images), names["model"].predict(images, verbose=0), atol=1e-4)


def test_the_examples_of_ones_own_model_and_of_export(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype("float32")
    names = {"images": images, "dataset": tf.data.Dataset.from_tensor_slices((images, np.arange(8))).batch(4)}
    run("docs/guides/own_model.md", names)
    assert names["routes"][0]["scores"].shape == (8, 5, 6)
    assert (tmp_path / "m.keras").is_file()

    pytest.importorskip("tf2onnx")
    page = "docs/guides/export.md"
    run(page, names)
    expected = names["model"].predict(images, verbose=0)
    np.testing.assert_allclose(names["outputs"], expected, atol=1e-4)
    assert "compute fraction, mean" in capsys.readouterr().out
    assert (tmp_path / "network.onnx").is_file()
    for block, program in ((2, "ai_edge_litert"), (3, "tensorflow")):
        assert program in blocks_of(page)[block]
        pytest.importorskip(program)
        run(page, names, block)
        np.testing.assert_allclose(names["outputs"], expected, atol=1e-4)


def test_the_examples_of_ones_own_controller_and_of_resuming(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, labels = images_and_labels(8)
    names = {"keras": keras, "rk": rk, "dataset": tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)}
    page = "docs/guides/own_model.md"
    run(page, names, block=1)
    inputs = keras.Input(images.shape[1:])
    x, routes = names["module"](keras.layers.Conv2D(8, 3, padding="same")(inputs))
    assert routes["scores"].shape == (None, 5, 6)
    outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    names["model"] = rk.RoutedModel(inputs, outputs, routes=[routes])
    names["model"].compile("sgd", LOSS)
    names["model"].save("model.keras")
    loaded = keras.models.load_model("model.keras")
    np.testing.assert_allclose(loaded.predict(images, verbose=0), names["model"].predict(images, verbose=0), atol=1e-5)

    for begun in (0, 3):
        run(page, names, block=2)
        assert (names["epoch"], names["stopped"]) == (begun, False)
    assert len(blocks_of(page)) == 3


def test_the_examples_of_watching_routes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, labels = images_and_labels(16)
    model = small_reset()
    model.compile(keras.optimizers.SGD(0.1), LOSS)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
    names = {"rk": rk, "model": model, "images": images, "labels": labels, "dataset": dataset}
    run("docs/guides/routes.md", names)
    assert list((tmp_path / "runs" / "mine" / "routes").glob("events.*"))
    run("docs/guides/routes.md", names, block=1)
    assert names["routes"].vectors().shape == names["control"].vectors().shape == (16, 12)


@pytest.mark.slow
def test_the_examples_of_another_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype("float32")
    names = {"pixels": pixels, "labels": np.arange(8) % 3}
    own = np.random.default_rng(1).integers(0, 256, (72, 16, 16, 3), "uint8")
    names |= {"train_pixels": own[:64], "train_labels": np.arange(64) % 3}
    names |= {"test_pixels": own[64:], "test_labels": np.arange(8) % 3}
    page = "docs/guides/transfer.md"
    for block in range(len(blocks_of(page))):
        run(page, names, block)
    model, images = names["model"], names["images"]
    expected = np.array(model(images))
    assert names["vectors"].shape == (8, 64)
    for found in (names["outputs"], names["loaded"](images), names["copied"](images)):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    for other in (names["loaded"], names["copied"]):
        assert type(other) is type(model)
        assert len(other.trainable_variables) == 2 + 6  # of the classifier and of a pool
    assert len(names["whole"].trainable_variables) == 2
    assert tuple(names["from_both"](images).shape) == (8, 3)
    assert tuple(names["routes"][0]["scores"].shape) == (8, 5, 6)
    assert names["own"].output_shape == (None, 3)


@pytest.mark.slow
def test_the_examples_of_other_systems():
    images = np.random.default_rng(0).normal(size=(32, 8, 8, 1)).astype("float32")
    names = {"train_images": images, "train_labels": np.arange(32) % 4}
    page = "docs/guides/systems.md"
    expected = [
        "GateController",
        "GateController",
        "PolicyController",
        "FixedController",
        "FixedController",
        "RNNController",
    ]
    for block, controller in enumerate(["", *expected, "RNNController"]):
        run(page, names, block)
        if "model" in names:
            assert type(names["model"].routed_modules[0].controller).__name__ == controller
        if block == 1:
            assert names["model"].skip_reward.estimator == "reinforce"
    assert len(blocks_of(page)) == 8
    assert names["sharesnet"].count_params() < names["resnet"].count_params()
    assert tuple(names["iamnn"](images).shape) == (32, 4)


@pytest.mark.slow
def test_the_examples_of_every_budget():
    images = np.random.default_rng(0).normal(size=(16, 16, 16, 3)).astype("float32")
    labels = np.arange(16) % 4
    names = {"keras": keras, "rk": rk, "train_images": images, "train_labels": labels}
    names |= {"held_out_images": images, "held_out_labels": labels}
    page = "docs/guides/any_budget.md"
    for block in (1, 0, 2):
        run(page, names, block)
        if block == 1:
            assert names["network"].compute <= 0.6
    assert names["network"].compute <= 0.35
    assert tuple(names["model"](np.zeros((2, 8, 8, 1), "float32")).shape) == (2, 4)
