"""The README's examples are run as they stand."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import reset_keras as rk
from networks import LOSS, images_and_labels, small_reset

README = pathlib.Path(__file__).parents[1] / "README.md"


def blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_the_examples_of_the_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    training, _, _, inference = blocks()
    images = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype("float32")
    names = {"images": images, "dataset": tf.data.Dataset.from_tensor_slices((images, np.arange(8))).batch(4)}
    exec(compile(training, str(README), "exec"), names)
    assert names["routes"][0]["scores"].shape == (8, 5, 6)
    assert (tmp_path / "m.keras").is_file()

    pytest.importorskip("tf2onnx")
    exec(compile(inference, str(README), "exec"), names)
    np.testing.assert_allclose(names["outputs"], names["model"].predict(images, verbose=0), atol=1e-4)
    assert "compute fraction, mean" in capsys.readouterr().out
    assert (tmp_path / "network.onnx").is_file()


def test_the_examples_of_watching_routes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, watching, collecting, _ = blocks()
    images, labels = images_and_labels(16)
    model = small_reset()
    model.compile(keras.optimizers.SGD(0.1), LOSS)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
    names = {"rk": rk, "model": model, "images": images, "labels": labels, "dataset": dataset}
    exec(compile(watching, str(README), "exec"), names)
    assert list((tmp_path / "runs" / "mine" / "routes").glob("events.*"))
    exec(compile(collecting, str(README), "exec"), names)
    assert names["routes"].vectors().shape == names["control"].vectors().shape == (16, 12)
