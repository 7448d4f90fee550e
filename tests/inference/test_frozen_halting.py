"""Frozen modules whose images halt: what the module itself returns, and no unit computes images that have halted."""

import functools

import keras
import numpy as np
import pytest

import numpy_reference as reference
import reset_keras as rk
from frozen import expected_of
from networks import ON_TENSORFLOW
from reset_keras.inference import freeze
from reset_keras.layers.halting_controller import NEVER
from reset_keras.models.backbone import under_policy

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(not ON_TENSORFLOW, reason="elsewhere a frozen module runs as any other")
X = np.random.default_rng(0).normal(size=(64, 6, 6, 4)).astype("float32")
COMPUTED = []
"""How many images a unit got, for each of its calls."""


@keras.saving.register_keras_serializable("tests")
class Counting(keras.layers.Conv2D):
    def call(self, x):
        tf.py_function(lambda count: COMPUTED.append(int(count)), [tf.shape(x)[0]], [])
        return super().call(x)


def halting(units, activation="relu", allowed="any", **settings):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 4))
    controller = rk.HaltingController(4, 4)
    options = {"activation": activation, "allowed": allowed, "return_routes": True}
    x, routes = rk.ReSet(units, 3, controller, rk.HardScorer(sampled=False), **options)(inputs)
    model = rk.RoutedModel(inputs, keras.layers.GlobalAveragePooling2D()(x), routes=[routes])
    controller.head_kernel.assign(np.random.default_rng(1).normal(size=(4, 4)) * 3.0)
    set_to([controller], **settings)
    return model


def set_to(controllers, depth=3, threshold=NEVER):
    for controller in controllers:
        controller.depth.assign(depth)
        controller.threshold.assign(threshold)


def frozen_in_turn(model, settings):
    """The model frozen as the first setting has it, and then both at each: programs are made once for all of them."""
    controllers = [model.routed_modules[0].controller]
    set_to(controllers, **settings[0])
    frozen = freeze(model)
    controllers.append(frozen.modules[0].controller)
    for setting in settings:
        set_to(controllers, **setting)
        outputs, (routes,) = model(X, training=False, return_routes=True)
        yield frozen, np.array(outputs), {name: np.array(array) for name, array in routes.items()}


def some_depths(routes):
    return np.unique(routes["scores"][..., :3].sum(axis=(1, 2))).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "settings", "depths"),
    [
        (
            {},
            [{"threshold": 0.6}, {"threshold": 0.6, "depth": 2}, {"threshold": 0.0}, {"threshold": 1.0}],
            [[0, 1, 2, 3], [0, 1, 2], [0], [3]],
        ),
        ({"allowed": "sequential", "activation": None}, [{"threshold": 0.95}], [[1, 2, 3]]),
        ({}, [{"depth": 2}, {"depth": 0}], [[2], [0]]),  # never looks
    ],
)
def test_outputs_and_routes_are_those_of_the_module(options, settings, depths):
    turns = frozen_in_turn(halting(3, **options), settings)
    compiled = None
    for (frozen, outputs, routes), expected_depths in zip(turns, depths, strict=True):
        assert some_depths(routes) == expected_depths
        compiled = compiled or tf.function(functools.partial(frozen.graph, training=False))
        for size in (64, 5):
            found = compiled(X[:size])
            np.testing.assert_allclose(found["outputs"], outputs[:size], atol=1e-5)
            for name, array in routes.items():
                np.testing.assert_allclose(found["routes"]["module_0"][name], array[:size], atol=1e-5)
        for place in range(8):
            one = X[place : place + 1]
            np.testing.assert_allclose(frozen(one), outputs[place : place + 1], atol=1e-5)
            found = frozen.graph(tf.ensure_shape(one, (1, 6, 6, 4)), training=False)["routes"]["module_0"]
            np.testing.assert_array_equal(found["scores"], routes["scores"][place : place + 1])


@pytest.mark.parametrize("settings", [[{"threshold": 0.6}, {"threshold": 0.0}, {"threshold": 1.0}], [{"depth": 2}]])
def test_a_unit_computes_the_images_that_reach_it_and_no_others(settings):
    model = halting([Counting(4, 3, padding="same") for _ in range(3)])
    for frozen, _, routes in frozen_in_turn(model, settings):
        reach = routes["scores"][..., :3].sum(axis=(0, 1))
        frozen(X)
        COMPUTED.clear()
        frozen(X)
        np.testing.assert_array_equal(COMPUTED, reach[reach > 0])


def sure_before_each_unit(model, images):
    """The head's largest probability by hand, `(units, images)`."""
    (module,), features = model.routed_modules, []
    for depth in range(3):
        set_to([module.controller], depth=depth)
        features.append(np.array(model.layers[1](images)[0]).astype("float32").mean(axis=(1, 2)))
    return reference.softmax(np.array(features) @ np.array(module.controller.head_kernel)).max(axis=-1)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"threshold": 0.6}, {"depth": 2}], ids=str)
def test_it_decides_in_float32_where_units_compute_in_bfloat16(options):
    with under_policy("mixed_bfloat16"):
        model = halting(3, **options)
    images = np.random.default_rng(2).normal(size=(512, 6, 6, 4)).astype("float32")  # of which some are near the limit
    expected, (routes,) = model(images, training=False, return_routes=True)
    frozen = freeze(model)
    for size in (64, 1):
        np.testing.assert_allclose(frozen(images[:size]), expected[:size], atol=0.05)
    found = frozen.graph(images, training=False)["routes"]["module_0"]
    threshold, sure = options.get("threshold", NEVER), sure_before_each_unit(model, images)
    depths = np.minimum(np.argmax([*(sure >= threshold), np.full(512, True)], axis=0), options.get("depth", 3))
    for scores, rounding in ((routes["scores"], 1e-5), (found["scores"], 2e-3)):  # a frozen unit may round otherwise
        is_clear = (np.abs(sure - threshold) > rounding).all(axis=0)
        assert is_clear.mean() > 0.9
        np.testing.assert_array_equal(np.sum(scores, axis=(1, 2))[is_clear], 3)
        np.testing.assert_array_equal(np.sum(scores[..., :3], axis=(1, 2))[is_clear], depths[is_clear])


def test_budgets_that_never_look_need_no_head():
    model = halting(3)
    controller = model.routed_modules[0].controller
    assert controller.is_never_sure
    table = np.zeros((64, 3), "float32")
    table[:2] = [[0.5, 1, NEVER], [1.0, 3, NEVER]]
    controller.budgets.assign(table)
    assert controller.is_never_sure
    frozen = freeze(model)
    for compute, depth in ((0.5, 1), (1.0, 3)):
        frozen.compute = compute
        controller.depth.assign(depth)
        np.testing.assert_allclose(frozen(X), expected_of(model, X), atol=1e-5)
    table[0, 2] = 0.9
    controller.budgets.assign(table)
    assert not controller.is_never_sure
