import collections

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import images_and_labels, randomize, small_reset
from reset_keras.analysis import route_controls
from reset_keras.analysis.route_controls import AlongRoutes, one_route
from reset_keras.models.backbone import under_policy

IMAGES, LABELS = images_and_labels(24)


def network(scorer, controller="rnn"):
    model = randomize(small_reset(scorer, controller=controller))
    if controller == "gate":
        for index, module in enumerate(model.routed_modules):
            for k, gate in enumerate(module.controller.dense):
                gate.set_weights([keras.random.normal(gate.kernel.shape, stddev=20.0), np.zeros(3)])
                logits = model(IMAGES, training=False, return_routes=True).routes[index]["logits"]
                gate.bias.assign(-np.array(logits)[:, k].mean(axis=0))  # now images differ in what they choose
    return model


def along(model, routes):
    """The outputs of the model's weights with controllers that know only these units, one route a module."""
    controllers = [rk.FixedController(3, [int(unit) for unit in route]) for route in routes]
    fixed = rk.ReSetNet((2, 2), None, 4, (8, 8, 1), controllers, rk.HardScorer(sampled=False), width=4)
    for old, new in zip(model.layers, fixed.layers, strict=True):
        if hasattr(old, "pool"):
            new.pool.set_weights(old.pool.get_weights())
        else:
            new.set_weights(old.get_weights())
    return np.array(fixed(IMAGES, training=False))


def test_layers_that_were_called_before_are_found_where_the_model_calls_them():
    module, dense = rk.ReSet(2, 2, scorer="softmax", return_routes=True), keras.layers.Dense(4)
    pooling = keras.layers.GlobalAveragePooling2D()
    for scale in (1.0, 2.0):
        inputs = keras.Input((8, 8, 1))
        x, routes = module(keras.layers.Rescaling(scale)(inputs))
        model = rk.RoutedModel(inputs, dense(pooling(x)), routes=[routes])
    outputs, routes = randomize(model).predict_with_routes(IMAGES, verbose=0)
    given = AlongRoutes(model)([IMAGES, *(route["scores"] for route in routes)])
    np.testing.assert_allclose(given, outputs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("scorer", ["softmax", "hard", "top_k"])
def test_along_its_own_routes_a_network_says_what_it_says(scorer):
    model = network(scorer, controller="policy" if scorer == "softmax" else "rnn")
    outputs, routes = model.predict_with_routes(IMAGES, verbose=0)
    given = AlongRoutes(model)([IMAGES, *(route["scores"] for route in routes)])
    np.testing.assert_allclose(given, outputs, rtol=1e-4, atol=1e-4)
    found = route_controls(model, IMAGES, LABELS[:, None])
    np.testing.assert_array_equal(found.own.right, outputs.argmax(axis=-1) == LABELS)
    assert found.own.compute == pytest.approx(rk.inference.compute_fractions(model, routes).mean())
    assert found.shuffled.compute == pytest.approx(found.own.compute)


@pytest.mark.slow
def test_hard_controls_are_networks_of_fixed_routes():
    model = network("hard", controller="gate")
    own = model(IMAGES, training=False, return_routes=True).routes
    routes = [np.array(route["scores"]).argmax(axis=-1) for route in own]
    assert all(len(np.unique(route, axis=0)) > 1 for route in routes)
    found = route_controls(model, IMAGES, LABELS, seed=3)

    frequent = []
    for route in routes:
        counts = collections.Counter(map(tuple, route))
        frequent.append(max(sorted(counts, reverse=True), key=counts.__getitem__))  # of equals, that of later units
    right = along(model, frequent).argmax(axis=-1) == LABELS
    np.testing.assert_array_equal(found.one_for_all.right, right)

    order = np.random.default_rng(3).permutation(len(IMAGES))
    for image in range(4):
        outputs = along(model, [route[order[image]] for route in routes])[image]
        assert found.shuffled.right[image] == (outputs.argmax() == LABELS[image])


def test_soft_routes_are_represented_by_their_mean():
    scores = np.array([[[0.5, 0.5]], [[1.0, 0.0]]])
    np.testing.assert_array_equal(one_route(scores), [[0.75, 0.25]])
    hard = np.array([[[0.0, 1.0]], [[1.0, 0.0]], [[1.0, 0.0]]])
    np.testing.assert_array_equal(one_route(hard), [[1.0, 0.0]])


def test_the_global_dtype_policy_rounds_nothing_in_a_network_that_has_another():
    model = network("softmax")
    outputs, routes = model(IMAGES, training=False, return_routes=True)
    with under_policy("mixed_bfloat16"):
        given = AlongRoutes(model)([IMAGES, *(route["scores"] for route in routes)])
    np.testing.assert_allclose(given, outputs, rtol=1e-4, atol=1e-4)


def test_each_image_has_a_label():
    model = network("softmax")
    for images, labels in ((IMAGES[:3], LABELS[:1]), (IMAGES[:0], LABELS[:0])):
        with pytest.raises(ValueError, match=rf"one for each image\. Received: {len(images)} images, {len(labels)}"):
            route_controls(model, images, labels)


def test_routes_cannot_be_given_to_a_network_without_them():
    inputs = keras.Input((8, 8, 1))
    x, routes = rk.ReSet(2, 2, scorer="hard", return_routes=True)(inputs)
    outputs = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([x, inputs]))
    with pytest.raises(ValueError, match=r"must follow one another.* Received: 'own', in which a path leads around"):
        route_controls(rk.RoutedModel(inputs, outputs, "own", routes=[routes]), IMAGES, LABELS)
    halting = rk.ReSetNet((2,), None, 4, (8, 8, 1), "rnn", "hard", width=4, allowed="sequential", halting="act")
    with pytest.raises(ValueError, match=r"Received: \['stage0_reset'\] with halting"):
        route_controls(halting, IMAGES, LABELS)


@pytest.mark.parametrize("outputs", [1, (4, 4)])
def test_a_network_of_other_outputs_than_classes_is_refused(outputs):
    inputs = keras.Input((8,))
    x, routes = rk.ReSet([keras.layers.Dense(8)], 1, return_routes=True)(inputs)
    heads = [keras.layers.Dense(count)(x) for count in ((outputs,) if isinstance(outputs, int) else outputs)]
    model = rk.RoutedModel(inputs, heads[0] if len(heads) == 1 else heads, routes=[routes])
    with pytest.raises(ValueError, match=r"one output with a number for each of two classes or more. Received: .*None"):
        route_controls(model, np.zeros((3, 8)), np.zeros(3, int))
