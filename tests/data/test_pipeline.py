import numpy as np
import pytest

from reset_keras import data
from reset_keras.data import batches
from reset_keras.data.augmentation import crop_and_mirror, padded


@pytest.fixture(scope="module")
def digits():
    return data.load_digits()


def take(batches, count):
    return list(batches.take(count).as_numpy_iterator())


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_one_pass_shows_every_image_once(digits):
    small = data.ImageDataset("small", data.LabelledImages(digits.train.images[:96], np.arange(96)), digits.tests, 96)
    labels = np.concatenate([labels for _, labels in take(data.training_batches(small, 32, seed=0), 6)])
    np.testing.assert_array_equal(np.sort(labels[:96]), np.arange(96))
    np.testing.assert_array_equal(np.sort(labels[96:]), np.arange(96))
    assert not np.array_equal(labels[:96], labels[96:])


def test_equal_seeds_give_equal_batches_and_others_do_not(digits):
    first, again, other = (take(data.training_batches(digits, 64, seed), 2) for seed in (3, 3, 4))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not same(first[0], other[0])


@pytest.mark.parametrize("first_step", [1, 22, 30])
def test_a_stream_goes_on_where_it_was_interrupted(digits, first_step):
    whole = take(data.training_batches(digits, 64, seed=1), 33)
    rest = take(data.training_batches(digits, 64, seed=1, first_step=first_step), 3)
    assert len(rest) == 3
    assert all(same(a, b) for a, b in zip(whole[first_step : first_step + 3], rest, strict=True))


def test_crops_are_parts_of_the_padded_image():
    import tensorflow as tf

    images = np.random.default_rng(0).integers(0, 256, (50, 6, 5, 2), dtype=np.uint8)
    canvas = padded(images, 2, np.array([7.0, 9.4]))
    assert (canvas[:, :2] == [7, 9]).all()
    mirrored = np.arange(50) % 3 == 0
    crops = crop_and_mirror(tf.constant(canvas), (6, 5, 2), mirrored, tf.constant([1, 2], tf.int64)).numpy()
    found = set()
    for crop, source, is_mirrored in zip(crops, canvas, mirrored, strict=True):
        places = [
            (row, column)
            for row in range(5)
            for column in range(5)
            if np.array_equal(crop, source[row : row + 6, column : column + 5][:, :: -1 if is_mirrored else 1])
        ]
        assert len(places) == 1
        found.update(places)
    assert len(found) > 12


@pytest.mark.parametrize("flip", [True, False])
def test_each_image_is_mirrored_in_every_other_pass(flip):
    """Images without a symmetry, each of another colour, and not cropped."""
    images = np.arange(1, 25, dtype=np.uint8)[:, None, None, None] * np.array([1, 2, 3], np.uint8)[:, None]
    part = data.LabelledImages(images.repeat(3, axis=1), np.arange(24))
    tests = {"test": part}
    dataset = data.ImageDataset("columns", part, tests, num_classes=24, crop_padding=0, flip=flip)
    batches = data.training_batches(dataset, 8, seed=3).take(12).as_numpy_iterator()
    seen = [{} for _ in range(4)]
    for step, (batch, labels) in enumerate(batches):
        for image, label in zip(batch, labels, strict=True):
            seen[step // 3][label] = bool(image[0, 0, 0] > image[0, -1, 0])
    assert all(len(passed) == 24 for passed in seen)
    for label in range(24):
        first, *others = [passed[label] for passed in seen]
        assert others == ([not first, first, not first] if flip else [False] * 3)
    assert 4 < sum(seen[0].values()) < 20 or not flip


def test_evaluation_sees_all_images_in_order(digits):
    images, labels = zip(*data.evaluation_batches(digits, digits.test).as_numpy_iterator(), strict=True)
    np.testing.assert_array_equal(np.concatenate(labels), digits.test.labels)
    np.testing.assert_allclose(np.concatenate(images), digits.normalize(digits.test.images), atol=1e-5)


def test_the_last_batch_of_an_evaluation_is_not_a_small_one():
    part = data.LabelledImages(np.zeros((1001, 1, 1, 1), np.uint8), np.zeros(1001, np.int64))
    dataset = data.ImageDataset("made up", part, {"test": part}, num_classes=1)
    sizes = [len(labels) for _, labels in data.evaluation_batches(dataset, part).as_numpy_iterator()]
    assert sizes == [334, 334, 333]


@pytest.mark.parametrize("replicas", range(1, 9))
def test_every_replica_has_images_in_each_batch_of_an_evaluation(replicas):
    for count in (300, 360, 1_000, 1_001, 2_000, 5_000, 10_000):
        size = batches._evaluation_batch_size(count, replicas)
        sizes = [size] * (count // size) + [count % size] * (count % size > 0)
        assert sum(sizes) == count
        assert sizes[0] % replicas == 0  # of the first batch all have as many
        share = -(-size // replicas)
        assert all(size > share * (replicas - 1) for size in sizes)  # each takes so many, until there are none left
        assert max(sizes) < 500 + replicas


def test_there_must_be_an_image_to_evaluate_on(digits):
    part = data.LabelledImages(np.zeros((0, 8, 8, 1), np.uint8), np.zeros(0, int))
    with pytest.raises(ValueError, match=r"`part` must hold at least one image. Received: 0 images"):
        data.evaluation_batches(digits, part)


@pytest.mark.parametrize("batch_size", [0, 1438])
def test_the_batch_must_not_be_larger_than_the_data(digits, batch_size):
    with pytest.raises(ValueError, match="from 1 to the number of training images, 1437"):
        data.steps_per_pass(digits, batch_size)
