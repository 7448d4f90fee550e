"""Halting that is trained: the ponder cost, files, and what is counted."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import IMAGES as INPUTS
from frozen import LABELS
from halting_networks import halting_network, in_order, routes_of
from networks import EAGERLY_ON_TENSORFLOW, LOSS, one_module_reset, randomize, slow_on_jax, user_model
from reset_keras.losses.ponder_cost import halting_sum

IMAGES = np.random.default_rng(0).normal(size=(12, 5, 5, 6)).astype("float32")


def compiled(model, weight, rate=0.05, **options):
    model.compile(keras.optimizers.SGD(rate), LOSS, ponder_cost=rk.PonderCost(weight), **options)
    return model


def test_the_ponder_cost_is_a_term_of_the_loss():
    model = compiled(halting_network(), 0.3, **EAGERLY_ON_TENSORFLOW)
    logs = model.evaluate(INPUTS, LABELS, batch_size=32, verbose=0, return_dict=True)
    routes = routes_of(model)
    np.testing.assert_allclose(logs["ponder_cost"], routes[0]["ponder"].sum(axis=1).mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["iterations"], routes[0]["active"].sum(axis=1).mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], logs["task_loss"] + 0.3 * logs["ponder_cost"], rtol=1e-5)
    model.ponder_cost.weight.assign(1.0)
    logs = model.evaluate(INPUTS, LABELS, batch_size=32, verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["loss"], logs["task_loss"] + logs["ponder_cost"], rtol=1e-5)
    twice = [{name: keras.ops.convert_to_tensor(part) for name, part in route.items()} for route in routes * 2]
    del routes[0]["ponder"]
    without = {name: keras.ops.convert_to_tensor(part) for name, part in routes[0].items()}
    np.testing.assert_allclose(halting_sum([*twice, without], "ponder"), 2 * logs["ponder_cost"], rtol=1e-5)


@pytest.mark.slow
def test_a_large_ponder_cost_leaves_one_iteration_and_none_all():
    inputs = keras.Input((8, 8, 1))
    x, routes = keras.layers.Conv2D(4, 3, padding="same")(inputs), []
    for halting in ("act", "sact"):
        x, route = rk.ReSet(2, 2, **in_order(2), halting=halting, return_routes=True)(x)
        routes.append(route)
    outputs = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x))
    model = compiled(rk.RoutedModel(inputs, outputs, routes=routes), 0.0, 0.3)
    iterations = []
    for weight in (0.0, 30.0):
        model.ponder_cost.weight.assign(weight)
        model.fit(INPUTS, LABELS, epochs=8, verbose=0)
        iterations.append([float(module["active"].sum(axis=1).mean()) for module in routes_of(model)])
    assert iterations[0] == [2.0, 2.0]
    assert max(iterations[1]) < 1.1


@slow_on_jax
def test_it_is_trained_saved_loaded_and_given_another_scorer(tmp_path):
    reset = randomize(one_module_reset("gumbel_st", halting=rk.ACT(0.05, -1.0)))
    model = compiled(reset, 0.25, **EAGERLY_ON_TENSORFLOW)
    model.fit(INPUTS, LABELS, verbose=0)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    halting = loaded.routed_modules[0].halting
    assert (type(halting), halting.epsilon, halting.bias, halting.num_iterations) == (rk.ACT, 0.05, -1.0, 2)
    assert float(loaded.ponder_cost.weight) == 0.25
    before, after = (routes_of(network) for network in (model, loaded))
    for name in before[0]:
        np.testing.assert_allclose(after[0][name], before[0][name], atol=1e-5)
    loaded.fit(INPUTS, LABELS, verbose=0)
    soft = rk.with_scorer(loaded, "softmax")
    np.testing.assert_array_equal(
        soft.routed_modules[0].halting.kernels[0], loaded.routed_modules[0].halting.kernels[0]
    )
    assert "active" in soft(INPUTS[:2], return_routes=True).routes[0]


def test_routes_are_found_in_a_users_model_and_kept_in_files(tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = rk.ReSet(2, 2, halting="act", return_routes=True)(keras.layers.Conv2D(4, 3)(inputs))[0]
    model = rk.RoutedModel(inputs, keras.layers.Flatten()(x))
    routes = rk.analysis.collect_routes(model, INPUTS)
    routes.save(tmp_path / "routes.npz")
    again = rk.analysis.Routes.load(tmp_path / "routes.npz")
    assert set(again.modules[0]) == {"scores", "active", "ponder"}
    np.testing.assert_allclose(again.modules[0]["ponder"], routes.modules[0]["ponder"], atol=1e-3)


@pytest.mark.parametrize("halting", ["act", "sact"])
def test_compute_fractions_are_those_counted_by_hand(halting):
    model = halting_network(halting)
    routes = routes_of(model)
    active = routes[0]["active"]
    unit, convolution, head = 2 * 9 * 4 * 4 * 64, 9 * 4 * 64, 16
    scores = 2 * (4 + (9 * 4 * 64 if halting == "sact" else 0))
    expected = (convolution + head + scores + active.sum(axis=1) * unit) / (convolution + head + 3 * unit)
    np.testing.assert_allclose(rk.inference.compute_fractions(model, routes), expected, rtol=1e-6)
    counted = rk.models.operations.count_operations(model.network, model.routed_modules)
    np.testing.assert_allclose(counted.expected_fractions(routes), expected, rtol=1e-5)
    assert np.std(expected) > 0


def test_halting_scores_are_trained_with_the_controllers():
    model = user_model(halting="act")
    rk.training.train_all_but_controllers(model)
    assert not [weight.path for weight in model.trainable_variables if "halting" in weight.path]
    rk.training.train_only_controllers(model)
    groups = {weight.path.split("/")[1] for weight in model.trainable_variables}
    assert groups == {"controller", "halting"}


def test_a_module_whose_routes_are_not_known_cannot_pay():
    inputs = keras.Input((8, 8, 4))
    x = rk.ReSet(2, 2, halting="act", name="unknown")(inputs)
    x, routes = rk.ReSet(2, 2, halting="act", name="known", return_routes=True)(x)
    model = rk.RoutedModel(inputs, keras.layers.Flatten()(x), routes=[routes])
    with pytest.raises(ValueError, match=r"\['unknown'\] have halting, and pay"):
        model.compile("sgd", LOSS, ponder_cost=rk.PonderCost(0.1))
