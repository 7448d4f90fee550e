"""The lines that the package keeps: what may import what, what is registered, what loads when."""

import ast
import inspect
import pathlib
import subprocess
import sys

import keras
import pytest

import reset_keras as rk

ROOT = pathlib.Path(rk.__file__).parent
PURE = [*ROOT.glob("layers/*.py"), *ROOT.glob("losses/*.py"), *ROOT.glob("models/*.py")]
WITH_TENSORFLOW = {ROOT / "models" / "train_step.py", ROOT / "layers" / "batch_normalize.py"}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("path", PURE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_layers_losses_and_models_use_keras_alone(path):
    foreign = {name.split(".")[0] for name in imported(path)} & {"tensorflow", "jax", "torch"}
    assert foreign == ({"tensorflow"} if path in WITH_TENSORFLOW else set())


@pytest.mark.parametrize("path", [*ROOT.rglob("*.py")], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_loss_through_add_loss(path):
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    assert not [c.lineno for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "add_loss"]


def test_public_classes_are_registered_and_documented():
    for name in rk.__all__:
        member = getattr(rk, name)
        if inspect.isclass(member):
            assert inspect.getdoc(member), name
            if name not in {"Controller", "Distillation", "Pool", "Scorer"}:  # abstract, or in no file
                assert keras.saving.get_registered_name(member) == f"reset_keras>{name}"
                assert ">>>" in inspect.getdoc(member), f"{name} has no example"


def test_a_saved_model_loads_in_a_process_that_only_imports_the_package(tmp_path):
    model = rk.ReSetNet((1, 1), None, 3, (8, 8, 1), scorer="gumbel_st", width=4)
    model.compile("sgd", "sparse_categorical_crossentropy", entropy=rk.Entropy(0.1), skip_reward=rk.SkipReward(0.1))
    model.save(tmp_path / "model.keras")
    code = f"import keras, reset_keras; print(type(keras.models.load_model(r'{tmp_path / 'model.keras'}')).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ReSetNet"


def test_importing_the_package_loads_nothing_heavy_beyond_keras():
    heavy = {"sklearn", "matplotlib", "tensorflow_datasets", "scipy", "jinja2", "rich", "pandas"}
    code = "import keras, sys; before = set(sys.modules); import reset_keras; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
