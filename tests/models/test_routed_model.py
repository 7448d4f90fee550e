import functools

import keras
import numpy as np
import pytest

import numpy_reference as reference
import reset_keras as rk
from networks import (
    EAGERLY_ON_TENSORFLOW,
    LOSS,
    ONE_BACKEND,
    images_and_labels,
    one_module_reset,
    slow_on_jax,
    user_model,
)
from reset_keras.models.routed_loss import TERMS

IMAGES, LABELS = images_and_labels()


def one_iteration(scorer="softmax", units=2, iterations=1):
    """A model with little to trace, and without regularizers, which Keras has only in float32."""
    inputs = keras.Input((8, 8, 1))
    x, routes = rk.ReSet(units, iterations, scorer=scorer, return_routes=True)(keras.layers.Conv2D(4, 3)(inputs))
    outputs = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x))
    return rk.RoutedModel(inputs, outputs, routes=[routes])


def compiled(model, **options):
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), LOSS, metrics=["accuracy"], **options)
    return model


@pytest.mark.parametrize(
    ("scorer", "iterations", "reward", "step"),
    [
        ("softmax", 1, rk.SkipReward(0.01), {}),
        pytest.param("gumbel_softmax", 1, None, EAGERLY_ON_TENSORFLOW, marks=[ONE_BACKEND, pytest.mark.slow]),
        ("gumbel_st", 1, rk.SkipReward(0.01, "reinforce"), EAGERLY_ON_TENSORFLOW),
        pytest.param("top_k", 2, rk.SkipReward([0.01, 0.0]), EAGERLY_ON_TENSORFLOW, marks=ONE_BACKEND),
        pytest.param("hard", 1, None, {}, marks=pytest.mark.slow),
    ],
)
def test_trains_with_every_scorer(scorer, iterations, reward, step):
    keras.utils.set_random_seed(0)
    units = [keras.layers.Conv2D(4, 3, padding="same") for _ in range(2)]
    network = one_iteration(scorer, units, iterations)
    model = compiled(network, entropy=rk.Entropy(0.01, 0.01), skip_reward=reward, **step)
    options = {"validation_data": (IMAGES, LABELS)} if scorer == "softmax" else {}
    history = model.fit(IMAGES, LABELS, batch_size=32, epochs=6, verbose=0, **options).history
    assert set(TERMS) < set(history)
    assert not options or {f"val_{term}" for term in TERMS} < set(history)
    assert history["task_loss"][-1] < history["task_loss"][0]


def test_every_parameter_receives_a_gradient():
    model = one_module_reset("gumbel_st", weight_decay=0.0)
    model = compiled(model, entropy=rk.Entropy(0.1, 0.1), **EAGERLY_ON_TENSORFLOW)
    before = [np.array(variable) for variable in model.trainable_variables]
    model.fit(IMAGES, LABELS, batch_size=32, epochs=2, verbose=0)
    unmoved = [v.path for v, old in zip(model.trainable_variables, before, strict=True) if np.array_equal(v, old)]
    assert not unmoved


def test_the_loss_is_the_sum_of_its_terms():
    terms = {"entropy": rk.Entropy(across=0.3, within=0.2), "skip_reward": rk.SkipReward(0.5)}
    model = compiled(user_model(), **terms, **EAGERLY_ON_TENSORFLOW)
    logs = model.evaluate(IMAGES, LABELS, batch_size=32, verbose=0, return_dict=True)
    outputs, routes = keras.tree.map_structure(np.array, model(IMAGES, training=False, return_routes=True))
    routes = routes[0]
    policy = np.exp(routes["logits"]) / np.exp(routes["logits"]).sum(axis=-1, keepdims=True)
    across = -(policy.mean(axis=0) * np.log(policy.mean(axis=0))).sum()
    within = -(policy * np.log(policy)).sum(axis=-1).mean(axis=0).sum()
    task = np.mean(np.log(np.exp(outputs).sum(axis=-1)) - outputs[np.arange(len(LABELS)), LABELS])
    l2 = 0.01 * np.sum(np.square(model.layers[1].get_weights()[0]))
    skip = routes["scores"][..., -1]
    expected = {
        "task_loss": task,
        "entropy_across": across,
        "entropy_within": within,
        "skip_reward": 0.5 * skip.sum(axis=1).mean(),
        "skip_fraction": skip.mean(),
        "l2": l2,
        "loss": task + l2 - 0.3 * across + 0.2 * within - 0.5 * skip.sum(axis=1).mean(),
    }
    for name, value in expected.items():
        assert logs[name] == pytest.approx(value, abs=1e-4), name


