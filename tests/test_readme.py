"""The README's examples are run as they stand."""

import pathlib
import re

import numpy as np
import pytest

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_the_examples_of_the_readme(tmp_path, monkeypatch, capsys):
    import tensorflow as tf

    monkeypatch.chdir(tmp_path)
    training, inference = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
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
