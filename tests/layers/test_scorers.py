import keras
import numpy as np
import pytest

import numpy_reference as reference
import reset_keras as rk
from gradient import gradient_of
from reset_keras.layers import scorers
from reset_keras.layers.scorers import SCORERS, get_scorer, gumbel_noise

LOGITS = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
UPSTREAM = np.random.default_rng(1).normal(size=(64, 5)).astype("float32")


def softmax_gradient(logits, upstream, temperature=1.0):
    y = reference.softmax(logits / temperature)
    return y * (upstream - (y * upstream).sum(axis=-1, keepdims=True)) / temperature


@pytest.mark.parametrize(
    "scorer", [rk.SoftmaxScorer(0.3), rk.GumbelSoftmaxScorer(0.3), rk.GumbelSTScorer(0.3), rk.HardScorer()]
)
@pytest.mark.parametrize("training", [True, False])
def test_scores_sum_to_one(scorer, training):
    np.testing.assert_allclose(np.sum(scorer(LOGITS, training=training), axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize("scorer", [rk.GumbelSTScorer(0.7), rk.HardScorer()])
@pytest.mark.parametrize("training", [True, False])
def test_one_unit_is_chosen(scorer, training):
    scores = np.array(scorer(LOGITS, training=training))
    assert set(np.unique(scores)) == {0.0, 1.0}
    if not training:
        np.testing.assert_array_equal(scores.argmax(axis=-1), LOGITS.argmax(axis=-1))


@pytest.mark.parametrize(
    "scorer", [rk.GumbelSoftmaxScorer(0.3), rk.GumbelSoftmaxScorer(3.0), rk.GumbelSTScorer(3.0), rk.HardScorer()]
)
def test_samples_follow_the_policy_whatever_the_temperature(scorer):
    logits = np.tile(np.log([[0.5, 0.3, 0.15, 0.05]]).astype("float32"), (40_000, 1))
    chosen = np.array(scorer(logits, training=True)).argmax(axis=-1)
    frequencies = np.bincount(chosen, minlength=4) / len(logits)
    np.testing.assert_allclose(frequencies, [0.5, 0.3, 0.15, 0.05], atol=0.012)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_the_straight_through_gradient_is_the_softmax_one(temperature):
    scorer = rk.GumbelSTScorer(temperature)
    gradient = gradient_of(lambda logits: keras.ops.sum(scorer(logits, training=False) * UPSTREAM), LOGITS)
    np.testing.assert_allclose(gradient, softmax_gradient(LOGITS, UPSTREAM, temperature), atol=1e-5)


@pytest.mark.parametrize("temperature", [0.3, 3.0])
def test_in_training_the_straight_through_gradient_is_that_of_the_noisy_softmax(temperature, monkeypatch):
    noise = np.random.default_rng(2).gumbel(size=LOGITS.shape).astype("float32")
    monkeypatch.setattr(scorers, "gumbel_noise", lambda shape, seed: keras.ops.convert_to_tensor(noise))
    scorer = rk.GumbelSTScorer(temperature)
    noisy = LOGITS + noise
    np.testing.assert_array_equal(scorer(LOGITS, training=True), reference.one_hot_of_largest(noisy))
    gradient = gradient_of(lambda logits: keras.ops.sum(scorer(logits, training=True) * UPSTREAM), LOGITS)
    np.testing.assert_allclose(gradient, softmax_gradient(noisy, UPSTREAM, temperature), atol=1e-5)


@pytest.mark.parametrize("scorer", [rk.GumbelSTScorer(1e8), rk.TopKScorer(1, 1e8), rk.HardScorer()])
def test_the_largest_logit_counts_where_the_softmax_rounds(scorer):
    logits = np.array([[0.0, 1e-9], [-1e-9, 0.0], [1e-9, 0.0]], "float32")
    np.testing.assert_array_equal(np.argmax(scorer(logits, training=False), axis=-1), [1, 1, 0])


def test_top_k_keeps_values_and_gradients_of_the_best():
    scorer = rk.TopKScorer(2)
    y = reference.softmax(LOGITS)
    kept = y >= np.sort(y, axis=-1)[:, -2, None]
    np.testing.assert_allclose(scorer(LOGITS), y * kept, atol=1e-6)
    gradient = gradient_of(lambda logits: keras.ops.sum(scorer(logits) * UPSTREAM), LOGITS)
    np.testing.assert_allclose(gradient, softmax_gradient(LOGITS, UPSTREAM * kept), atol=1e-5)


def test_top_k_of_equal_scores_keeps_k():
    assert (np.count_nonzero(rk.TopKScorer(2)(np.zeros((3, 5), "float32")), axis=-1) == 2).all()


def test_a_hard_sample_has_no_gradient():
    scorer = rk.HardScorer()
    gradient = gradient_of(
        lambda logits: keras.ops.sum(scorer(logits, training=True) * UPSTREAM) + keras.ops.sum(0 * logits), LOGITS
    )
    assert not gradient.any()


def test_the_temperature_can_be_changed():
    scorer = rk.SoftmaxScorer(1.0)
    scorer(LOGITS)
    scorer.temperature.assign(0.25)
    np.testing.assert_allclose(scorer(LOGITS), reference.softmax(LOGITS / 0.25), atol=1e-6)


def test_a_scorer_by_name_has_the_same_name_in_every_module():
    assert {get_scorer(name).name for name in SCORERS} == {"scorer"}


def test_saving_keeps_where_the_noise_is(tmp_path):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, rk.GumbelSoftmaxScorer(seed=3)(inputs))
    model(LOGITS, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(LOGITS, training=True), model(LOGITS, training=True))


def test_gumbel_noise_is_finite_at_the_ends(monkeypatch):
    uniform = np.array([[0.0, 0.5, 1.0]], "float32")
    monkeypatch.setattr(keras.random, "uniform", lambda *args, **kwargs: keras.ops.convert_to_tensor(uniform))
    least, middle, most = np.array(gumbel_noise((1, 3), None))[0]
    assert least == pytest.approx(-np.log(-np.log(1e-7)), rel=1e-5)
    assert middle == pytest.approx(-np.log(np.log(2)), rel=1e-5)
    assert 15 < most < 17


def test_a_hard_scorer_that_does_not_sample_takes_the_largest_logit_in_training():
    logits = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
    scorer = rk.HardScorer(sampled=False)
    np.testing.assert_array_equal(scorer(logits, training=True), np.eye(5)[logits.argmax(axis=-1)])
    assert rk.HardScorer.from_config(scorer.get_config()).samples_units is False
    assert (np.array(rk.HardScorer(seed=1)(logits, training=True)) != np.eye(5)[logits.argmax(axis=-1)]).any()
