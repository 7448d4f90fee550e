import numpy as np

from reset_keras.data.image_dataset import ImageDataset, LabelledImages

TEST_FRACTION = 0.2
SPLIT_SEED = 0


def load_digits() -> ImageDataset:
    """scikit-learn's 1,797 real handwritten digits, 8 by 8 pixels, greyscale: they come with the package.

    A fifth of each class, the same for every seed, is the test set. Digits are not mirrored, and moved by a pixel at
    most.
    """
    from sklearn.datasets import load_digits as load_arrays
    from sklearn.model_selection import train_test_split

    arrays = load_arrays()
    images = np.round(arrays.images[..., np.newaxis] * (255 / 16)).astype(np.uint8)
    labels = arrays.target.astype(np.int64)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=TEST_FRACTION, random_state=SPLIT_SEED, stratify=labels
    )
    return ImageDataset(
        name="digits",
        train=LabelledImages(train_images, train_labels),
        tests={"test": LabelledImages(test_images, test_labels)},
        num_classes=10,
        crop_padding=1,
        flip=False,
    )
