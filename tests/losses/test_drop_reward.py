"""The reward of BlockDrop and its curriculum."""

import itertools

import keras
import numpy as np
import pytest

import reset_keras as rk
from gradient import gradient_of
from networks import EAGERLY_ON_TENSORFLOW, LOSS, ON_TENSORFLOW, images_and_labels, randomize, slow_on_jax
from reset_keras.callbacks import DropCurriculum
from reset_keras.losses.drop_reward import is_right
from reset_keras.models.routed_loss import Batch
from reset_keras.models.routed_outputs import RoutedOutputs

IMAGES, LABELS = images_and_labels()
ROUTES = list(itertools.product((0, 1), repeat=3))
"""All routes of three iterations: where one is 1, its unit is skipped."""


def policy_net(units=(3,), scorer="hard", **options):
    options = {"controller": "policy", "allowed": "sequential", "weight_decay": 0.0, **options}
    return rk.ReSetNet(units, None, 4, (8, 8, 1), scorer=scorer, width=4, **options)


def test_the_reward_by_hand():
    skips = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], "float32")
    reward = rk.DropReward(penalty=2.5)
    np.testing.assert_allclose(reward.of_images(skips, np.array([True] * 3)), [0.75, 1.0, 0.0])
    np.testing.assert_allclose(reward.of_images(skips, np.array([False] * 3)), [-2.5] * 3)


@pytest.mark.parametrize("y", [[0, 2], [[0], [2]], np.eye(3)[[0, 2]]])
def test_what_is_classified_right(y):
    outputs = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]], "float32")
    np.testing.assert_array_equal(is_right(np.array(y), outputs), [True, False])
    with pytest.raises(ValueError, match="two classes or more"):
        is_right(np.array(y), outputs[:, :1])


@pytest.fixture(scope="module")
def forced():
    """A compiled network and, for each of its routes, the outputs for one image, and the scores."""
    model = policy_net()
    bias = model.routed_modules[0].controller.dense.bias
    for seed in range(20):
        randomize(model, seed)
        parts = []
        for route in ROUTES:
            logits = np.zeros((3, 4))
            for k, skips in enumerate(route):
                logits[k, 3 if skips else k] = 1e4
            bias.assign(logits.reshape(-1))
            parts.append(model(IMAGES[:1], training=False, return_routes=True))
        outputs = np.concatenate([part.outputs for part in parts])
        if len(set(outputs.argmax(axis=-1))) > 1:
            model.compile("sgd", LOSS, skip_reward=rk.DropReward(penalty=0.5))
            return model, outputs, np.concatenate([part.routes[0]["scores"] for part in parts])
    raise AssertionError


def policies(x):
    """Of logits `(iterations, 2)`, for unit and zero unit, the logarithms of what each of all routes is chosen with."""
    log_policy = keras.ops.log_softmax(x, axis=-1)
    return keras.ops.stack([sum(log_policy[k, skips] for k, skips in enumerate(route)) for route in ROUTES])


@slow_on_jax
@pytest.mark.parametrize(("baseline", "weight"), [(0.0, None), (0.7, None), (0.7, 2.0)])
def test_reinforce_is_the_gradient_of_the_expected_reward_over_all_routes(forced, baseline, weight):
    model, outputs, scores = forced
    np.testing.assert_array_equal(scores[..., 3], ROUTES)
    label = outputs.argmax(axis=-1)[0]
    right = outputs.argmax(axis=-1) == label
    assert 0 < right.sum() < len(ROUTES)
    rewards = np.where(right, 1 - (1 - np.mean(ROUTES, axis=1)) ** 2, -0.5).astype("float32")
    x = np.random.default_rng(3).normal(size=(3, 2)).astype("float32")
    chances = np.exp(keras.ops.convert_to_numpy(policies(x)))
    assert chances.sum() == pytest.approx(1.0, abs=1e-5)

    def surrogate(x, index):
        """The loss of a batch of one image that has taken one of the routes."""
        columns = [keras.ops.one_hot(k, 4) * x[k, 0] + keras.ops.one_hot(3, 4) * x[k, 1] for k in range(3)]
        masked = keras.ops.where(model.routed_modules[0].allowed.mask, keras.ops.stack(columns), -1e9)
        part = slice(index, index + 1)
        prediction = RoutedOutputs(outputs[part], [{"logits": masked[None], "scores": scores[part]}])
        model.skip_reward.baseline.assign([baseline] * 3)
        model.skip_reward.updates.assign(1.0)
        zero, weights = keras.ops.zeros(()), None if weight is None else np.array([weight], "float32")
        batch = Batch(None, np.array([label]), prediction, weights)
        return model.routed_loss.with_terms(zero, zero, batch, training=True)

    def gradient(index):
        if keras.backend.backend() == "jax":
            with keras.StatelessScope():
                return gradient_of(lambda x: surrogate(x, index), x)
        return gradient_of(lambda x: surrogate(x, index), x)

    estimate = sum(chance * gradient(index) for index, chance in enumerate(chances))
    exact = gradient_of(lambda x: -keras.ops.sum(keras.ops.exp(policies(x)) * rewards), x)
    assert np.abs(exact).max() > 0.05
    np.testing.assert_allclose(estimate, exact * (weight or 1.0), atol=1e-5)


