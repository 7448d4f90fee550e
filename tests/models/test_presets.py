import hashlib
import os
import pathlib

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import slow_but
from reset_keras.models import PRESETS, ReSetNet, from_preset, presets
from reset_keras.training import load_network

DATA = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
needs_cifar10 = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow" or not (DATA / "cifar10").is_dir(),
    reason="TFDS_DATA_DIR holds no CIFAR-10, or the backend, for which images are not loaded, is not TensorFlow",
)
RIGHT_OF_THE_FIRST_400 = {
    "resnet38_cifar10": 383,
    "reset38_softmax_cifar10": 379,
    "reset38_efficient_cifar10": 385,
    "reset38_any_budget_cifar10": 378,
    "reset20_halting_cifar10": 383,
}
"""Right answers for the first 400 test images, counted on TensorFlow on a CPU."""
QUICK = {"reset38_any_budget_cifar10", "reset20_halting_cifar10"}
"""Those whose accuracy takes the least time."""
SCORERS = {
    "reset38_softmax_cifar10": rk.SoftmaxScorer,
    "reset38_efficient_cifar10": rk.GumbelSTScorer,
    "reset38_any_budget_cifar10": rk.HardScorer,
    "reset20_halting_cifar10": rk.HardScorer,
}


def test_a_network_for_each_file_and_a_file_for_each_network():
    files = {path.name for path in presets.FOLDER.iterdir()}
    assert files == {f"{name}.keras" for name in PRESETS}


@pytest.mark.parametrize("name", PRESETS)
def test_files_are_small_and_the_published_ones(name):
    content = (presets.FOLDER / f"{name}.keras").read_bytes()
    assert len(content) < 4e6
    assert hashlib.sha256(content).hexdigest() == PRESETS[name].sha256


@pytest.mark.parametrize("name", PRESETS)
def test_it_loads_uncompiled_and_is_what_its_name_says(name):
    network = from_preset(name)
    assert not network.compiled
    assert network.backbone.input_shape == (32, 32, 3)
    if name.startswith("resnet38"):
        assert network.stage_blocks == (6, 6, 6)
    else:
        units = (0, 1, 5) if name == "reset20_halting_cifar10" else (5, 5, 5)
        assert (network.units, network.num_iterations) == (units, units)
        assert {type(module.scorer) for module in network.routed_modules} == {SCORERS[name]}


@needs_cifar10
@pytest.mark.parametrize("name", slow_but(QUICK, PRESETS))
def test_it_is_as_accurate_as_it_was(first_test_images, name):
    images, labels = first_test_images
    images = (images - np.array(PRESETS[name].mean)) / np.array(PRESETS[name].std)
    network = rk.inference.freeze(from_preset(name))  # runs only the chosen units
    outputs = np.concatenate([network(part) for part in np.split(images.astype("float32"), 4)])
    right = np.sum(outputs.argmax(axis=-1) == labels)
    assert abs(right - RIGHT_OF_THE_FIRST_400[name]) <= 1
    assert right / 400 == pytest.approx(PRESETS[name].accuracy, abs=0.04)  # three standard errors of 400 images


@pytest.fixture(scope="module")
def first_test_images():
    import tensorflow_datasets as tfds

    # TFDS reads its variable once, when it is imported: another test may have set it to a folder with a damaged file.
    options = {"data_dir": DATA, "download": False, "batch_size": -1, "as_supervised": True}
    return tfds.as_numpy(tfds.load("cifar10", split="test[:400]", **options))


def test_the_guide_says_the_same():
    guide = (pathlib.Path(__file__).parents[2] / "docs" / "guides" / "presets.md").read_text()
    rows = [line for line in guide.splitlines() if line.startswith("| `") and "cifar10`" in line]
    assert len(rows) == len(PRESETS)
    for row, (name, preset) in zip(rows, PRESETS.items(), strict=True):
        numbers = f"| {100 * preset.accuracy:.2f} % | {preset.compute_fraction:.3f} |"
        assert f"`{name}`" in row
        assert row.endswith(numbers)
        for number in (f"{100 * preset.accuracy:.2f} %", f"{preset.compute_fraction:.3f} |"):
            assert number in from_preset.__doc__


def test_recipes_take_a_name_for_a_file():
    network = load_network("reset38_efficient_cifar10", (5, 5, 5), (32, 32, 3), 10)
    assert isinstance(network, ReSetNet)
    with pytest.raises(
        ValueError,
        match=r"is of another shape: .* Give `units`, `image_shape` and .* \(recipes: --units",
    ):
        load_network("resnet38_cifar10", (3, 3), (8, 8, 1), 10)
    with pytest.raises(ValueError, match=r"no file resnet38, nor a trained network of that name: .*resnet38_cifar10"):
        load_network("resnet38", (5, 5, 5), (32, 32, 3), 10)


def test_ten_other_classes_have_a_new_classifier():
    preset, other = (from_preset("reset20_halting_cifar10", num_classes) for num_classes in (None, 10))
    layers = [pair for pair in zip(other.layers, preset.layers, strict=True) if pair[0].weights]
    same = [np.array_equal(new.weights[0], old.weights[0]) for new, old in layers]
    assert same == [True] * (len(same) - 1) + [False]
    assert np.any(preset.routed_modules[-1].controller.budgets)
    assert not np.any(other.routed_modules[-1].controller.budgets)


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"must be one of \['resnet38_cifar10', .*Did you mean 'resnet38_cifar10'"):
        from_preset("resnet38_cifar")
    with pytest.raises(ValueError, match=r"Received: name='vgg'$"):
        from_preset("vgg")


@pytest.mark.faults
@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:1000] + b"?" + data[1001:]])
def test_another_file_of_that_name_is_refused(tmp_path, monkeypatch, damage):
    name = "resnet38_cifar10"
    content = (presets.FOLDER / f"{name}.keras").read_bytes()
    copy = tmp_path / f"{name}.keras"
    copy.write_bytes(content)
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    assert from_preset(name).stage_blocks == (6, 6, 6)
    copy.write_bytes(damage(content))
    with pytest.raises(ValueError, match=rf"must be {PRESETS[name].sha256}\. Received: [0-9a-f]{{64}}\. Install"):
        from_preset(name)


@pytest.mark.faults
def test_a_missing_file_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"Received: no file\. Install the package anew"):
        from_preset("resnet38_cifar10")
