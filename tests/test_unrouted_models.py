"""What looks at routes, or changes them, says so of a model that has none."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from reset_keras import callbacks

X = np.zeros((4, 8, 8, 1), "float32")
CALLBACKS = {
    "DropCurriculum": lambda: callbacks.DropCurriculum(2),
    "EntropySchedule": lambda: callbacks.EntropySchedule(0.1, 0.1, 2),
    "HoldCompute": lambda: callbacks.HoldCompute(X, 0.7),
    "PolicyConvergence": lambda: callbacks.PolicyConvergence(X),
    "RouteHistory": lambda: callbacks.RouteHistory(X),
    "RouteMonitor": lambda: callbacks.RouteMonitor("nowhere", X),
    "RoutingWarnings": lambda: callbacks.RoutingWarnings(X),
    "StopAtCompute": lambda: callbacks.StopAtCompute(X, 0.7),
    "TemperatureSchedule": lambda: callbacks.TemperatureSchedule(1.0, 0.5, 2),
    "TwoPhase": callbacks.TwoPhase,
}
NEED_ROUTES = {
    **{name: lambda model, make=make: make().set_model(model) for name, make in CALLBACKS.items()},
    "prune_routes": lambda model: rk.training.prune_routes(model, X, 0.7),
    "with_scorer": lambda model: rk.with_scorer(model, "hard"),
    "with_fixed_routes": rk.training.with_fixed_routes,
    "imitate_routes": lambda model: rk.training.imitate_routes(model, X, [np.zeros((4, 2), int)]),
    "imitate_sequence": lambda model: rk.training.imitate_sequence(model, X),
    "hold_compute": lambda model: rk.training.hold_compute(model, X, 0.7),
    "train_only_controllers": rk.training.train_only_controllers,
    "train_all_but_controllers": rk.training.train_all_but_controllers,
    "train_last_modules": lambda model: rk.training.train_last_modules(model, 1),
    "compute_fractions": lambda model: rk.inference.compute_fractions(model, []),
    "routed_macs": lambda model: rk.inference.routed_macs(model, []),
    "collect_routes": lambda model: rk.analysis.collect_routes(model, X),
    "random_controllers": lambda model: rk.analysis.random_controllers(model).__enter__(),
    "calibrate": lambda model: rk.inference.calibrate(model, X, np.zeros(4, int)),
    "route_controls": lambda model: rk.analysis.route_controls(model, X, np.zeros(4, int)),
}


@pytest.mark.parametrize("name", NEED_ROUTES)
def test_a_model_without_routes_is_refused(name):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)], name="plain")
    weights = model.get_weights()
    with pytest.raises(ValueError, match=r"RoutedModel.*Received: a Sequential"):
        NEED_ROUTES[name](model)
    assert all(layer.trainable for layer in model.layers)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
