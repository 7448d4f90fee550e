import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import EAGERLY_ON_TENSORFLOW, images_and_labels, one_module_reset, slow_on_jax

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(0, 3, (16, 5)).astype("float32"), RNG.integers(0, 5, 16)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_it_is_the_cross_entropy_with_smoothed_labels(smoothing):
    smoothed = np.eye(5)[LABELS] * (1 - smoothing) + smoothing / 5
    log_probabilities = LOGITS - np.log(np.exp(LOGITS).sum(axis=-1, keepdims=True))
    expected = -np.sum(smoothed * log_probabilities, axis=-1)
    loss = rk.SmoothedCrossentropy(smoothing)
    np.testing.assert_allclose(loss(LABELS, LOGITS), expected.mean(), rtol=1e-5)
    weights = RNG.uniform(size=16)
    np.testing.assert_allclose(loss(LABELS, LOGITS, weights), np.mean(expected * weights), rtol=1e-5)


@pytest.mark.parametrize("other", [{"ignore_class": 0}, {"axis": 1}, {"from_logits": False}])
def test_arguments_of_the_loss_without_smoothing_that_it_would_lose_are_refused(other):
    with pytest.raises(TypeError):
        rk.SmoothedCrossentropy(0.1, **other)
    loss = rk.SmoothedCrossentropy(0.1, reduction="sum", name="smoothed")
    assert rk.SmoothedCrossentropy.from_config(loss.get_config()).reduction == "sum"


@slow_on_jax
def test_a_model_trains_with_it_and_keeps_it_in_its_file(tmp_path):
    images, labels = images_and_labels(16)
    model = one_module_reset()
    model.compile("sgd", rk.SmoothedCrossentropy(0.3, name="smoothed"), **EAGERLY_ON_TENSORFLOW)
    model.fit(images, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert loaded.evaluate(images, labels, verbose=0, return_dict=True) == pytest.approx(expected)
    assert loaded.loss.get_config() == model.loss.get_config()
    with pytest.raises(ValueError, match="classes from 0 to 3"):
        loaded.fit(images, labels + 1, verbose=0)