@pytest.mark.slow
def test_a_policy_learns_to_skip_what_is_not_needed_and_all_is_logged(tmp_path):
    """Every route is right here: the classifier's bias decides, and each unit costs its share of the reward."""
    keras.utils.set_random_seed(0)
    model = policy_net(units=(2,))
    rk.training.train_only_controllers(model)
    model.get_layer("classifier").bias.assign([1e3, 0.0, 0.0, 0.0])
    model.compile(keras.optimizers.Adam(0.02), LOSS, skip_reward=rk.DropReward())
    labels = np.zeros(len(IMAGES), int)
    first = model.fit(IMAGES, labels, epochs=15, verbose=0).history["skip_reward"][0]
    model.run_eagerly = ON_TENSORFLOW
    logs = model.evaluate(IMAGES, labels, verbose=0, return_dict=True)
    assert first < 0.9
    assert logs["skip_reward"] == pytest.approx(1 - (1 - logs["skip_fraction"]) ** 2, abs=1e-5)
    assert logs["skip_reward"] > 0.95
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.skip_reward.get_config() == {"penalty": 1.0, "baseline_momentum": 0.9}
    np.testing.assert_array_equal(loaded.skip_reward.baseline, model.skip_reward.baseline)
    loaded.run_eagerly = ON_TENSORFLOW
    wrong = loaded.evaluate(IMAGES, labels + 1, verbose=0, return_dict=True)
    assert wrong["skip_reward"] == pytest.approx(-1.0)


def test_the_curriculum_goes_from_the_last_unit_backwards():
    curriculum = DropCurriculum(epochs=4)
    counts = [curriculum.open_iterations(epoch, [3, 1]) for epoch in range(5)]
    assert counts == [[3, 0], [2, 0], [1, 0], [0, 0], [0, 0]]
    assert DropCurriculum(2).open_iterations(0, [1, 3]) == [1, 1]
    each_epoch = [DropCurriculum(25).open_iterations(epoch, [25]) for epoch in range(25)]
    assert each_epoch == [[24 - epoch] for epoch in range(25)]


@slow_on_jax
def test_the_curriculum_in_a_training():
    model = policy_net(units=(1, 1))
    model.compile("sgd", LOSS, skip_reward=rk.DropReward(), **EAGERLY_ON_TENSORFLOW)
    for module in model.routed_modules:
        module.controller.dense.bias.assign([0.0, 50.0])  # which skips all that may be
    history = model.fit(IMAGES, LABELS, epochs=2, callbacks=[DropCurriculum(2)], verbose=0).history
    assert history["skip_fraction"] == pytest.approx([0.5, 1.0])
    with pytest.warns(rk.callbacks.RoutingWarning, match=r"before the curriculum of 4 epochs: the first \[1, 0\]"):
        model.fit(IMAGES, LABELS, callbacks=[DropCurriculum(4)], verbose=0)


@pytest.mark.parametrize("options", [{"controller": "rnn"}, {"zero_unit": False}])
def test_a_curriculum_for_other_networks_is_refused(options):
    model = policy_net(scorer="gumbel_st", **options)
    model.compile("sgd", LOSS)
    with pytest.raises(ValueError, match="needs modules with a PolicyController and a zero unit"):
        model.fit(IMAGES, LABELS, callbacks=[DropCurriculum(2)], verbose=0)


def test_a_reward_for_other_networks_is_refused():
    with pytest.raises(ValueError, match="needs modules with a zero unit"):
        policy_net(zero_unit=False).compile("sgd", LOSS, skip_reward=rk.DropReward())
    with pytest.raises(ValueError, match="needs scorers that sample one unit"):
        policy_net(scorer="softmax").compile("sgd", LOSS, skip_reward=rk.DropReward())
