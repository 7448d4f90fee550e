"""Datasets in memory and the streams of batches made of them."""

from reset_keras.argument_checks import is_integer
from reset_keras.data.batches import evaluation_batches, steps_per_pass, training_batches
from reset_keras.data.digits import load_digits
from reset_keras.data.image_dataset import ImageDataset, LabelledImages
from reset_keras.data.tfds import DatasetUnavailableError, load_tfds
from reset_keras.data.validation import hold_out

__all__ = [
    "DatasetUnavailableError",
    "ImageDataset",
    "LabelledImages",
    "evaluation_batches",
    "hold_out",
    "load_dataset",
    "load_digits",
    "load_tfds",
    "steps_per_pass",
    "training_batches",
]


def load_dataset(name: str, image_size: int | None = None) -> ImageDataset:
    """`"digits"`, which comes with scikit-learn, or a dataset of TensorFlow Datasets by name (`load_tfds`).

    Args:
        name: `"digits"`, or a name in TensorFlow Datasets, such as `"cifar10"`.
        image_size: Integer, height and width in pixels that images are resized to, or `None` to leave them as they are.
            Digits have 8. Default `None`.

    Returns:
        An `ImageDataset`.

    Raises:
        DatasetUnavailableError: as in `load_tfds`, or digits are requested in another size.
        ValueError: `image_size` is not positive.

    Examples:
        >>> dataset = load_dataset("digits")
        >>> dataset.image_shape, dataset.num_classes, len(dataset.train), len(dataset.test)
        ((8, 8, 1), 10, 1437, 360)
    """
    if name != "digits":
        return load_tfds(name, image_size)
    if image_size is not None and not (is_integer(image_size) and image_size == 8):
        raise DatasetUnavailableError(f"digits have 8 by 8 pixels. Received: image_size={image_size!r}; leave it out")
    return load_digits()
