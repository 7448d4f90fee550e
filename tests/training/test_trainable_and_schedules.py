import dataclasses

import keras
import numpy as np
import pytest

import reset_keras as rk
from experiment.network_config import NetworkConfig
from networks import LOSS, images_and_labels, one_module_reset, small_reset
from reset_keras.callbacks import DropCurriculum, EntropySchedule, TemperatureSchedule
from reset_keras.training import (
    Stage,
    Training,
    make_optimizer,
    train_all_but_controllers,
    train_everything,
    train_last_modules,
    train_only_controllers,
)
from reset_keras.training.stages.optimizers import OPTIMIZERS, SCHEDULES
from reset_keras.training.stages.stage import THE_ONE_BEFORE, starting_stages

IMAGES, LABELS = images_and_labels()


def train(model):
    model.compile(keras.optimizers.SGD(0.1), LOSS, run_eagerly=True)
    model.train_on_batch(IMAGES, LABELS)


def values_along(schedule, model, epochs, read):
    """What `read` finds in each epoch under a schedule."""
    schedule.set_model(model)
    found = []
    for epoch in range(epochs):
        schedule.on_epoch_begin(epoch)
        found.append(read())
    return found


def test_freezing_keeps_weights_and_statistics_of_all_but_the_controllers():
    model = small_reset("gumbel_softmax")
    train_only_controllers(model)
    before = {weight.path: np.array(weight) for weight in model.weights}
    train(model)
    changed = {w.path for w in model.weights if not np.array_equal(w, before[w.path])}
    assert changed == {w.path for module in model.routed_modules for w in module.controller.trainable_weights}


def test_without_freezing_statistics_move():
    model = one_module_reset()
    before = {weight.path: np.array(weight) for weight in model.weights}
    train(model)
    moved = {w.path for w in model.weights if not np.array_equal(w, before[w.path])}
    assert {w.path for w in model.weights if "moving" in w.path} <= moved


def test_frozen_layers_of_nested_models_are_frozen_too():
    stem = keras.Sequential([keras.layers.Conv2D(4, 3, padding="same"), keras.layers.BatchNormalization()])
    inputs = keras.Input((8, 8, 1))
    x, routes = rk.ReSet(2, 2, return_routes=True)(stem(inputs))
    model = rk.RoutedModel(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(x)), routes=[routes])
    train_only_controllers(model)
    assert not stem.trainable_variables
    assert all("controller" in variable.path for variable in model.trainable_variables)


@pytest.mark.parametrize("frozen", ["model", "all but a module", "each layer"])
@pytest.mark.parametrize(
    "choose",
    [
        train_only_controllers,
        train_all_but_controllers,
        train_everything,
        lambda model: train_last_modules(model, 0),
        lambda model: train_last_modules(model, 1),
    ],
)
def test_what_was_frozen_before_does_not_matter(choose, frozen):
    fresh, model = small_reset(), small_reset()
    if frozen == "each layer":
        for layer in model.layers:
            layer.trainable = False
    else:
        model.trainable = False
    if frozen == "all but a module":
        model.routed_modules[1].trainable = True
        model.routed_modules[1].pool.trainable = False
        model.routed_modules[1].controller.trainable = False
    for network in (fresh, model):
        choose(network)
    expected = [variable.path for variable in fresh.trainable_variables]
    assert expected
    assert [variable.path for variable in model.trainable_variables] == expected
    assert [layer.trainable for layer in model._flatten_layers()] == [
        layer.trainable for layer in fresh._flatten_layers()
    ]


def test_sgd_follows_the_steps_of_he_et_al():
    rate = make_optimizer("sgd", 0.1, 64_000)._learning_rate
    rates = [float(rate(step)) for step in (0, 31_999, 32_001, 47_999, 48_001, 63_999)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


def test_adam_decays_every_thousand_batches():
    rate = make_optimizer("adam", 0.001, 5000)._learning_rate
    rates = [float(rate(step)) for step in (0, 999, 1000, 2000)]
    np.testing.assert_allclose(rates, [0.001, 0.001, 0.00095, 0.0009025], rtol=1e-6)


def test_the_rate_of_a_short_training_falls_in_a_half_cosine():
    rate = make_optimizer("sgd", 0.1, 4000, schedule="cosine")._learning_rate
    rates = [float(rate(step)) for step in (0, 1000, 2000, 3000, 4000)]
    np.testing.assert_allclose(rates, [0.1, 0.05 + 0.05 * 0.5**0.5, 0.05, 0.05 - 0.05 * 0.5**0.5, 0.0], atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "steps", "schedule", "expected"),
    [
        ("adam", 10_000, "paper", {0: 1.0, 999: 1.0, 1000: 0.95, 2000: 0.9025}),
        ("sgd", 100, "paper", {0: 1.0, 51: 0.1, 76: 0.01}),
        ("sgd", 4000, "cosine", {0: 1.0, 1000: 0.5 + 0.5 * 0.5**0.5, 2000: 0.5}),
        ("nesterov", 5000, "warmup_cosine", {500: 0.5, 1000: 1.0, 3000: 0.5}),
    ],
)
@pytest.mark.parametrize("one", [1, np.int64(1)], ids=["int", "numpy"])
def test_a_whole_number_as_the_rate_is_that_float(one, kind, steps, schedule, expected):
    rate = make_optimizer(kind, one, steps, one, schedule)._learning_rate
    assert {step: float(rate(step)) for step in expected} == pytest.approx(expected, rel=1e-6)