@slow_on_jax
def test_images_of_a_smaller_last_batch_count_no_more_than_others():
    units = [keras.layers.Conv2D(4, 3, padding="same") for _ in range(2)]
    model = one_iteration(units=units)
    model.compile(keras.optimizers.SGD(0.0), LOSS, skip_reward=rk.SkipReward(0.5), **EAGERLY_ON_TENSORFLOW)
    images, labels = IMAGES[:20] * np.where(np.arange(20) < 16, 1, 4)[:, None, None, None], LABELS[:20]
    history = model.fit(images, labels, batch_size=16, shuffle=False, verbose=0).history
    outputs, routes = model(images, training=False, return_routes=True)
    losses = -np.log(reference.softmax(np.array(outputs))[np.arange(20), labels])
    rewards = 0.5 * np.array(routes[0]["scores"])[:, 0, -1]
    for name, values in (("task_loss", losses), ("skip_reward", rewards), ("loss", losses - rewards)):
        assert abs(values[16:].mean() - values[:16].mean()) > 0.001
        assert history[name] == [pytest.approx(values.mean(), rel=1e-5)], name


def test_predict_gives_the_outputs_and_predict_routes_the_routes():
    model = one_iteration()
    outputs, called = model(IMAGES, training=False, return_routes=True)
    for found in (model(IMAGES), model.predict(IMAGES, verbose=0), model.predict_on_batch(IMAGES)):
        np.testing.assert_allclose(found, outputs, atol=1e-5)
    (routes,) = model.predict_routes(IMAGES, batch_size=5, verbose=0)
    assert routes["logits"].shape == routes["scores"].shape == (32, 1, 3)
    np.testing.assert_allclose(routes["scores"], called[0]["scores"], atol=1e-5)


def test_changed_loss_weights_reach_a_compiled_step():
    model = compiled(one_iteration(), entropy=rk.Entropy(within=0.0))
    first = model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    model.entropy.within.assign(2.0)
    second = model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    assert second["loss"] - first["loss"] == pytest.approx(2 * first["entropy_within"], rel=1e-4)


def test_inputs_are_not_rounded_before_the_layers_that_want_them_whole():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((8, 8, 1))
        x = keras.layers.Normalization(mean=[1000.0], variance=[1.0], dtype="float32")(inputs)
        x, routes = rk.ReSet(2, 1, return_routes=True)(keras.layers.Conv2D(4, 3)(x))
        model = rk.RoutedModel(inputs, x, routes=[routes])
    finally:
        keras.config.set_dtype_policy(before)
    images = 1000 + IMAGES
    expected = keras.Model(model.input, model.output).predict(images, verbose=0)
    np.testing.assert_array_equal(model.predict(images, verbose=0), expected)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="part of the TensorFlow step")
def test_replicated_images_train_like_repeated_ones():
    replicated, repeated = (compiled(user_model(), batch_replication=n, run_eagerly=True) for n in (3, 1))
    repeated.set_weights(replicated.get_weights())
    replicated.train_on_batch(IMAGES, LABELS)
    repeated.train_on_batch(np.repeat(IMAGES, 3, axis=0), np.repeat(LABELS, 3))
    for ours, theirs in zip(replicated.get_weights(), repeated.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="part of the TensorFlow step")
