import dataclasses
import functools

import numpy as np

from reset_keras.argument_checks import check_integer


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """Images and their classes, in memory.

    Args:
        images: Array of shape `(count, height, width, channels)`, uint8, 0 to 255.
        labels: Array of shape `(count,)`, integers, from 0.

    Raises:
        ValueError: a shape or type is not as above, or the counts differ.

    Examples:
        >>> pixels = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), "uint8")
        >>> len(LabelledImages(pixels, labels=np.arange(64) % 3))
        64
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        are_images = self.images.ndim == 4 and self.images.dtype == np.uint8
        are_labels = self.labels.shape == self.images.shape[:1] and np.issubdtype(self.labels.dtype, np.integer)
        if not are_images or not are_labels:
            raise ValueError(
                "Expected uint8 images of shape (count, height, width, channels) and as many integers as labels. "
                f"Received: images of shape {self.images.shape} and type {self.images.dtype}, labels of shape "
                f"{self.labels.shape} and type {self.labels.dtype}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def spread(self, most: int) -> np.ndarray:
        """Indices of at most so many images, evenly spaced: of a set that is sorted by class the first are of one."""
        count = min(check_integer("most", most, least=1), len(self))
        return np.linspace(0, len(self) - 1, count).astype(int)


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """A dataset for image classification: training images, and one or more test sets.

    Args:
        name: String, for tables and messages.
        train: Images to train on.
        tests: Test sets by name; the first is the one that stages are compared by.
        num_classes: Integer.
        crop_padding: Integer, not negative, pixels around an image that random crops may reach into while training.
        flip: Boolean, whether images are mirrored in every other pass while training.
        class_names: Names of the classes, for figures. Default: none; classes are then called by their numbers.

    Raises:
        ValueError: there is no training image or no test set or an empty one, or the sets' images differ in shape, or
            a label is no class, or there are not as many names as classes, or a number is out of its range.

    Examples:
        >>> pixels = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), "uint8")
        >>> train, test = LabelledImages(pixels[:48], np.arange(48) % 3), LabelledImages(pixels[48:], np.arange(16) % 3)
        >>> dataset = ImageDataset("mine", train, {"test": test}, num_classes=3, class_names=("cat", "dog", "fox"))
        >>> dataset.image_shape, dataset.class_name(2)
        ((16, 16, 3), 'fox')
        >>> dataset.normalize(test.images).shape
        (16, 16, 16, 3)
    """

    name: str
    train: LabelledImages
    tests: dict[str, LabelledImages]
    num_classes: int
    crop_padding: int = 4
    flip: bool = True
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_integer("num_classes", self.num_classes, least=1)
        check_integer("crop_padding", self.crop_padding, least=0)
        shapes = {part.images.shape[1:] for part in (self.train, *self.tests.values())}
        counts = {name: len(part) for name, part in self.tests.items()}
        if not len(self.train) or not counts or not all(counts.values()) or len(shapes) != 1:
            raise ValueError(
                f"Dataset '{self.name}' needs training images, and at least one test set, each with images of the same "
                f"shape. Received: {len(self.train)} training images, tests {counts}, image shapes {sorted(shapes)}"
            )
        labels = np.concatenate([part.labels for part in (self.train, *self.tests.values())])
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(
                f"Labels of dataset '{self.name}' must be from 0 to {self.num_classes - 1}, as num_classes="
                f"{self.num_classes}. Received: {labels.min()} to {labels.max()}"
            )
        object.__setattr__(self, "class_names", tuple(self.class_names))  # an array has no truth value
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"Dataset '{self.name}' has {self.num_classes} classes. Received: class_names={self.class_names}"
            )

    @property
    def has_pictures(self) -> bool:
        """Whether images can be shown: they are grey, RGB, or RGB with transparency."""
        return self.train.images.shape[-1] in (1, 3, 4)

    def class_name(self, label: int) -> str:
        """Name of a class, or its number where classes have no names.

        Args:
            label: Integer from 0, below `num_classes`.

        Returns:
            String.

        Raises:
            ValueError: `label` is no class.
        """
        check_integer("label", label, least=0, most=self.num_classes - 1)
        return self.class_names[label] if self.class_names else str(label)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.train.images.shape[1:]

    @property
    def test(self) -> LabelledImages:
        """The first test set."""
        return next(iter(self.tests.values()))

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """Mean of each channel over the training images, in units of a pixel's 0 to 255, float32."""
        return self.train.images.mean(axis=(0, 1, 2), dtype=np.float64).astype(np.float32)

    @functools.cached_property
    def std(self) -> np.ndarray:
        """Standard deviation of each channel over the training images, float32, at least 1."""
        # By how often each value occurs: `np.std` would make a copy of all images in float64.
        counts = [np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(self.train.images, -1, 0)]
        values = np.arange(256)
        deviations = [
            np.sqrt(np.average((values - mean) ** 2, weights=count))
            for mean, count in zip(self.mean, counts, strict=True)
        ]
        return np.maximum(deviations, 1.0).astype(np.float32)

    def normalize(self, images: np.ndarray) -> np.ndarray:
        """Images as the networks take them: each channel with mean 0 and deviation 1 over the training set.

        Args:
            images: Array of shape `(count, height, width, channels)`, 0 to 255.

        Returns:
            Float32 array of the same shape.
        """
        return (images.astype(np.float32) - self.mean) / self.std
