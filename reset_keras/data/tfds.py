"""Image datasets of TensorFlow Datasets, by name."""

import errno
import logging
import os
import re
import sys
import urllib.error
import urllib.request
from typing import Any

import numpy as np

from reset_keras.argument_checks import check_integer
from reset_keras.batches_ahead import ahead
from reset_keras.data.image_dataset import ImageDataset, LabelledImages

NETWORK_TIMEOUT_S = 5
READ_AS_WRITTEN = ("mnist", "mnist_corrupted", "emnist", "kmnist", "svhn_cropped", "cmaterdb", "omniglot")
"""Datasets of characters: a mirrored image would show another character, or none."""

CIFAR10_1_VERSIONS = ("v4", "v6")
DOWNLOADS = "https://storage.googleapis.com"
"""Where most datasets of TFDS are downloaded from."""


class DatasetUnavailableError(ValueError):
    """A dataset that is unknown, or neither on this machine nor available from the network."""


def load_tfds(name: str, image_size: int | None = None) -> ImageDataset:
    """A dataset of TensorFlow Datasets with its `train` and `test` splits, downloaded if need be.

    CIFAR-10 brings both versions of CIFAR-10.1 (Recht et al., 2018) as further test sets. Where these are not at hand
    and cannot be downloaded, a line on the standard error says so, and it comes without.

    Args:
        name: Name in TensorFlow Datasets, such as `"cifar10"`, `"fashion_mnist"`. A dataset without a `test` split is
            tested on `validation`.
        image_size: Integer, height and width in pixels that images are resized to, or `None` to leave them as they are.
            Default `None`.

    Returns:
        An `ImageDataset`, with the labels' names where TensorFlow Datasets has them.

    Raises:
        DatasetUnavailableError: the dataset is unknown, has no labelled images, is not on this machine and cannot be
            downloaded, its files are damaged or missing, or its images differ in size and `image_size` is not given.
        ValueError: `image_size` is not positive.

    Examples:
        >>> cifar10 = load_tfds("cifar10")  # doctest: +SKIP
        >>> cifar10.image_shape, len(cifar10.train), len(cifar10.test)  # doctest: +SKIP
        ((32, 32, 3), 50000, 10000)
    """
    if image_size is not None:
        check_integer("image_size", image_size, least=1)
    builder = _builder(name)
    shape = _image_shape(builder, name, image_size)
    try:
        _prepare(builder, name)
    except Exception as error:  # of a network that goes, a wrong checksum, files to be fetched by hand: each its own
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if is_full or isinstance(error, DatasetUnavailableError | PermissionError | MemoryError):
            raise
        reason = " ".join(str(error).split())
        raise DatasetUnavailableError(
            f"dataset '{name}' cannot be downloaded ({type(error).__name__}: {reason}): set TFDS_DATA_DIR to a folder "
            "that holds it, or load 'digits' (recipes: --dataset digits), which needs no network"
        ) from error
    test_split = next((split for split in ("test", "validation") if split in builder.info.splits), None)
    if test_split is None or "train" not in builder.info.splits:
        raise DatasetUnavailableError(
            f"dataset '{name}' needs a train and a test split; it has {list(builder.info.splits)}"
        )
    tests = {"test": _load(builder, test_split, shape)}
    if builder.name == "cifar10":
        tests.update(_cifar10_1(shape))
    return ImageDataset(
        name=name,
        train=_load(builder, "train", shape),
        tests=tests,
        num_classes=builder.info.features["label"].num_classes,
        flip=builder.name not in READ_AS_WRITTEN,
        crop_padding=max(1, shape[0] // 8),
        class_names=tuple(builder.info.features["label"].names),
    )


def _builder(name: str) -> Any:
    import tensorflow_datasets as tfds

    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        return tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))  # TFDS looks there only at its import
    except AssertionError as error:  # of a version
        reason = str(error).splitlines()[0].rpartition(": Dataset ")[2]
        raise DatasetUnavailableError(f"dataset '{name}' is not available: {reason}") from error
    except (tfds.core.registered.DatasetNotFoundError, ValueError) as error:
        raise DatasetUnavailableError(
            f"unknown dataset '{name}': expected 'digits' or a name of TensorFlow Datasets, such as 'cifar10'"
        ) from error


