import numpy as np

from reset_keras.data.image_dataset import ImageDataset
from reset_keras.data.validation import split

TEST_FRACTION = 0.2


def load_digits() -> ImageDataset:
    """scikit-learn's 1,797 real handwritten digits, 8 by 8 pixels, greyscale: they come with the package.

    A fifth of each class, the same for every seed, is the test set. Digits are not mirrored, and moved by a pixel at
    most.

    Returns:
        An `ImageDataset` of images of shape `(8, 8, 1)`, in ten classes without names.

    Examples:
        >>> digits = load_digits()
        >>> digits.image_shape, digits.num_classes, len(digits.train), len(digits.test)
        ((8, 8, 1), 10, 1437, 360)
    """
    from sklearn.datasets import load_digits as load_arrays

    arrays = load_arrays()
    images = np.round(arrays.images[..., np.newaxis] * (255 / 16)).astype(np.uint8)
    labels = arrays.target.astype(np.int64)
    train, test = split(images, labels, TEST_FRACTION)
    return ImageDataset("digits", train, {"test": test}, num_classes=10, crop_padding=1, flip=False)
