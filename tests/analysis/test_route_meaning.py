import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import images_and_labels, small_reset
from reset_keras.analysis import Routes, collect_routes, mutual_information, random_controllers, route_meaning

RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 4, 400)


def routes(scores, labels=LABELS):
    return Routes([{"scores": scores}], (False,), labels)


NOISE = routes(np.eye(4)[RNG.integers(0, 4, (400, 3))])
TELLING = routes(np.stack([np.eye(4)[LABELS], np.eye(4)[LABELS // 2 * 2], np.eye(4)[np.zeros(400, int)]], axis=1))


def test_mutual_information_by_hand():
    scores = RNG.dirichlet(np.ones(3), size=(400, 2))
    (found,) = mutual_information(routes(scores))
    for k in range(2):
        expected = 0.0
        for label in range(4):
            for unit in range(3):
                joint = scores[label == LABELS, k, unit].sum() / 400
                expected += joint * np.log2(joint / (scores[:, k, unit].mean() * np.mean(label == LABELS)))
        assert found[k] == pytest.approx(expected, rel=1e-9)


def test_mutual_information_of_routes_that_are_the_class():
    entropy = -sum(np.mean(label == LABELS) * np.log2(np.mean(label == LABELS)) for label in range(4))
    half = np.mean(LABELS < 2)
    (found,) = mutual_information(TELLING)
    np.testing.assert_allclose(found, [entropy, -half * np.log2(half) - (1 - half) * np.log2(1 - half), 0.0], atol=1e-9)


def test_routes_that_tell_the_class_are_told_from_their_controls():
    meaning = route_meaning(TELLING, NOISE)
    assert meaning.neighbour_accuracy.value == 1.0
    assert meaning.neighbour_accuracy.shuffled < 0.4
    assert meaning.neighbour_accuracy.random_controller < 0.4
    assert meaning.mutual_information.shuffled < 0.05
    assert meaning.mutual_information.value > 0.9
    assert meaning.majority == np.bincount(LABELS).max() / 400


def test_each_control_is_measured_as_the_routes_are():
    meaning, of_noise = route_meaning(TELLING, NOISE, shuffles=1), route_meaning(NOISE, shuffles=1)
    assert meaning.neighbour_accuracy.random_controller == of_noise.neighbour_accuracy.value
    assert meaning.mutual_information.random_controller == of_noise.mutual_information.value
    assert meaning.neighbour_accuracy.shuffled < 0.4


def test_routes_that_tell_nothing_are_like_their_controls():
    meaning = route_meaning(NOISE)
    assert meaning.mutual_information.value == pytest.approx(meaning.mutual_information.shuffled, abs=0.02)
    assert meaning.mutual_information.value > 0.0
    assert meaning.neighbour_accuracy.value == pytest.approx(meaning.neighbour_accuracy.shuffled, abs=0.1)
    assert meaning.mutual_information.random_controller is None


def test_neighbours_vote_by_hand():
    scores = RNG.dirichlet(np.ones(4), size=(60, 3))
    labels = np.repeat([0, 1], 30)
    distances = np.abs(scores[:, None] - scores[None]).sum(axis=(2, 3))
    np.fill_diagonal(distances, np.inf)
    votes = labels[np.argsort(distances, axis=1)[:, :5]].mean(axis=1) > 0.5
    meaning = route_meaning(routes(scores, labels))
    assert meaning.neighbour_accuracy.value == pytest.approx(np.mean(votes == labels))


def test_images_in_the_order_of_their_classes_give_no_advantage_to_equal_routes():
    labels = np.sort(LABELS)
    meaning = route_meaning(routes(np.ones((400, 1, 1)), labels))
    assert meaning.neighbour_accuracy.value < 0.45


def test_a_bounded_number_of_images_is_looked_at():
    assert route_meaning(TELLING, most_images=50).images == 50


def test_routes_that_cannot_be_measured():
    with pytest.raises(ValueError, match="labels=None"):
        route_meaning(routes(np.ones((9, 1, 1)), None))
    with pytest.raises(ValueError, match="more images than the 5 neighbours"):
        route_meaning(routes(np.ones((5, 1, 1)), np.zeros(5, int)))


def policy_reset():
    return small_reset("hard", controller="policy", allowed="sequential")


def policy_of_layers():
    """A model whose policy sees the images through single layers."""
    inputs = keras.Input((8, 8, 1))
    context = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(6, 3)(inputs))
    features = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    x, routed = rk.ReSet(2, 2, rk.PolicyController(3, 2), "hard", allowed="sequential", return_routes=True)(
        features, context
    )
    return rk.RoutedModel(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)), routes=[routed])


class Means(rk.Controller):
    """A controller whose layer is built by being called."""

    def __init__(self, num_scores, **kwargs):
        super().__init__(num_scores, **kwargs)
        self.dense = keras.layers.Dense(num_scores)

    def call(self, inputs, state, iteration=0):
        return self.dense(keras.ops.mean(inputs, axis=(1, 2))), state


def test_a_controller_without_a_build_of_its_own_is_drawn_anew():
    inputs = keras.Input((8, 8, 2))
    x, routed = rk.ReSet(2, 1, controller=Means(3), return_routes=True)(inputs)
    model = rk.RoutedModel(inputs, x, routes=[routed])
    trained = np.array(model.routed_modules[0].controller.dense.kernel)
    with random_controllers(model, seed=1):
        assert np.abs(np.array(model.routed_modules[0].controller.dense.kernel) - trained).max() > 1e-3
    np.testing.assert_array_equal(model.routed_modules[0].controller.dense.kernel, trained)


@pytest.mark.parametrize("controller", ["rnn", "cnn"])
def test_random_controllers_route_otherwise_and_are_taken_back(controller):
    images = images_and_labels(8)[0]
    model = rk.ReSetNet((1, 1), None, 4, (8, 8, 1), controller=controller, width=4)
    for module in model.routed_modules:
        module.controller.dense.kernel.assign(np.full(module.controller.dense.kernel.shape, 3.0))
    before = [np.array(weight) for weight in model.weights]
    routes_before = collect_routes(model, images).vectors()
    found = []
    for seed in (0, 0, 1):
        with random_controllers(model, seed):
            found.append(collect_routes(model, images).vectors())
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-3
    assert np.abs(found[0] - routes_before).max() > 1e-3
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_halting_scores_are_drawn_anew_too():
    inputs = keras.Input((8, 8, 2))
    x, routed = rk.ReSet(2, 3, rk.FixedController(3, [0, 1, 0]), halting="act", return_routes=True)(inputs)
    model = rk.RoutedModel(inputs, x, routes=[routed])
    kernels = model.routed_modules[0].halting.kernels
    for kernel in kernels:
        kernel.assign(np.full(kernel.shape, 3.0))
    with random_controllers(model, seed=1):
        assert all(np.abs(np.array(kernel) - 3.0).min() > 1e-3 for kernel in kernels)
    assert all((np.array(kernel) == 3.0).all() for kernel in kernels)


@pytest.mark.parametrize("model_of", [policy_reset, policy_of_layers])
def test_what_a_policy_sees_is_drawn_anew_too(model_of):
    model = model_of()
    contexts = [tensor for module in model.routed_modules for tensor in keras.tree.flatten(module.input)[1:]]
    sees, images = keras.Model(model.network.input, contexts[0]), images_and_labels(8)[0]
    for weight in sees.trainable_weights:
        weight.assign(np.full(weight.shape, 0.1))
    before = np.array(sees(images))
    found = []
    for seed in (0, 0, 1):
        with random_controllers(model, seed):
            found.append(np.array(sees(images)))
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-3
    assert np.abs(found[0] - before).max() > 1e-3
    np.testing.assert_array_equal(sees(images), before)


def test_a_control_of_other_images_is_refused():
    def routes(images):
        return Routes([{"scores": np.ones((images, 1, 2))}], (False,), labels=np.arange(images) % 2)

    with pytest.raises(ValueError, match=r"must be those of the same 20 images. Received: routes of 12"):
        route_meaning(routes(20), routes(12))


def test_a_control_in_another_order_is_refused():
    order = RNG.permutation(400)
    with pytest.raises(ValueError, match=r"in the same order\. Received: \d+ of 400 labels that differ"):
        route_meaning(TELLING, NOISE.of(order))


def test_labels_may_fill_a_small_integer_type():
    labels = np.arange(256).astype("uint8")
    routes = Routes([{"scores": np.eye(256)[:, None]}], (False,), labels)
    assert mutual_information(routes)[0] == pytest.approx([8.0])
