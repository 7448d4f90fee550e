import contextlib

import keras
import numpy as np
import pytest

import numpy_reference as reference
import reset_keras as rk
from gradient import gradient_of
from reset_keras.losses.skip_reward import choice_log_probabilities, skip_scores

SKIPS = np.array([[1, 0, 1], [0, 0, 1]], "float32")


def built(reward, num_iterations=3, **options):
    skip_reward = rk.SkipReward(reward, **options)
    skip_reward.build(num_iterations)
    return skip_reward


def test_the_reward_by_hand():
    assert float(built(0.5).total(SKIPS)) == pytest.approx(0.5 * (2 + 1) / 2)
    assert float(built([1.0, 2.0, 3.0]).total(SKIPS)) == pytest.approx(((1 + 3) + 3) / 2)


def test_scores_of_the_zero_units():
    first = np.array([[[0.2, 0.8]], [[0.6, 0.4]]], "float32")
    skips = skip_scores([first, first], [True, False])
    np.testing.assert_allclose(skips, [[0.8, 0.0], [0.4, 0.0]], atol=1e-7)


def test_the_log_probability_of_the_choice():
    logits = np.log(np.array([[[0.25, 0.75]]], "float32"))
    scores = np.array([[[0.0, 1.0]]], "float32")
    assert float(choice_log_probabilities([logits], [scores])[0, 0]) == pytest.approx(np.log(0.75))


@pytest.mark.parametrize(
    ("order", "to_go"),
    [
        (None, [[1 + 4, 4, 4], [4, 4, 4]]),
        (np.array([2, 0, 1]), [[1, 0, 4 + 1], [0, 0, 4]]),  # the last iteration of the routes runs first
    ],
)
def test_the_return_counts_the_task_loss_and_the_rewards_from_here_on(order, to_go):
    skip_reward = built([1.0, 2.0, 4.0], estimator="reinforce", baseline_momentum=0.5)
    losses = np.array([3.0, 1.0], "float32")
    skip_reward.reinforce(SKIPS, np.zeros((2, 3), "float32"), losses, order)
    returns = to_go - losses[:, None]
    np.testing.assert_allclose(skip_reward.baseline, returns.mean(axis=0), atol=1e-6)
    log_probabilities = np.array([[-1.0, -2.0, -4.0], [-3.0, -0.5, -1.5]], "float32")
    surrogate = skip_reward.reinforce(SKIPS, log_probabilities, losses, order)
    by_hand = -np.mean(np.sum((returns - returns.mean(axis=0)) * log_probabilities, axis=1))
    assert abs(by_hand) > 0.1
    assert float(surrogate) == pytest.approx(by_hand, rel=1e-5)


def test_the_baseline_is_a_running_mean():
    skip_reward = built(0.0, 1, estimator="reinforce", baseline_momentum=0.75)
    for loss in (1.0, 5.0):
        skip_reward.reinforce(np.zeros((1, 1), "float32"), np.zeros((1, 1), "float32"), np.array([loss], "float32"))
    assert float(skip_reward.baseline[0]) == pytest.approx(0.75 * -1.0 + 0.25 * -5.0)


