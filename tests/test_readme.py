"""The README's example is run as it stands."""

import pathlib
import re

import numpy as np

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_the_example_of_the_readme(tmp_path, monkeypatch):
    import tensorflow as tf

    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    images = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype("float32")
    names = {"images": images, "dataset": tf.data.Dataset.from_tensor_slices((images, np.arange(8))).batch(4)}
    exec(compile(example, str(README), "exec"), names)
    assert names["routes"][0]["scores"].shape == (8, 5, 6)
    assert (tmp_path / "m.keras").is_file()
