"""What `fit` takes and refuses, beside what Keras's own `fit` takes."""

import functools

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import LOSS, ON_TENSORFLOW, images_and_labels, slow_on_jax

IMAGES, LABELS = images_and_labels(8)


def smallest_reset():
    return rk.ReSetNet((1,), None, 4, (8, 8, 1), width=4)


def fitted(x, y, loss="sparse_categorical_crossentropy", routed=True):
    keras.utils.set_random_seed(0)
    reset = smallest_reset()
    model = reset if routed else keras.Model(reset.input, reset.output)
    model.compile("sgd", loss, run_eagerly=True)
    return model.fit(x, y, verbose=0).history["loss"]


@functools.cache
def fitted_on_images():
    return fitted(IMAGES, LABELS, LOSS)


@slow_on_jax
@pytest.mark.parametrize("x", [IMAGES[..., 0], IMAGES[..., None]], ids=["without-channels", "with-an-axis-more"])
def test_a_last_axis_of_1_may_be_missing_or_too_many(x):
    assert fitted(x, LABELS, LOSS) == pytest.approx(fitted_on_images(), rel=1e-5)


@pytest.mark.parametrize("shape", [(8, 8, 8), (8, 8, 1, 2), (8, 8, 2), (8, 7), (8,)])
def test_other_axes_may_not(shape):
    with pytest.raises(ValueError, match=r"`x` must hold at least one input of shape \(None, 8, 8, 1\)"):
        fitted(np.zeros((8, *shape), "float32"), LABELS)


IGNORING = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
SOME_IGNORED = np.where(np.arange(8) < 3, -1, LABELS)


@functools.cache
def fitted_where_some_are_ignored():
    return fitted(IMAGES, SOME_IGNORED, IGNORING)


@slow_on_jax
def test_labels_of_an_ignored_class_are_ignored_as_by_keras():
    weight_decay = fitted(IMAGES, np.full(8, -1), IGNORING)[0]
    losses = fitted_where_some_are_ignored()
    assert losses[0] > weight_decay > 0
    assert losses == pytest.approx(fitted(IMAGES, SOME_IGNORED, IGNORING, routed=False), rel=1e-5)
    with pytest.raises(
        ValueError, match=r"`y` must hold classes from 0 to 3, the model's outputs, as whole numbers. Received: -2"
    ):
        fitted(IMAGES, SOME_IGNORED - (SOME_IGNORED < 0), IGNORING)


def test_classes_of_an_unknown_number_are_left_to_keras():
    """A network that points at one of its inputs, however many there are."""
    inputs = keras.Input((None, 4))
    x, routes = rk.ReSet([keras.layers.Dense(4)], 1, return_routes=True)(inputs)
    scores = keras.layers.Flatten()(keras.layers.Dense(1)(x))
    model = rk.RoutedModel(inputs, scores, routes=[routes])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(np.ones((8, 5, 4), "float32"), np.arange(8) % 5, verbose=0).history
    assert history["task_loss"][0] == pytest.approx(np.log(5), rel=1e-4)


@pytest.fixture(scope="module")
def model():
    model = smallest_reset()
    model.compile("sgd", LOSS, run_eagerly=True)
    return model


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (IMAGES, r"`sample_weight` must have an entry for each of the 8 inputs. Received: sample_weight of shape \(\)"),
        ([IMAGES], r"`sample_weight` must hold finite numbers. Received: NaN or infinity in 1 of 1 entries"),
    ],
)
def test_one_weight_for_all_images_is_refused(model, x, message):
    with pytest.raises(ValueError, match=message):
        model.fit(x, LABELS, sample_weight=np.array(np.nan), verbose=0)


WEIGHTS = np.where(np.arange(8) < 3, np.nan, 1.0)


