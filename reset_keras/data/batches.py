"""Streams of batches for `fit` and `evaluate`, repeatable and resumable at any step."""

import math
import os
from typing import Any

import numpy as np

from reset_keras.argument_checks import check_integer, is_integer
from reset_keras.batches_ahead import ahead
from reset_keras.data.augmentation import crop_and_mirror, padded
from reset_keras.data.image_dataset import ImageDataset, LabelledImages

EVALUATION_BATCH_SIZE = 500


def steps_per_pass(dataset: ImageDataset, batch_size: int) -> int:
    """Number of full batches in one pass over the training images.

    Args:
        dataset: The dataset.
        batch_size: Integer, images in each batch.

    Returns:
        Integer, at least 1. The last images of a pass, which fill no batch, do not count.

    Raises:
        ValueError: `batch_size` is not positive, or there are fewer training images.

    Examples:
        >>> from reset_keras.data import load_digits
        >>> steps_per_pass(load_digits(), batch_size=64)
        22
    """
    if not is_integer(batch_size) or not 1 <= batch_size <= len(dataset.train):
        raise ValueError(
            f"the batch size must be an integer from 1 to the number of training images, {len(dataset.train)} in "
            f"'{dataset.name}'. Received: batch_size={batch_size!r}"
        )
    return len(dataset.train) // batch_size


def training_batches(dataset: ImageDataset, batch_size: int, seed: int, first_step: int = 0) -> Any:
    """An endless `tf.data.Dataset` of training batches: `(images, labels)`, shuffled, augmented and normalized.

    Order and augmentation of step `s` depend only on `(seed, s)`, so that a stream that starts at `first_step` goes on
    just as one that started at 0. Images stay uint8 until their batch is made.

    If the dataset's images are mirrored, each is mirrored in every other pass, from the first or the second on (Jordan,
    2024). Random mirroring would show half of them as in the pass before.

    Args:
        dataset: Where images come from; it says how they are augmented.
        batch_size: Integer, images in each batch. The last images of a pass that fill no batch are left out of it.
        seed: Integer.
        first_step: Integer, number of batches that were seen before. Default 0.

    Returns:
        Dataset of pairs: float32 of shape `(batch_size, height, width, channels)`, int64 of shape `(batch_size,)`.

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> from reset_keras.data import load_digits
        >>> images, labels = next(iter(training_batches(load_digits(), batch_size=64, seed=0)))
        >>> tuple(images.shape), tuple(labels.shape)
        ((64, 8, 8, 1), (64,))
    """
    import tensorflow as tf

    steps = steps_per_pass(dataset, batch_size)
    check_integer("seed", seed)
    check_integer("first_step", first_step, least=0)
    first_pass, skipped = divmod(first_step, steps)
    # Datasets run on the CPU: tensors that lie on a GPU would have to be copied from there.
    with tf.device("CPU:0"):
        images = tf.constant(padded(dataset.train.images, dataset.crop_padding, dataset.mean))
        labels = tf.constant(dataset.train.labels)
        turns = tf.random.stateless_uniform([len(dataset.train)], tf.constant([seed, 0], tf.int64), 0, 2, tf.int64)
        mean, std = tf.constant(dataset.mean), tf.constant(dataset.std)

    def index_batches(number: Any) -> Any:
        pass_seed = tf.stack([tf.constant(seed, tf.int64), number])
        # `Dataset.shuffle` could not go on in the middle of a pass.
        order = tf.random.experimental.stateless_shuffle(tf.range(len(dataset.train)), seed=pass_seed)
        batches = tf.data.Dataset.from_tensor_slices(order).batch(batch_size, drop_remainder=True)
        batches = batches.enumerate().map(lambda step, indices: (pass_seed, step, indices))
        # Only the first pass begins in its middle. What is skipped are indices: no image is made for them.
        return batches.skip(tf.where(number == first_pass, tf.constant(skipped, tf.int64), tf.constant(0, tf.int64)))

    def make_batch(pass_seed: Any, step: Any, indices: Any) -> tuple[Any, Any]:
        batch_seed = tf.random.fold_in(pass_seed, step + 1)
        mirrored = ((tf.gather(turns, indices) + pass_seed[1]) % 2 == 1) & dataset.flip
        batch = crop_and_mirror(tf.gather(images, indices), dataset.image_shape, mirrored, batch_seed)
        return (tf.cast(batch, tf.float32) - mean) / std, tf.gather(labels, indices)

    # A range, since `repeat` would not tell a pass its number.
    passes = tf.data.Dataset.range(first_pass, np.iinfo(np.int64).max)
    return ahead(passes.flat_map(index_batches).map(make_batch, num_parallel_calls=os.cpu_count()))


def _evaluation_batch_size(count: int, replicas: int) -> int:
    """That of the fewest batches in which every replica has images, and in the first of which all have as many.

    Keras takes the mean of the replicas' parts of the first batch to build a model. Of a later batch TensorFlow gives
    each replica what it gave it of the first, as long as there are images; with none its convolutions fail on a CPU.
    """
    fewest = math.ceil(count / EVALUATION_BATCH_SIZE)
    for batches in range(fewest, count + 1):
        share = math.ceil(count / (batches * replicas))
        last = count - (batches - 1) * share * replicas
        if share * (replicas - 1) < last <= share * replicas and (batches > 1 or last == share * replicas):
            return share * replicas
    return math.ceil(count / fewest)  # fewer images than this takes: TensorFlow says what it lacks


def evaluation_batches(dataset: ImageDataset, part: LabelledImages, replicas: int = 1) -> Any:
    """A `tf.data.Dataset` of all images of a part, in order, normalized, not augmented: `(images, labels)`.

    Args:
        dataset: Says how images are normalized.
        part: The images, such as `dataset.test`.
        replicas: Integer, how many replicas share each batch. Default 1.

    Returns:
        Dataset of pairs: float32 of shape `(batch, height, width, channels)`, int64 of shape `(batch,)`, with at most
        500 images in a batch, or a few more where the replicas' shares are rounded up.

    Raises:
        ValueError: `part` has no image, or `replicas` is not positive.

    Examples:
        >>> from reset_keras.data import load_digits
        >>> dataset = load_digits()
        >>> [tuple(images.shape) for images, labels in evaluation_batches(dataset, dataset.test)]
        [(360, 8, 8, 1)]
    """
    import tensorflow as tf

    if len(part) == 0:
        raise ValueError("`part` must hold at least one image. Received: 0 images")
    batch_size = _evaluation_batch_size(len(part), check_integer("replicas", replicas, least=1))
    with tf.device("CPU:0"):
        batches = tf.data.Dataset.from_tensor_slices((part.images, part.labels)).batch(batch_size)
        mean, std = tf.constant(dataset.mean), tf.constant(dataset.std)
    batches = batches.map(lambda images, labels: ((tf.cast(images, tf.float32) - mean) / std, labels))
    return ahead(batches)
