"""What `compile` refuses: the model then stays as it was."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import EAGERLY_ON_TENSORFLOW, LOSS, images_and_labels, slow_on_jax, user_model
from reset_keras.models.routed_loss import columns_as_run

IMAGES, LABELS = images_and_labels(8)
REFUSED = [
    ({"skip_reward": rk.SkipReward([1, 2, 3])}, r"each of the model's 2 iterations. Received: 3 numbers"),
    ({"target_rate": rk.TargetRate([0.5] * 3)}, r"each of the 2 iterations .* Received: 3 numbers"),
    (
        {"skip_reward": rk.SkipReward(0.1, estimator="reinforce"), "loss": ["mse", "mse"]},
        r"REINFORCE, early exits and a teacher need one loss of one output. Received: loss=\['mse', 'mse'\]",
    ),
    (
        {"early_exits": rk.EarlyExits(0.1), "loss": keras.losses.MeanSquaredError(reduction="sum")},
        "REINFORCE, early exits and a teacher need a loss .* Received: reduction='sum'",
    ),
    (
        {"distillation": rk.Distillation(keras.Sequential()), "loss": keras.losses.MeanSquaredError(reduction="sum")},
        "REINFORCE, early exits and a teacher need a loss .* Received: reduction='sum'",
    ),
    ({"entropy": 0.1}, r"`entropy` must be an rk.Entropy or None. Received: entropy=0.1"),
    ({"skip_reward": rk.SkipReward}, r"`skip_reward` must be an rk.SkipReward or None. Received: .*class"),
    ({"target_rate": rk.SkipReward(0.1)}, r"`target_rate` must be an rk.TargetRate or None. Received: .*SkipReward"),
    pytest.param(
        {"optimizer": keras.optimizers.SGD(0.1, clipnorm=1.0), "gradient_clip_norm": 1.0},
        "needs an optimizer without `clipnorm` and `clipvalue`",
        marks=pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow's step clips both ways"),
    ),
]


@slow_on_jax
@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_is_refused_leaves_a_model_as_it_was(options, message):
    model, entropy = user_model(), rk.Entropy(0.01)
    options = {"optimizer": "adam", "loss": LOSS, "entropy": entropy} | options
    with pytest.raises(ValueError, match=message):
        model.compile(**options)
    assert not model.compiled
    assert not entropy.variables  # so that it is this one, not a copy, that the next `compile` takes
    model.compile("sgd", LOSS, entropy=entropy, **EAGERLY_ON_TENSORFLOW)
    optimizer, loss = model.optimizer, model.routed_loss
    with pytest.raises(ValueError, match=message):
        model.compile(**options)
    assert (model.optimizer, model.routed_loss, model.entropy) == (optimizer, loss, entropy)
    model.train_on_batch(IMAGES, LABELS)


class GentleReward(rk.SkipReward):
    def __init__(self, strength):
        super().__init__(strength / 10)


class HalfRate(rk.TargetRate):
    def __init__(self):
        super().__init__(0.5)


@pytest.mark.parametrize(
    ("name", "given", "same"),
    [("skip_reward", GentleReward(1.0), rk.SkipReward(0.1)), ("target_rate", HalfRate(), rk.TargetRate(0.5))],
)
def test_a_terms_constructor_may_take_other_arguments(name, given, same):
    model, logs = user_model(scorer="gumbel_st"), []
    for term in (given, same):
        model.compile("sgd", LOSS, **{name: term}, **EAGERLY_ON_TENSORFLOW)
        logs.append(model.test_on_batch(IMAGES, LABELS, return_dict=True))
    assert logs[0] == logs[1]


def two_outputs(scorer):
    inputs = keras.Input((8, 8, 1))
    x, routes = rk.ReSet(2, 1, scorer=scorer, return_routes=True)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return rk.RoutedModel(inputs, [keras.layers.Dense(4)(x), keras.layers.Dense(1)(x)], routes=[routes])


@pytest.mark.parametrize("reward", [rk.SkipReward(0.1, estimator="reinforce"), rk.DropReward()])
def test_reinforce_refuses_two_outputs_before_training(reward):
    model = two_outputs("gumbel_st")
    with pytest.raises(ValueError, match=r"need one loss of one output. Received: loss='mse' and 2 outputs"):
        model.compile("sgd", "mse", skip_reward=reward)


def test_hard_routing_with_two_outputs_can_be_evaluated():
    model = two_outputs("hard")
    model.compile("sgd", [LOSS, "mse"], **EAGERLY_ON_TENSORFLOW)
    heights = IMAGES.mean(axis=(1, 2))
    predicted = model.predict(IMAGES, verbose=0)[1]
    logs = model.evaluate(IMAGES, [LABELS, heights], verbose=0, return_dict=True)
    of_labels = float(LOSS(LABELS, model.predict(IMAGES, verbose=0)[0]))
    np.testing.assert_allclose(logs["task_loss"], of_labels + np.mean((predicted - heights) ** 2), rtol=1e-4)


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow's step clips by itself")
def test_an_optimizer_of_a_config_is_made_once():
    made = []

    @keras.saving.register_keras_serializable("test_compile_checks")
    class Counted(keras.optimizers.SGD):
        def __init__(self, **options):
            super().__init__(**options)
            made.append(self)

    model = user_model()
    model.compile({"class_name": "test_compile_checks>Counted", "config": {}}, LOSS)
    assert made == [model.optimizer]


@pytest.mark.parametrize("weights", [[], {}])
def test_a_list_of_no_loss_weights_is_refused_by_keras_in_words(weights):
    model = user_model()
    model.compile("sgd", LOSS, loss_weights=weights, **EAGERLY_ON_TENSORFLOW)
    with pytest.raises(ValueError, match="`loss_weights` must match the number of losses"):
        model.train_on_batch(IMAGES, LABELS)


def test_controllers_that_learn_nothing_have_no_reinforce():
    model = two_outputs("hard")
    model.routed_modules[0].controller.trainable = False
    model.compile("sgd", [LOSS, "mse"], **EAGERLY_ON_TENSORFLOW)
    assert model.skip_reward is None
    model.fit(IMAGES, [LABELS, IMAGES.mean(axis=(1, 2))], verbose=0)


def test_a_head_whose_log_would_be_lost_is_warned_of():
    inputs = keras.Input((4,))
    x, routes = rk.ReSet([keras.layers.Dense(4)], 1, return_routes=True)(inputs)
    heads = {name: keras.layers.Dense(2, name=name)(x) for name in ("task", "other")}
    model = rk.RoutedModel(inputs, heads, routes=[routes])
    with pytest.warns(UserWarning, match=r"logs of outputs \['task'\] are lost.* Name these outputs otherwise"):
        model.compile("sgd", "mse")


def test_a_step_of_ones_own_is_told_to_ask_for_routes():
    model = two_outputs("softmax")
    model.compile("sgd", "mse")
    outputs = model(IMAGES, training=True)
    for use in (model.compute_loss, model.compute_metrics):
        with pytest.raises(ValueError, match=r"return_routes=True\), and give them what it returns.* a list"):
            use(x=IMAGES, y=[LABELS, LABELS], y_pred=outputs, sample_weight=None)


@pytest.mark.slow
def test_rewards_are_those_from_an_iteration_on_in_whatever_order_routes_are_given():
    inputs = keras.Input((4,))
    x, first = rk.ReSet([keras.layers.Dense(4)], 1, scorer="hard", return_routes=True, name="first")(inputs)
    x, second = rk.ReSet([keras.layers.Dense(4)], 1, scorer="hard", return_routes=True, name="second")(x)
    outputs = keras.layers.Dense(2)(x)
    found = []
    for routes in ([first, second], [second, first]):
        model = rk.RoutedModel(inputs, outputs, routes=routes)
        for module in model.routed_modules:
            module.controller.dense.bias.assign([0.0, 100.0])  # which skips
            module.controller.dense.kernel.assign(0 * module.controller.dense.kernel)
        reward = rk.SkipReward(100.0, estimator="reinforce")
        model.compile(keras.optimizers.SGD(0.0), keras.losses.MeanSquaredError(), skip_reward=reward)
        loss = model.train_on_batch(np.ones((4, 4), "float32"), np.ones((4, 2), "float32"), return_dict=True)
        names = [module.name for module in model.routed_modules]
        found.append(dict(zip(names, np.array(model.skip_reward.baseline) + loss["task_loss"], strict=True)))
    for baselines in found:
        assert baselines == pytest.approx({"first": 200.0, "second": 100.0}, rel=1e-3)


def test_a_module_that_is_called_twice_runs_as_often():
    inputs = keras.Input((4,))
    twice, once = (
        rk.ReSet([keras.layers.Dense(4)], 2, scorer="hard", return_routes=True, name=name) for name in ("twice", "once")
    )
    x, first = twice(inputs)
    x, second = once(x)
    x, third = twice(x)
    model = rk.RoutedModel(inputs, keras.layers.Dense(2)(x), routes=[third, first, second])
    assert columns_as_run(model.network, model.routed_modules).tolist() == [2, 3, 4, 5, 0, 1]
