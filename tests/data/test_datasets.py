import dataclasses
import errno
import io
import os
import pathlib
import time
import urllib.error

import numpy as np
import pytest

from reset_keras import data
from reset_keras.data.tfds import DatasetUnavailableError, load_tfds
from reset_keras.models import presets

DATA = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


@pytest.fixture(scope="module")
def digits():
    return data.load_digits()


def test_digits_are_the_real_ones(digits):
    assert len(digits.train) + len(digits.test) == 1797
    assert digits.image_shape == (8, 8, 1)
    assert digits.num_classes == 10
    assert digits.test.images.min() == 0
    assert digits.test.images.max() == 255
    counts = np.bincount(digits.test.labels)
    assert counts.min() >= 34
    train, test = ({image.tobytes() for image in part.images} for part in (digits.train, digits.test))
    assert not train & test


def test_classes_without_names_are_called_by_their_numbers(digits):
    assert digits.class_name(digits.test.labels[0]) == str(digits.test.labels[0])
    named = dataclasses.replace(digits, class_names=tuple("abcdefghij"))
    assert named.class_name(2) == "c"
    with pytest.raises(ValueError, match="has 10 classes"):
        dataclasses.replace(digits, class_names=("a", "b"))


def test_names_of_classes_may_be_an_array(digits):
    named = dataclasses.replace(digits, class_names=np.array([f"digit {label}" for label in range(10)]))
    assert named.class_name(3) == "digit 3"


def test_some_images_of_a_sorted_set_are_of_all_classes():
    part = data.LabelledImages(np.zeros((1000, 2, 2, 1), "uint8"), np.repeat(np.arange(10), 100))
    chosen = part.spread(20)
    assert np.bincount(part.labels[chosen]).tolist() == [2] * 10
    np.testing.assert_array_equal(part.spread(5000), np.arange(1000))


def test_normalized_training_images_have_mean_0_and_deviation_1(digits):
    images = digits.normalize(digits.train.images)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(images.std(axis=(0, 1, 2)), 1, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "cifar10").is_dir(), reason="TFDS_DATA_DIR holds no CIFAR-10")
def test_cifar10(monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    cifar10 = data.load_dataset("cifar10")
    assert (len(cifar10.train), len(cifar10.test)) == (50_000, 10_000)
    assert (cifar10.image_shape, cifar10.num_classes) == ((32, 32, 3), 10)
    assert (cifar10.crop_padding, cifar10.flip) == (4, True)
    np.testing.assert_allclose(cifar10.mean / 255, [0.4914, 0.4822, 0.4465], atol=1e-4)
    np.testing.assert_allclose(cifar10.std / 255, [0.2470, 0.2435, 0.2616], atol=1e-4)
    np.testing.assert_allclose(presets.CIFAR10_MEAN, cifar10.mean, rtol=1e-6)
    np.testing.assert_allclose(presets.CIFAR10_STD, cifar10.std, rtol=1e-6)
    assert (np.bincount(cifar10.train.labels) == 5000).all()
    assert [cifar10.class_name(label) for label in (0, 3, 9)] == ["airplane", "cat", "truck"]


def overwritten(content):
    return content[:5000] + b"x" * 100 + content[5100:]


@pytest.mark.skipif(not (DATA / "cifar10").is_dir(), reason="TFDS_DATA_DIR holds no CIFAR-10")
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:100_000], "truncated record"),
        (overwritten, "corrupted record"),
        (lambda content: b"", "contained only 0 elements"),
        (None, "No such file"),
    ],
)
def test_a_damaged_or_missing_file_is_named(damage, reason, tmp_path, monkeypatch):
    for source in (DATA / "cifar10").rglob("*"):
        target = tmp_path / source.relative_to(DATA)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not source.is_dir() and "test.tfrecord" not in source.name:
            target.symlink_to(source)
        elif not source.is_dir() and damage is not None:
            target.write_bytes(damage(source.read_bytes()))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    expected = (
        rf"split 'test' of dataset 'cifar10' cannot be read from {tmp_path}/cifar10/\S+ \(.*({reason}).*another copy"
    )
    with pytest.raises(DatasetUnavailableError, match=expected):
        load_tfds("cifar10")


