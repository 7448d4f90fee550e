"""The loss of each image, against what Keras reports for that image alone."""

import keras
import numpy as np
import pytest
from keras import ops

from reset_keras.models.per_image_loss import per_image_loss

RNG = np.random.default_rng(0)
COLUMN, PAIRS = (RNG.normal(size=(3, width)).astype("float32") for width in (1, 2))
WEIGHTS = np.array([1.0, 0.5, 3.0], "float32")


def absolute(y, outputs):
    return ops.abs(y - outputs)


def squared(y, outputs):
    return ops.mean(ops.square(y - outputs), axis=-1)


class WithoutConfig(keras.losses.Loss):
    """Has an argument that no config tells of."""

    def __init__(self, factor):
        super().__init__(name="without_config")
        self.factor = factor

    def call(self, y, outputs):
        return self.factor * squared(y, outputs)


def reported_by_keras(loss, y, outputs, weights):
    model = keras.Sequential([keras.Input(outputs.shape[1:]), keras.layers.Identity()])
    model.compile(loss=loss, run_eagerly=True)
    each = [slice(index, index + 1) for index in range(len(y))]
    weighted = [None if weights is None else weights[image] for image in each]
    return [model.test_on_batch(outputs[image], y[image], w) for image, w in zip(each, weighted, strict=True)]


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
@pytest.mark.parametrize(
    ("loss", "y", "outputs"),
    [
        (absolute, COLUMN[:, 0] + 1, COLUMN),
        (absolute, COLUMN + 1, COLUMN),
        (squared, COLUMN + 1, COLUMN[:, 0]),
        (squared, PAIRS + 1, 2 * PAIRS),
        (squared, PAIRS[..., None] + 1, PAIRS),
        ("mse", COLUMN[:, 0] + 1, COLUMN),
        (keras.losses.MeanSquaredError(), PAIRS + 1, 2 * PAIRS),
        (WithoutConfig(2.0), PAIRS + 1, 2 * PAIRS),
    ],
    ids=["flat-labels", "rank-2", "flat-outputs", "pairs", "labels-with-an-axis", "name", "object", "without-config"],
)
def test_it_is_what_keras_reports_for_each_image_alone(loss, y, outputs, weights):
    values = per_image_loss(loss, ops.convert_to_tensor(y), ops.convert_to_tensor(outputs), weights)
    np.testing.assert_allclose(values, reported_by_keras(loss, y, outputs, weights), rtol=1e-5)


@pytest.mark.parametrize("given", [["mse"], {"outputs": "mse"}])
def test_the_loss_of_the_only_output_may_be_in_a_list_or_under_a_name(given):
    for y in (PAIRS + 1.0, [PAIRS + 1.0]):
        np.testing.assert_allclose(per_image_loss(given, y, PAIRS), np.ones(3), rtol=1e-5)


def test_the_given_object_keeps_its_reduction():
    loss = keras.losses.MeanSquaredError()
    per_image_loss(loss, ops.convert_to_tensor(PAIRS), ops.convert_to_tensor(PAIRS))
    assert loss.reduction == "sum_over_batch_size"


@pytest.mark.parametrize("loss", [None, ["mse", "mae"], lambda y, outputs: ops.mean(ops.square(y - outputs))])
def test_what_gives_no_loss_for_each_image_is_refused(loss):
    with pytest.raises(ValueError, match=r"REINFORCE.* and .* need .* Received: loss="):
        per_image_loss(loss, ops.convert_to_tensor(PAIRS), ops.convert_to_tensor(PAIRS))


@pytest.mark.parametrize("reduction", ["sum", None, "mean_with_sample_weight"])
def test_a_loss_that_is_not_a_mean_is_refused(reduction):
    with pytest.raises(ValueError, match=f"Received: reduction={reduction!r}. To weight the loss"):
        per_image_loss(keras.losses.MeanSquaredError(reduction=reduction), PAIRS, PAIRS)


def test_images_that_count_count_for_those_that_do_not():
    """As in Keras's mean over the images: by `ignore_class`, and by a mask of the outputs."""
    labels, outputs = np.array([0, -1, 1, -1]), ops.convert_to_tensor(RNG.normal(size=(4, 3)).astype("float32"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    values = np.array(per_image_loss(loss, labels, outputs))
    assert (values == 0).tolist() == [False, True, False, True]
    assert values.mean() == pytest.approx(float(loss(labels, outputs)), rel=1e-5)

    words = keras.layers.Masking()(ops.convert_to_tensor(np.array([[[1.0, 2.0], [0, 0]], [[3.0, 1.0], [2.0, 5.0]]])))
    loss = keras.losses.MeanSquaredError()
    values = np.array(per_image_loss(loss, np.zeros((2, 2, 2), "float32"), words))
    np.testing.assert_allclose(values, 4 / 3 * np.array([2.5 / 2, (5 + 14.5) / 2]), rtol=1e-5)
    assert values.mean() == pytest.approx(float(loss(np.zeros((2, 2, 2), "float32"), words)), rel=1e-5)
