"""Files that come from others: none of them runs code, and what is wrong with one is said."""

import ast
import json
import pathlib
import zipfile

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import small_reset
from reset_keras.analysis import Routes
from reset_keras.training import DamagedRunError, load_network

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = [
    path for folder in ("reset_keras", "recipes", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.py")
]
COPIES_LAYERS = "frozen_pool.py"
"""Makes layers anew from the config of layers that this process has already: no file is read."""
pytestmark = pytest.mark.faults


def edited(path, edit):
    """A copy of a .keras file whose config was edited."""
    copy = path.with_name("edited.keras")
    with zipfile.ZipFile(path) as original, zipfile.ZipFile(copy, "w") as written:
        for name in original.namelist():
            data = original.read(name)
            written.writestr(name, edit(data.decode()) if name == "config.json" else data)
    return copy


def load(path):
    return load_network(path, (2, 2), (8, 8, 1), 4)


def test_a_network_with_a_lambda_is_refused(tmp_path):
    ran = tmp_path / "ran"
    inputs = keras.Input((8, 8, 1))
    touch = eval(f"lambda x: (__import__('pathlib').Path({str(ran)!r}).touch(), x)[1]")
    keras.Model(inputs, keras.layers.Lambda(touch, output_shape=(8, 8, 1))(inputs)).save(tmp_path / "lambda.keras")
    ran.unlink(missing_ok=True)
    with pytest.raises(ValueError, match="is no network that can be loaded"):
        load(tmp_path / "lambda.keras")
    assert not ran.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("registered_name", "somebody>ReSetNet"),
        ("class_name", "NoSuchNet"),
        ("module", "subprocess"),
    ],
)
def test_a_network_of_an_unknown_class_is_refused(tmp_path, name, value):
    small_reset().save(tmp_path / "network.keras")

    def edit(text):
        config = json.loads(text)
        config.update({"registered_name": "nobody>Nothing", name: value})
        return json.dumps(config)

    with pytest.raises(ValueError, match="is no network that can be loaded"):
        load(edited(tmp_path / "network.keras", edit))


def test_a_network_that_was_not_tampered_with_is_loaded(tmp_path):
    model = small_reset()
    model.save(tmp_path / "network.keras")
    for ours, theirs in zip(model.weights, load(edited(tmp_path / "network.keras", str)).weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_unpickled_and_safe_mode_is_left_on(path):
    tree = ast.parse(path.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
            assert not given.get("allow_pickle", False)
            assert given.get("safe_mode", True) is True or path.name == COPIES_LAYERS


def test_an_array_of_objects_is_not_read(tmp_path):
    np.savez(tmp_path / "routes.npz", zero_units=np.array([True]), module_0=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="holds no routes that can be read"):
        Routes.load(tmp_path / "routes.npz")


def test_a_damaged_network_of_a_stage_names_the_folder_to_remove(tmp_path):
    workdir = rk.training.WorkDirectory(tmp_path / "run", {})
    digits = rk.data.load_digits()
    stages = [rk.training.Stage(name, "", "", lambda model: model, start=None) for name in ("first", "second")]
    pipeline = rk.training.Pipeline(
        digits, workdir, 64, 0, rk.training.get_strategy("none"), rk.callbacks.RunObserver(digits, workdir)
    )
    pipeline._folders["first"] = workdir.stage(0, stages[0].name)
    (tmp_path / "run" / "stages" / "00-first" / "model.keras").write_bytes(b"PK")
    with pytest.raises(DamagedRunError, match=r"model\.keras is damaged or missing: remove the folder .*00-first"):
        pipeline._network("first")