def test_images_are_not_replicated_on_other_backends():
    with pytest.raises(ValueError, match=r"needs the TensorFlow backend.* Received: batch_replication=3 on jax"):
        compiled(user_model(), batch_replication=3)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="part of the TensorFlow step")
def test_each_replica_of_an_image_has_its_own_noise():
    model = user_model(scorer="gumbel_softmax")
    scores = model(np.repeat(IMAGES[:1], 4, axis=0), training=True, return_routes=True).routes[0]["scores"]
    assert len(np.unique(np.round(scores, 6), axis=0)) == 4


@slow_on_jax
@pytest.mark.parametrize(
    ("loss", "activation"),
    [
        (LOSS, "linear"),
        pytest.param("sparse_categorical_crossentropy", "softmax", marks=ONE_BACKEND),
        pytest.param(keras.losses.sparse_categorical_crossentropy, "softmax", marks=ONE_BACKEND),
    ],
)
def test_a_loss_of_any_form_serves_reinforce(loss, activation):
    """The baseline of a first step is the mean return: without rewards, minus the mean loss."""
    network = user_model(scorer="hard")
    model = rk.RoutedModel(network.input, keras.layers.Activation(activation)(network.output))
    model.compile("sgd", loss, **EAGERLY_ON_TENSORFLOW)
    noise = model.routed_modules[0].scorer.seed_generator.state
    before = np.array(noise)
    outputs = np.array(model(IMAGES, training=True))
    noise.assign(before)
    likelihoods = outputs if activation == "softmax" else reference.softmax(outputs)
    losses = -np.log(likelihoods[np.arange(len(LABELS)), LABELS])
    model.train_on_batch(IMAGES, LABELS)
    np.testing.assert_allclose(model.skip_reward.baseline, [-losses.mean()] * 2, rtol=1e-4)


def reinforce_step(loss_weights=None, sample_weight=None):
    """What a step adds to a controller's kernel, without a baseline to take off."""
    keras.utils.set_random_seed(0)
    model = user_model(scorer=rk.HardScorer(seed=3))
    reward = rk.SkipReward(0.0, "reinforce")
    options = {"loss_weights": loss_weights, "skip_reward": reward, **EAGERLY_ON_TENSORFLOW}
    model.compile(keras.optimizers.SGD(1e-3), LOSS, **options)
    reward.updates.assign(1.0)
    kernel = model.routed_modules[0].controller.dense.kernel
    before = np.array(kernel)
    model.train_on_batch(IMAGES, LABELS, sample_weight=sample_weight)
    return np.array(kernel) - before


unweighted_step = functools.cache(reinforce_step)


@slow_on_jax
@pytest.mark.parametrize(
    "weights",
    [
        {"loss_weights": 12.0},
        pytest.param({"loss_weights": [12.0]}, marks=ONE_BACKEND),
        {"sample_weight": np.full(len(IMAGES), 12.0, "float32")},
    ],
)
def test_weights_of_the_loss_are_reinforces_too(weights):
    """The controllers' step is 12 times as long."""
    assert np.abs(unweighted_step()).max() > 1e-5
    np.testing.assert_allclose(reinforce_step(**weights), 12 * unweighted_step(), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("method", ["fit", "train_on_batch", "evaluate", "test_on_batch"])
def test_a_model_must_be_compiled_first(method):
    with pytest.raises(ValueError, match=r"You must call `compile\(\)`"):
        getattr(user_model(), method)(IMAGES, LABELS)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras's other steps do not warn")
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_without_trainable_weights_warns_as_keras_does(clip):
    model = user_model()
    model.trainable = False
    before = model.get_weights()
    compiled(model, gradient_clip_norm=clip, run_eagerly=True)
    with pytest.warns(UserWarning, match="The model does not have any trainable weights"):
        logs = model.train_on_batch(IMAGES, LABELS, return_dict=True)
    assert np.isfinite(logs["loss"])
    assert logs["gradient_norm_pools"] == 0
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: rk.RoutedModel(keras.Input((1,)), keras.Input((1,)), routes=[]),
            "`routes` must hold the routes of at least",
        ),
        (
            lambda: rk.RoutedModel(keras.Input((1,)), keras.Input((1,)), routes=[{"scores": keras.Input((1,))}]),
            "`routes` must be what ReSet layers",
        ),
        (lambda: compiled(user_model(), skip_reward=rk.SkipReward(0.1, "reinforce")), "scorers that sample one unit"),
        (lambda: compiled(user_model(scorer="hard"), skip_reward=rk.SkipReward(0.1)), "gets no gradient through"),
        (
            lambda: compiled(user_model(zero_unit=False), skip_reward=rk.SkipReward(0.1)),
            "modules with a zero unit",
        ),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_same_routes_given_twice_are_refused():
    inputs = keras.Input((8, 8, 4))
    x, routes = rk.ReSet(2, 1, return_routes=True, name="only")(inputs)
    with pytest.raises(ValueError, match=r"each call of a module once. Received: the routes of \['only', 'only'\]"):
        rk.RoutedModel(inputs, x, routes=[routes, dict(routes)])