def test_a_version_that_there_is_not_is_named():
    with pytest.raises(DatasetUnavailableError, match=r"dataset 'cifar10:9.9.9' is not available: .* only: 3.0.2"):
        load_tfds("cifar10:9.9.9")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_dataset", "unknown dataset 'no_such_dataset'"),
        (
            "fashion_mnist",
            r"no network to download it \(neither https://github.com/\S+ nor https://storage.googleapis.com answers: "
            r"none here\): set TFDS_DATA_DIR .* or load 'digits' \(recipes: --dataset",
        ),
        ("imagenet2012", r"differ in size: give `image_size`, in pixels \(recipes: --image-size\)"),
        ("coco", "is not for image classification"),
    ],
)
def test_what_cannot_be_had_is_said_within_seconds(name, message, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    start = time.monotonic()
    with pytest.raises(data.DatasetUnavailableError, match=message):
        data.load_dataset(name)
    assert time.monotonic() - start < 30


def no_network(*_, **__):
    raise OSError("none here")


def test_a_dataset_of_other_size_colour_and_classes(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    class GreySquares(tfds.core.GeneratorBasedBuilder):
        """White squares, as high as their class says, on images of 28 by 28 pixels."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image, label = tfds.features.Image(shape=(28, 28, 1)), tfds.features.ClassLabel(num_classes=5)
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(20), "validation": self._generate_examples(10)}

        def _generate_examples(self, count):
            for index in range(count):
                image = np.zeros((28, 28, 1), np.uint8)
                image[: 4 * (index % 5)] = 200
                yield index, {"image": image, "label": index % 5}

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    GreySquares(data_dir=tmp_path).download_and_prepare()
    squares = data.load_dataset("grey_squares", image_size=14)
    assert (squares.image_shape, squares.num_classes) == ((14, 14, 1), 5)
    assert (len(squares.train), len(squares.test)) == (20, 10)
    for image, label in zip(squares.test.images, squares.test.labels, strict=True):
        assert (image[: max(0, 2 * label - 1)] == 200).all()
        assert (image[2 * label + 1 :] == 0).all()


def grey_images(builder, **splits):
    """What a builder may generate instead of its images: so many in each split, of the classes 0, 1, 2, ..."""
    shape = builder.info.features["image"].shape
    extra = {"id": "name"} if "id" in builder.info.features else {}

    def examples(count):
        for index in range(count):
            yield str(index), {"image": np.full(shape, 9, np.uint8), "label": index, **extra}

    return {split: examples(count) for split, count in splits.items()}


def prepare(name, data_dir, monkeypatch, **splits):
    """Writes a dataset of grey images to where `load_dataset` looks."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    monkeypatch.setattr(builder, "_split_generators", lambda dl_manager: grey_images(builder, **splits))
    builder.download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))


def generate_cifar10_1(generate, monkeypatch):
    """From now on builders of CIFAR-10.1 call `generate` instead of downloading it."""
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.builder_cls("cifar10_1"), "_split_generators", lambda builder, *_: generate(builder))


@pytest.mark.parametrize("name", ["mnist:3.0.1", "emnist/letters", "mnist_corrupted", "cmaterdb"])
def test_characters_are_not_mirrored_however_they_are_asked_for(name, tmp_path, monkeypatch):
    prepare(name, tmp_path, monkeypatch, train=9, test=5)
    assert not data.load_dataset(name).flip


