"""Training images that are held out: the same ones always, none of them trained on."""

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from reset_keras.data import hold_out, load_digits


def as_set(part):
    return {image.tobytes() for image in part.images}


def test_held_out_images_are_those_that_are_not_trained_on():
    digits = load_digits()
    held = hold_out(digits, 300)
    assert (len(held.train), len(held.test), list(held.tests)) == (len(digits.train) - 300, 300, ["validation"])
    assert as_set(held.train) | as_set(held.test) == as_set(digits.train)
    assert not as_set(held.train) & as_set(held.test)
    shares = np.bincount(digits.train.labels) * 300 / len(digits.train)
    np.testing.assert_allclose(np.bincount(held.test.labels), shares, atol=1)


def test_an_array_of_one_number_is_that_number():
    assert len(hold_out(load_digits(), np.array(200)).test) == 200


def test_they_are_the_same_ones_every_time():
    first, second = (hold_out(load_digits(), 300).test for _ in range(2))
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.labels, second.labels)


@pytest.mark.parametrize(("share", "count"), [(0.01, 15), (0.2, 288), (1427 / 1437, 1427)])
def test_a_share_is_rounded_up(share, count):
    """As by scikit-learn, which chooses the images."""
    digits = load_digits()
    held = hold_out(digits, share).test
    assert len(held) == count
    _, images = train_test_split(digits.train.images, test_size=share, random_state=0, stratify=digits.train.labels)
    np.testing.assert_array_equal(held.images, images)


@pytest.mark.parametrize("size", [0, 9, 1430, 5000, 0.0001, 1427.4 / 1437, 1.0])
def test_too_many_or_too_few_are_refused(size):
    with pytest.raises(ValueError, match=rf"from 10 to 1427 of the 1437 training images .* Received: size={size}"):
        hold_out(load_digits(), size)