def test_sampled_routes_that_the_model_does_not_know_are_refused():
    inputs = keras.Input((8, 8, 4))
    x, routes = rk.ReSet(2, 1, scorer="hard", return_routes=True)(rk.ReSet(2, 1, scorer="hard", name="first")(inputs))
    model = rk.RoutedModel(inputs, keras.layers.GlobalAveragePooling2D()(x), routes=[routes])
    with pytest.raises(ValueError, match=r"\['first'\] have controllers that sample units without a gradient"):
        model.compile("sgd", LOSS)


def test_losses_of_several_outputs_by_name():
    inputs = keras.Input((8, 8, 1))
    x, routes = rk.ReSet(2, 1, return_routes=True)(keras.layers.Conv2D(4, 3, padding="same")(inputs))
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = [keras.layers.Dense(4, name="class")(x), keras.layers.Dense(1, name="brightness")(x)]
    labels = {"class": LABELS, "brightness": IMAGES.mean(axis=(1, 2))}
    found = []
    for model in (rk.RoutedModel(inputs, outputs, routes=[routes]), keras.Model(inputs, outputs)):
        metrics = {"class": ["accuracy"], "brightness": ["mae"]}
        model.compile("sgd", {"class": LOSS, "brightness": "mse"}, metrics=metrics, **EAGERLY_ON_TENSORFLOW)
        found.append(model.evaluate(IMAGES, labels, verbose=0, return_dict=True))
    for name in ("loss", "class_accuracy", "brightness_mae"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-5)


class HalfOfTheLoss(rk.RoutedModel):
    """Keras passes no `training` to a `compute_loss` that does not take it."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return 0.5 * super().compute_loss(x, y, y_pred, sample_weight)


def test_a_loss_of_ones_own_need_not_know_whether_it_trains():
    network = user_model()
    model = HalfOfTheLoss(network.input, network.output)
    logs = compiled(model, **EAGERLY_ON_TENSORFLOW).train_on_batch(IMAGES, LABELS, return_dict=True)
    assert logs["loss"] == pytest.approx(0.5 * (logs["task_loss"] + logs["l2"]), rel=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX must be told to compute in float64")
@pytest.mark.parametrize("scorer", ["softmax", "hard"])
def test_in_double_precision(scorer):
    def compiled_anew():
        model = one_iteration(scorer)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)  # in the type that is the default now
        model.compile("sgd", loss, entropy=rk.Entropy(0.01, 0.01), run_eagerly=True)
        return model

    single = compiled_anew()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        double = compiled_anew()
        double.set_weights(single.get_weights())
        logs = double.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
        losses = double.fit(IMAGES, LABELS, batch_size=16, verbose=0).history["loss"]
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    assert logs == pytest.approx(single.evaluate(IMAGES, LABELS, verbose=0, return_dict=True), rel=1e-4)
    assert np.isfinite(losses).all()
    assert double.predict_on_batch(IMAGES).dtype == np.float64
