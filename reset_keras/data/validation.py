import dataclasses
import math

import numpy as np

from reset_keras.argument_checks import is_integer, is_real
from reset_keras.data.image_dataset import ImageDataset, LabelledImages

SEED = 0


def split(images: np.ndarray, labels: np.ndarray, size: int | float) -> tuple[LabelledImages, LabelledImages]:
    """Images in two parts, the second of a size, or share, with the same share of each class; always the same ones."""
    from sklearn.model_selection import train_test_split

    parts = train_test_split(images, labels, test_size=size, random_state=SEED, stratify=labels)
    return LabelledImages(parts[0], parts[2]), LabelledImages(parts[1], parts[3])


def hold_out(dataset: ImageDataset, size: int | float) -> ImageDataset:
    """A dataset that is tested on some of the training images, as many of each class, and not trained on these.

    They are the same for every seed of a run. Compare runs on them, and use the test images only once, at the end.

    Args:
        dataset: It is left as it is. Its test sets are not in the new one.
        size: Integer, number of images that are held out, or float, their share of the training images, rounded
            up to a whole image.

    Returns:
        A dataset whose only test set is `"validation"`.

    Raises:
        ValueError: there are fewer images than classes held out, or fewer left.

    Examples:
        >>> from reset_keras.data import load_digits
        >>> held = hold_out(load_digits(), 200)
        >>> len(held.train), list(held.tests), len(held.test)
        (1237, ['validation'], 200)
    """
    images, labels = dataset.train.images, dataset.train.labels
    count = int(size) if is_integer(size) else math.ceil(size * len(labels)) if is_real(size) else -1
    if not dataset.num_classes <= count <= len(labels) - dataset.num_classes:
        raise ValueError(
            f"from {dataset.num_classes} to {len(labels) - dataset.num_classes} of the {len(labels)} training images "
            f"of '{dataset.name}' can be held out for validation. Received: size={size!r}"
        )
    train, validation = split(images, labels, count)
    return dataclasses.replace(dataset, train=train, tests={"validation": validation})
