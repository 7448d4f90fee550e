"""Made-up input: each piece is refused in words that name it, or gives a right result."""

import contextlib
import dataclasses
import io
import re
import string

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import reset_keras as rk
from experiment import config
from networks import LOSS, small_reset
from relaxation import RelaxationConfig
from reset_keras.data import ImageDataset, LabelledImages

pytestmark = pytest.mark.faults
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
MANY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
NUMBERS = st.one_of(st.integers(-3, 4), st.floats(allow_nan=True), st.booleans(), st.none(), st.text(max_size=3))


def refused(make, *names):
    """What `make` returns, or `None` where it raises a `ValueError` that names one of the arguments."""
    try:
        return make()
    except ValueError as error:
        message = str(error)
    assert any(name in message for name in names), f"{message} names none of {names}"
    return None


@pytest.mark.slow
@QUICK
@given(st.lists(st.integers(-1, 3), max_size=3), st.lists(st.integers(-1, 3), max_size=3), st.integers(-1, 3))
def test_networks(units, iterations, classes):
    names = ("units", "num_iterations", "num_classes")
    model = refused(lambda: rk.ReSetNet(units, iterations, classes, (8, 8, 1), width=4), *names)
    if model is not None:
        outputs, routes = model(np.zeros((2, 8, 8, 1)), return_routes=True)
        assert tuple(outputs.shape) == (2, classes)
        for route, k, n in zip(routes, filter(None, iterations), filter(None, units), strict=True):
            assert tuple(route["scores"].shape) == (2, k, n + 1)


@QUICK
@given(NUMBERS, NUMBERS)
def test_modules(units, iterations):
    make = lambda: rk.ReSet(units, iterations)  # noqa: E731
    module = refused(make, "units", "num_iterations")
    if module is not None:
        assert isinstance(module.num_iterations, int)
        assert module.pool.num_units == units


@MANY
@given(st.sampled_from(["softmax", "gumbel_softmax", "gumbel_st"]), NUMBERS)
def test_temperatures(name, temperature):
    kind = type(rk.layers.scorers.get_scorer(name))
    scorer = refused(lambda: kind(temperature=temperature), "temperature")
    if scorer is not None:
        scores = np.array(scorer(np.array([[1.0, 2.0]], "float32")))
        assert np.isfinite(scores).all()
        assert scores.sum() == pytest.approx(1.0, abs=1e-5)


@MANY
@given(NUMBERS, NUMBERS)
def test_weights_of_the_entropy(across, within):
    entropy = refused(lambda: rk.Entropy(across, within), "across", "within")
    if entropy is not None:
        assert np.isfinite([entropy.across, entropy.within]).all()


@MANY
@given(NUMBERS, NUMBERS, NUMBERS)
def test_skip_rewards(reward, target, rate):
    names = ("reward", "target", "target_rate")
    made = refused(lambda: rk.SkipReward(reward, target=target, target_rate=rate), *names)
    if made is not None:
        assert rk.SkipReward.from_config(made.get_config()).get_config() == made.get_config()


FLAGS = [field.name.replace("_", "-") for field in dataclasses.fields(RelaxationConfig)]
WORDS = st.one_of(
    st.integers(-5, 5).map(str), st.floats().map(str), st.text(string.printable, max_size=5), st.just("quick")
)


@MANY
@given(st.lists(st.tuples(st.sampled_from(FLAGS), st.lists(WORDS, max_size=2)), max_size=3))
def test_command_lines(flags):
    line = [word for name, words in flags for word in (f"--{name}", *words)]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            settings_made = config.parse(RelaxationConfig, "made up", line)
        except SystemExit as end:
            settings_made, code = None, end.code
    if settings_made is None:
        assert code == 2
        assert len(said.getvalue().strip().splitlines()) == 1
        return
    for field in dataclasses.fields(settings_made):
        value, meta = getattr(settings_made, field.name), field.metadata
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float):
                assert np.isfinite(number)
            if "least" in meta["limits"] and number is not None:
                assert number >= meta["limits"]["least"]


@pytest.fixture(scope="module")
def model():
    model = small_reset()
    model.compile(keras.optimizers.SGD(0.01), LOSS)
    return model


SHAPES = st.sampled_from([(8, 8, 1), (8,), (8, 8, 3), (8, 0, 1), (0, 8, 1), (8, 8, 1, 2), (4, 8, 1), ()])
PIXELS = st.sampled_from([0.0, 1.0, np.nan, np.inf, -np.inf])
LABELS = st.sampled_from([0, 3, 4, -1, 10**6])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.integers(0, 3), SHAPES, PIXELS, LABELS, st.integers(0, 3), st.sampled_from([1, 2]))
def test_arrays_that_are_fitted(model, count, shape, pixel, label, labels, batch):
    images = np.zeros((count, *shape), "float32")
    if images.size:
        images.flat[-1] = pixel
    targets = np.full(labels, label)
    before = model.get_weights()
    history = refused(lambda: model.fit(images, targets, batch_size=batch, verbose=0), "`x`", "`y`")
    right = shape == (8, 8, 1) and count > 0 and np.isfinite(pixel) and labels == count and 0 <= label < 4
    assert (history is not None) == right
    if right:
        assert np.isfinite(history.history["loss"]).all()
        assert all(np.isfinite(weight).all() for weight in model.get_weights())
    else:
        for weight, value in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(weight, value)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.integers(0, 3), SHAPES, st.sampled_from([None, 1, 2]), st.booleans())
def test_datasets_that_are_fitted(model, count, shape, batch, told):
    """`told`: whether the dataset knows its length before it is read."""
    import tensorflow as tf

    images, labels = np.zeros((count, *shape), "float32"), np.zeros(count, int)
    data = tf.data.Dataset.from_tensor_slices((images, labels))
    data = data if batch is None else data.batch(batch)
    if not told:
        data = data.filter(lambda *_: True)
    right = shape == (8, 8, 1) and count > 0 and batch is not None
    assume(told or count > 0)  # Keras itself warns of a dataset that turns out to be empty
    before = model.get_weights()
    history = refused(lambda: model.fit(data, verbose=0), "`x`")
    assert (history is not None) == right
    if right:
        assert np.isfinite(history.history["loss"]).all()
    else:
        for weight, value in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(weight, value)


@MANY
@given(st.integers(0, 3), st.integers(0, 3), st.lists(st.integers(-1, 4), max_size=3), st.integers(0, 4))
def test_datasets(train, test, labels, classes):
    def part(count):
        return LabelledImages(np.zeros((count, 8, 8, 1), np.uint8), np.array(labels[:count], np.int64))

    def make():
        return ImageDataset("made up", part(train), {"test": part(test)}, classes)

    dataset = refused(make, "images", "label", "Labels", "num_classes")
    if dataset is not None:
        assert len(dataset.train) == train > 0
        assert len(dataset.test) == test > 0
        assert np.isfinite(dataset.normalize(dataset.train.images)).all()


def test_one_class_and_one_image_train():
    model = rk.ReSetNet((1, 1), None, 1, (8, 8, 1), width=4)
    model.compile(keras.optimizers.SGD(0.1), LOSS, entropy=rk.Entropy(0.1, 0.1))
    history = model.fit(np.ones((1, 8, 8, 1)), np.zeros(1, int), verbose=0)
    assert history.history["task_loss"] == [pytest.approx(0.0, abs=1e-6)]


def test_messages_name_arguments_as_code():
    with pytest.raises(ValueError, match=re.escape("`x` must hold at least one input of shape (None, 8, 8, 1)")):
        small_reset().fit(np.zeros((0, 8, 8, 1)), np.zeros(0, int))