@pytest.mark.parametrize("name", ["cifar10", "cifar10:3.0.2"])
def test_cifar10_brings_the_versions_of_cifar10_1_that_are_at_hand(name, tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    prepare("cifar10", tmp_path, monkeypatch, train=9, test=5)
    prepare("cifar10_1/v6", tmp_path, monkeypatch, test=7)
    cifar10 = data.load_dataset(name)
    assert cifar10.flip
    assert {name: len(part) for name, part in cifar10.tests.items()} == {"test": 5, "cifar10_1_v6": 7}
    assert sorted(cifar10.tests["cifar10_1_v6"].labels) == list(range(7))
    assert (cifar10.tests["cifar10_1_v6"].images == 9).all()


@pytest.mark.parametrize(("network", "reason"), [(False, "there is no network"), (True, "ConnectionError")])
def test_without_cifar10_1_a_line_says_so(network, reason, tmp_path, monkeypatch, capsys):
    def no_file(_):
        raise ConnectionError("404")

    def urlopen(*_, **__):
        asked.append(1)
        return io.BytesIO() if network else no_network()

    asked = []
    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    generate_cifar10_1(no_file, monkeypatch)
    prepare("cifar10", tmp_path, monkeypatch, train=9, test=5)
    capsys.readouterr()
    assert list(data.load_dataset("cifar10").tests) == ["test"]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "CIFAR-10.1" in line]
    assert line.startswith(f"Without CIFAR-10.1 v4 and v6, a second test set: not in {tmp_path / 'cifar10_1'}, and")
    assert f"({reason})" in line
    assert len(asked) == (1 if network else 2)


def homepage_is_gone(*_, **__):
    raise urllib.error.HTTPError("https://example.org", 404, "Not Found", None, None)


def homepage_is_down(address, **_):
    return io.BytesIO() if address == "https://storage.googleapis.com" else no_network()


@pytest.mark.parametrize("answer", [lambda *_, **__: io.BytesIO(), homepage_is_gone, homepage_is_down])
def test_cifar10_1_is_downloaded_where_there_is_a_network(answer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("urllib.request.urlopen", answer)
    generate_cifar10_1(lambda builder: grey_images(builder, test=3), monkeypatch)
    prepare("cifar10", tmp_path, monkeypatch, train=9, test=5)
    tests = data.load_dataset("cifar10").tests
    assert {name: len(part) for name, part in tests.items()} == {"test": 5, "cifar10_1_v4": 3, "cifar10_1_v6": 3}
    assert "Without" not in capsys.readouterr().err


def test_a_download_that_fails_is_told_as_other_datasets_that_are_not_there(tmp_path, monkeypatch):
    def torn(*_, **__):
        raise ConnectionError("half of\nthe file")

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO())
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    generate_cifar10_1(torn, monkeypatch)
    expected = r"'cifar10_1' cannot be downloaded \(ConnectionError: half of the file\): set TFDS_DATA_DIR"
    with pytest.raises(data.DatasetUnavailableError, match=expected):
        data.load_dataset("cifar10_1")


def test_a_full_disk_is_no_missing_dataset(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO())
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    generate_cifar10_1(full, monkeypatch)
    with pytest.raises(OSError, match="full"):
        data.load_dataset("cifar10_1")


def test_digits_have_one_size():
    with pytest.raises(data.DatasetUnavailableError, match="8 by 8 pixels"):
        data.load_dataset("digits", image_size=16)


@pytest.mark.parametrize(
    "make",
    [
        lambda: data.LabelledImages(np.zeros((2, 8, 8, 1)), np.zeros(2, int)),
        lambda: data.LabelledImages(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(3, int)),
        lambda: data.LabelledImages(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2)),
    ],
)
def test_images_and_labels_must_fit(make):
    with pytest.raises(ValueError, match="Expected uint8 images"):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tests": {}}, r"needs training images, and at least one test set.* Received: 4 training images, tests {}"),
        ({"num_classes": 3}, "must be from 0 to 2, as num_classes=3. Received: 0 to 3"),
        ({"class_names": ("cat", "dog")}, r"has 4 classes. Received: class_names=\('cat', 'dog'\)"),
    ],
)
def test_the_parts_of_a_dataset_must_fit(change, message):
    part = data.LabelledImages(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4))
    dataset = data.ImageDataset("own", part, {"test": part}, 4)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(dataset, **change)


def test_a_dataset_without_images_to_test_on_is_refused(tmp_path, monkeypatch):
    prepare("mnist", tmp_path, monkeypatch, train=9)
    with pytest.raises(data.DatasetUnavailableError, match=r"needs a train and a test split; it has \['train'\]"):
        data.load_dataset("mnist")