def test_nesterovs_momentum_looks_a_step_ahead():
    """Two steps along one gradient g, at rates that are equal: by hand 1.9 and 2.71 g, where momentum has 1 and 1.9."""
    moved = {}
    for kind in ("sgd", "nesterov"):
        weight = keras.Variable([0.0])
        optimizer = make_optimizer(kind, 0.1, 64_000)
        optimizer.apply([keras.ops.ones(1)], [weight])
        optimizer.apply([keras.ops.ones(1)], [weight])
        moved[kind] = -float(weight[0])
    assert moved == pytest.approx({"sgd": 0.1 * (1 + 1.9), "nesterov": 0.1 * (1.9 + 2.71)}, rel=1e-5)


@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam"])
def test_the_rate_rises_for_a_fifth_of_the_training_then_falls_in_a_half_cosine(kind):
    rate = make_optimizer(kind, 0.1, 5000, schedule="warmup_cosine")._learning_rate
    rates = [float(rate(step)) for step in (0, 500, 1000, 2000, 3000, 5000)]
    np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.05 + 0.05 * 0.5**0.5, 0.05, 0], atol=1e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_optimizer("sgd", 0.1, 10, schedule="steps"), "`schedule` must be one of"),
        (lambda: make_optimizer("lion", 0.1, 10), "`kind` must be one of"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_temperature_follows_its_schedule():
    model = small_reset("gumbel_softmax")
    scorers = [module.scorer for module in model.routed_modules]
    seen = values_along(
        TemperatureSchedule(1.0, 0.25, 3), model, 3, lambda: [float(scorer.temperature) for scorer in scorers]
    )
    np.testing.assert_allclose(seen, [[1.0, 1.0], [0.5, 0.5], [0.25, 0.25]], rtol=1e-6)


def test_the_entropys_weights_fall_in_the_second_half():
    model = small_reset()
    model.compile("sgd", LOSS, entropy=rk.Entropy(0.4, 0.2))
    entropy = model.entropy
    seen = values_along(EntropySchedule(0.4, 0.2, 5), model, 6, lambda: (float(entropy.across), float(entropy.within)))
    np.testing.assert_allclose(seen, [(0.4, 0.2)] * 3 + [(0.2, 0.1), (0.0, 0.0), (0.0, 0.0)], atol=1e-6)


def test_the_entropys_schedule_needs_an_entropy():
    model = small_reset()
    model.compile("sgd", LOSS)
    with pytest.raises(ValueError, match=rf"needs a model compiled with `entropy=.* Received: '{model.name}'"):
        model.fit(IMAGES[:4], LABELS[:4], verbose=0, callbacks=[EntropySchedule(0.4, 0.2, 5)])


def stage(name, start=THE_ONE_BEFORE, teacher=None):
    return Stage(name, "", "", lambda model: model, Training(1, dict, teacher=teacher), start)


def test_stages_start_from_the_one_before_or_from_a_named_one():
    assert starting_stages([stage("a"), stage("b"), stage("c", "a"), stage("d", None)]) == [None, "a", "a", None]


@pytest.mark.parametrize(
    "stages",
    [[stage("a"), stage("a")], [stage("a", "b"), stage("b")], [stage("a", "a")], [stage("a", None, "b"), stage("b")]],
)
def test_stages_that_cannot_follow(stages):
    with pytest.raises(ValueError, match="Stages need different names"):
        starting_stages(stages)


@pytest.mark.parametrize(("steps", "expected"), [(5000, (13, 385)), (390, (1, 390)), (10, (1, 10)), (391, (2, 196))])
def test_a_training_is_divided_evenly_into_epochs(steps, expected):
    assert Training(steps, dict).epochs(390) == expected


def test_lengths_of_numpy_are_integers_of_python():
    """An integer of eight bits has no negative, and JSON holds no integer of NumPy."""
    found = Training(np.uint8(200), dict).epochs(np.uint8(40))
    assert found == (5, 40)
    assert {type(number) for number in found} == {int}
    train_last_modules(model := small_reset(), np.uint8(1))
    assert {variable.path.split("/")[0] for variable in model.trainable_variables} > {"stage1_reset", "classifier"}
    assert DropCurriculum(4).open_iterations(np.uint8(7), np.array([2], np.uint8)) == [0]


def test_a_recipe_offers_every_optimizer_and_schedule():
    """It lists them itself: `--help` does not import the library."""
    choices = {field.name: field.metadata["choices"] for field in dataclasses.fields(NetworkConfig)}
    assert (choices["optimizer"], choices["schedule"]) == (OPTIMIZERS, SCHEDULES)