def test_reinforce_estimates_the_gradient_of_the_expected_loss():
    """Over all routes of two iterations, weighted by their probability, the estimate is the exact gradient (eq. 6)."""
    # In the first row those of the first iteration; then those of the second after each choice of the first.
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    first, *second = policies = reference.softmax(logits)
    costs = np.array([[1.0, 2.0, 4.0], [3.0, 0.5, 1.0], [2.0, 5.0, 1.5]], "float32")
    scores = np.eye(3, dtype="float32")[np.indices((3, 3)).reshape(2, 9).T]
    skip_reward = built([1.0, 2.0], 2, estimator="reinforce")
    skip_reward.baseline.assign([0.4, -0.3])
    skip_reward.updates.assign(1.0)

    def surrogate(x):
        of_routes = keras.ops.stack([keras.ops.tile(x[:1], (9, 1)), keras.ops.repeat(x[1:], 3, axis=0)], axis=1)
        weights = 9 * (first[:, None] * second).reshape(9, 1)
        log_probabilities = weights * choice_log_probabilities([of_routes], [scores])
        return skip_reward.reinforce(skip_scores([scores], [True]), log_probabilities, costs.reshape(9))

    with keras.StatelessScope() if keras.backend.backend() == "jax" else contextlib.nullcontext():
        estimate = gradient_of(surrogate, logits)
    losses = costs - [[0.0], [0.0], [1.0]] - [0.0, 0.0, 2.0]  # the last choices skip
    after_first = np.sum(second * losses, axis=1)
    advantages = np.stack([after_first - first @ after_first, *(losses - after_first[:, None]) * first[:, None]])
    np.testing.assert_allclose(estimate, policies * advantages, atol=1e-5)


@pytest.mark.parametrize("estimator", ["straight_through", "reinforce"])
def test_rewards_under_a_target_by_hand(estimator):
    skip_reward = rk.SkipReward(0.1, estimator, target=0.7, target_rate=0.5)
    skip_reward.build(3, np.array([0.5, 1.0, 1.5], "float32"))
    price = 0.1
    for fractions in ([0.9, 1.1], [0.8, 0.8], [0.2, 0.0], [0.0, 0.0]):
        np.testing.assert_allclose(skip_reward.rewards(), price * np.array([0.5, 1.0, 1.5]), atol=1e-6)
        assert float(skip_reward.total(SKIPS)) == pytest.approx(price * (0.5 + 1.5 + 1.5) / 2, abs=1e-6)
        skip_reward.update_price(np.array(fractions, "float32"))
        price = max(0.0, price + 0.5 * (np.mean(fractions) - 0.7))
        assert float(skip_reward.price) == pytest.approx(price, abs=1e-6)
    assert price == 0.0


def test_the_return_counts_the_rewards_of_the_price():
    skip_reward = rk.SkipReward(2.0, "reinforce", target=0.7)
    skip_reward.build(3, np.array([0.5, 1.0, 1.5], "float32"))
    skip_reward.reinforce(SKIPS, np.zeros((2, 3), "float32"), np.array([3.0, 1.0], "float32"))
    returns = np.array([[1 + 3 - 3, 3 - 3, 3 - 3], [3 - 1, 3 - 1, 3 - 1]])
    np.testing.assert_allclose(skip_reward.baseline, returns.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rk.SkipReward(0.1, estimator="reinforced"), "`estimator` must be one of"),
        (lambda: rk.SkipReward([0.1, 0.2], target=0.7), "must be one number that is not negative"),
        (lambda: rk.SkipReward(-0.1, target=0.7), "must be one number that is not negative"),
        (lambda: built([0.1, 0.2]), "one for each of the model's 3 iterations"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("reward", [0.1, [0.1, 0.2]])
@pytest.mark.parametrize("estimator", ["reinforce", "straight_through"])
def test_config_round_trip(reward, estimator):
    config = rk.SkipReward(reward, estimator, 0.5).get_config()
    assert rk.SkipReward.from_config(config).get_config() == config


def test_config_round_trip_with_a_target():
    config = rk.SkipReward(0.1, target=0.7, target_rate=0.02).get_config()
    assert (config["reward"], config["target"], config["target_rate"]) == (0.1, 0.7, 0.02)
    assert rk.SkipReward.from_config(config).get_config() == config


@pytest.mark.parametrize("options", [{}, {"target": 0.7}, {"estimator": "reinforce"}])
def test_it_is_built_for_one_number_of_iterations(options):
    skip_reward = built(0.5, 3, **options)
    skip_reward.build(3)
    with pytest.raises(ValueError, match=r"compiled with a model of 3 iterations .* Received: a model of 5 iterations"):
        skip_reward.build(5)
