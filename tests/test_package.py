"""The lines that the package keeps: what may import what, what is registered, what loads when."""

import ast
import graphlib
import importlib
import inspect
import pathlib
import re
import subprocess
import sys
from collections import Counter

import keras
import pytest

import reset_keras as rk

ROOT = pathlib.Path(rk.__file__).parent
PURE = [*ROOT.glob("layers/*.py"), *ROOT.glob("losses/*.py"), *ROOT.glob("models/*.py")]
WITH_TENSORFLOW = {ROOT / "models" / "train_step.py", ROOT / "layers" / "batch_normalize.py"}


LAYERS_OF_THE_PACKAGE = ("layers", "losses", "models", "data", "inference", "training", "analysis", "callbacks")
"""Subpackages: each may import those before it."""
PRIVATE_TO_KERAS = ("_flatten_layers", "_nodes_by_depth", "_keras_history", "_functional", "_compute_loss", "keras.src")


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


def place(name):
    """Place of a module in the order of the subpackages; what stands beside them comes first."""
    part = name.split(".")[1]
    return LAYERS_OF_THE_PACKAGE.index(part) if part in LAYERS_OF_THE_PACKAGE else -1


def test_no_example_takes_logits_for_probabilities():
    """Keras's name for a cross entropy stands for one of probabilities, and all networks here return logits."""
    texts = {path: path.read_text() for path in (*ROOT.rglob("*.py"), *ROOT.parent.glob("docs/**/*.md"))}
    assert not [path.name for path, text in texts.items() if re.search(r'compile\(.*"\w*crossentropy"', text)]


def test_every_subpackage_has_its_place():
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(LAYERS_OF_THE_PACKAGE)


@pytest.mark.parametrize(
    "path", [*ROOT.rglob("*/*.py"), *ROOT.glob("[!_]*.py")], ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_go_one_way(path):
    own = place(".".join(path.relative_to(ROOT.parent).with_suffix("").parts))
    later = [name for name in imported(path) if name.startswith("reset_keras.") and place(name) > own]
    assert not later


def test_imports_within_a_subpackage_make_no_circle():
    """Modules ordered so that each comes after those that it imports, at the top or inside of a function."""
    modules = {".".join(p.relative_to(ROOT.parent).with_suffix("").parts): p for p in ROOT.rglob("*.py")}
    needs = {name: {n for n in imported(path) if n in modules} for name, path in modules.items()}
    tuple(graphlib.TopologicalSorter(needs).static_order())  # raises CycleError


def test_no_file_name_stands_twice():
    names = Counter(path.name for path in ROOT.rglob("[!_]*.py"))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("path", [*ROOT.rglob("*.py")], ids=lambda path: str(path.relative_to(ROOT)))
def test_private_parts_of_keras_are_used_in_one_file(path):
    used = [name for name in PRIVATE_TO_KERAS if name in path.read_text()]
    assert bool(used) == (path.name == "keras_internals.py")


@pytest.mark.parametrize("path", [*ROOT.rglob("*.py")], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_loss_through_add_loss(path):
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    assert not [c.lineno for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "add_loss"]


def test_public_classes_are_registered_and_documented():
    for name in rk.__all__:
        member = getattr(rk, name)
        if inspect.isclass(member):
            assert inspect.getdoc(member), name
            if name not in {"Controller", "Distillation", "Halting", "Pool", "Scorer"}:  # abstract, or in no file
                assert keras.saving.get_registered_name(member) == f"reset_keras>{name}"
                assert ">>>" in inspect.getdoc(member), f"{name} has no example"


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What a process prints that only imports the package: the modules that this loads, a file's model, its names."""
    path = tmp_path_factory.mktemp("package") / "model.keras"
    model = rk.ReSetNet((1, 1), None, 3, (8, 8, 1), scorer="gumbel_st", width=4)
    model.compile("sgd", "sparse_categorical_crossentropy", entropy=rk.Entropy(0.1), skip_reward=rk.SkipReward(0.1))
    model.save(path)
    code = f"""
import keras, sys
before = set(sys.modules)
import reset_keras
names = dir(reset_keras)
print(*(set(sys.modules) - before))
print(type(keras.models.load_model(r"{path}")).__name__)
print(*names)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()


def test_a_saved_model_loads_in_a_process_that_only_imports_the_package(printed):
    assert printed[1] == "ReSetNet"


def test_importing_the_package_loads_nothing_heavy_beyond_keras(printed):
    heavy = {"sklearn", "matplotlib", "tensorflow_datasets", "scipy", "jinja2", "rich", "pandas"}
    loaded = set(printed[0].split())
    assert "reset_keras" in loaded
    assert not heavy & loaded


def test_all_names_are_listed_before_they_are_used(printed):
    assert set(rk.__all__) <= set(printed[2].split())


def test_a_backend_without_a_training_step_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ImportError, match=r"KERAS_BACKEND to one of them. Received: torch"):
        importlib.reload(rk.backend_check)