@pytest.mark.parametrize(
    ("name", "method", "arguments"),
    [
        ("sample_weight", "evaluate", (8, 0, WEIGHTS)),
        ("sample_weight", "fit", (8, 1, 0, None, 0.0, None, True, None, WEIGHTS)),
        (r"validation_data\[2\]", "fit", (8, 1, 0, None, 0.0, (IMAGES, LABELS, WEIGHTS))),
    ],
)
def test_arguments_without_their_names_are_looked_at_too(model, name, method, arguments):
    with pytest.raises(ValueError, match=f"`{name}` must hold finite numbers. Received: NaN or infinity in 3 of 8"):
        getattr(model, method)(IMAGES, LABELS, *arguments)


class PlusAny(keras.layers.Layer):
    """Adds the mean of a second input to the first one, if there is any."""

    def call(self, x, other=None):
        return x if other is None else x + keras.ops.mean(other)

    def compute_output_spec(self, x, other=None):
        return keras.KerasTensor(x.shape, x.dtype)


def test_an_optional_input_may_be_missing():
    images, other = keras.Input((8, 8, 1)), keras.Input((3,), optional=True)
    x = keras.layers.Conv2D(4, 3)(PlusAny()(images, other))
    x, _ = rk.ReSet([keras.layers.Dense(4)], 1, return_routes=True)(x)
    model = rk.RoutedModel([other, images], keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)))
    # Keras's own step on JAX does not repeat images.
    model.compile("sgd", LOSS, batch_replication=2 if ON_TENSORFLOW else 1)
    before = model.evaluate([None, IMAGES], LABELS, verbose=0, return_dict=True)["task_loss"]
    losses = model.fit([None, IMAGES], LABELS, epochs=2, verbose=0).history["loss"]
    assert losses[0] == pytest.approx(before, rel=1e-5)
    assert losses[1] < losses[0]


def test_a_dataset_must_hold_batches_as_far_as_it_says_what_it_holds(model):
    tf = pytest.importorskip("tensorflow")
    images = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS))
    with pytest.raises(ValueError, match=r"`x` must hold at least one batch of shape .* an empty dataset"):
        model.evaluate(images.take(0).batch(4))
    with pytest.raises(
        ValueError, match=r"Received: a dataset of shape \(8, 8, 1\): give it batches, dataset.batch\(128\)"
    ):
        model.evaluate(images)
    of_any_shape = [tf.TensorSpec(None, tf.float32), tf.TensorSpec(None, tf.int64)]
    unknown = tf.data.Dataset.from_generator(lambda: iter([(IMAGES, LABELS)]), output_signature=tuple(of_any_shape))
    known = model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    assert model.evaluate(unknown, verbose=0, return_dict=True)["loss"] == pytest.approx(known["loss"], rel=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_labels_that_are_not_finite_are_refused(value):
    labels = np.zeros((8, 4))
    labels[2:4, 1] = value
    with pytest.raises(ValueError, match=r"`y` must hold finite numbers. Received: NaN or infinity in 2 of 8 entries"):
        fitted(IMAGES, labels, "mse")


def test_labels_in_a_list_are_looked_at_too():
    with pytest.raises(ValueError, match=r"`y` must hold classes from 0 to 3.*Received: 9"):
        fitted(IMAGES, [*LABELS[:7].tolist(), 9])
    with pytest.raises(ValueError, match=r"`y` must have an entry for each of the 8 inputs"):
        fitted(IMAGES, LABELS[:7].tolist())


def test_a_loss_in_a_list_may_ignore_a_class():
    losses = fitted(IMAGES, SOME_IGNORED, [IGNORING])
    assert losses == pytest.approx(fitted_where_some_are_ignored(), rel=1e-6)


def test_a_metric_may_need_a_whole_batch():
    def spread(y, outputs):
        return keras.ops.mean(keras.ops.top_k(outputs[:, 0], 4)[0])

    model = smallest_reset()
    model.compile("sgd", LOSS, metrics=[spread])
    assert np.isfinite(model.fit(IMAGES, LABELS, verbose=0).history["spread"]).all()