def _image_shape(builder: Any, name: str, image_size: int | None) -> tuple[int, int, int]:
    features = builder.info.features
    if not {"image", "label"} <= set(features) or not hasattr(features["label"], "num_classes"):
        raise DatasetUnavailableError(
            f"dataset '{name}' is not for image classification: its features are {list(features)}"
        )
    height, width, channels = features["image"].shape
    if image_size is not None:
        return image_size, image_size, channels
    if height is None or width is None:
        raise DatasetUnavailableError(
            f"the images of dataset '{name}' differ in size: give `image_size`, in pixels (recipes: --image-size)"
        )
    return height, width, channels


def _prepare(builder: Any, name: str) -> None:
    """Downloads the dataset unless it is there; tells at once where neither is possible."""
    if _is_prepared(builder):
        return
    # Asked first, because TFDS tries for minutes where there is no network.
    homepage = builder.info.homepage or "https://www.tensorflow.org"
    failure = _failure(homepage) and _failure(DOWNLOADS)
    if failure is not None:
        raise DatasetUnavailableError(
            f"dataset '{name}' is not in {builder.data_path.parent.parent} and there is no network to download it "
            f"(neither {homepage} nor {DOWNLOADS} answers: {failure}): set TFDS_DATA_DIR to a folder that holds it, or "
            "load 'digits' (recipes: --dataset digits), which needs none"
        ) from failure
    print(f"Downloading dataset '{name}' to {builder.data_path}", flush=True)
    builder.download_and_prepare()


def _failure(address: str) -> OSError | None:
    """Why there is no network, or `None` where the address answers."""
    try:
        urllib.request.urlopen(address, timeout=NETWORK_TIMEOUT_S).close()  # noqa: S310 - TFDS's own address
    except urllib.error.HTTPError:
        return None  # a server has answered, so there is a network
    except OSError as error:
        return error
    return None


def _is_prepared(builder: Any) -> bool:
    return (builder.data_path / "dataset_info.json").exists()


def _load(builder: Any, split: str, shape: tuple[int, int, int]) -> LabelledImages:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def resized(example: dict[str, Any]) -> dict[str, Any]:
        image = tf.image.resize(example["image"], shape[:2], antialias=True)
        return {"image": tf.cast(tf.round(image), tf.uint8), "label": example["label"]}

    decoders = tfds.decode.PartialDecoding({"image": True, "label": True})
    examples = builder.as_dataset(split=split, shuffle_files=False, decoders=decoders)
    # Called for each of many small images, even a function that does nothing takes time: a sixth of it for CIFAR-10.
    if tuple(builder.info.features["image"].shape) != shape:
        examples = examples.map(resized, num_parallel_calls=os.cpu_count())
    batches = ahead(examples.batch(1024)).as_numpy_iterator()
    try:
        images, labels = zip(*((batch["image"], batch["label"]) for batch in batches), strict=True)
    except (tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.FailedPreconditionError) as error:
        reason = re.sub(r"\{\{.*\}\}|\[Op:.*", "", str(error)).strip()
        raise DatasetUnavailableError(
            f"split '{split}' of dataset '{builder.name}' cannot be read from {builder.data_path} ({reason}): take "
            "another copy, or remove that folder to have it downloaded"
        ) from error
    return LabelledImages(np.concatenate(images), np.concatenate(labels).astype(np.int64))


def _cifar10_1(shape: tuple[int, int, int]) -> dict[str, LabelledImages]:
    """The versions that are at hand or can be downloaded; a line says what is missing."""
    builders = {version: _builder(f"cifar10_1/{version}") for version in CIFAR10_1_VERSIONS}
    # The first failure ends the loop: without a network each further version would wait for one again.
    try:
        for version, builder in builders.items():
            _prepare(builder, f"cifar10_1/{version}")
    except Exception as error:  # whatever keeps it away, a run goes on without it
        missing = [version for version, builder in builders.items() if not _is_prepared(builder)]
        reason = "there is no network" if isinstance(error, DatasetUnavailableError) else type(error).__name__
        print(
            f"Without CIFAR-10.1 {' and '.join(missing)}, a second test set: not in {builder.data_path.parent.parent}, "
            f"and not downloaded ({reason}). Nothing else needs it. To have it, set TFDS_DATA_DIR to a folder with "
            "cifar10_1, or run where there is a network",
            file=sys.stderr,
            flush=True,
        )
    return {
        f"cifar10_1_{version}": _load(builder, "test", shape)
        for version, builder in builders.items()
        if _is_prepared(builder)
    }
