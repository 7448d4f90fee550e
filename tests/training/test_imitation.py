import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import images_and_labels, one_module_reset, randomize, small_reset
from reset_keras.callbacks import HoldCompute
from reset_keras.inference import compute_fractions
from reset_keras.layers.frozen_parts import frozen_parts
from reset_keras.models.backbone import under_policy
from reset_keras.training import hold_compute, imitate_routes, imitate_sequence, prune_routes, with_fixed_routes
from reset_keras.training.routes import imitation

IMAGES, _ = images_and_labels(200)


def choices(model, images):
    """Of each module, what controllers choose by their largest logit."""
    return [np.argmax(route["logits"], axis=-1) for route in model(images, training=False, return_routes=True).routes]


def test_a_hard_routed_reset_becomes_the_resnet():
    resnet = randomize(rk.ResNet((3,), 4, (8, 8, 1), width=4))
    reset = rk.resnet_to_reset(resnet, scorer="gumbel_st")
    before = {weight.path: np.array(weight) for weight in reset.weights}
    imitate_sequence(reset, IMAGES[:128])
    outputs, routes = reset(IMAGES, training=False, return_routes=True)
    np.testing.assert_allclose(outputs, resnet(IMAGES, training=False), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(np.argmax(routes[0]["logits"], axis=-1), np.tile([0, 1], (200, 1)))
    controllers = 2 * (4 * 64 * (4 + 64) + 64 * 3)
    static = rk.inference.macs(resnet)
    np.testing.assert_allclose(compute_fractions(reset, routes), (static + controllers) / static)
    changed = {path for weight in reset.weights if not np.array_equal(weight, before[path := weight.path])}
    assert all("/controller/" in path for path in changed)


def test_with_smoothed_labels_other_units_keep_a_chance():
    model = one_module_reset("gumbel_st")
    imitate_routes(model, IMAGES, [np.tile([1, 0], (200, 1))], label_smoothing=0.3)
    (route,) = model.predict_routes(IMAGES, verbose=0)
    policy = np.array(keras.ops.softmax(route["logits"]))
    np.testing.assert_allclose(policy.mean(axis=0), [[0.1, 0.8, 0.1], [0.8, 0.1, 0.1]], atol=0.03)


@pytest.mark.slow
def test_images_that_look_different_keep_routes_of_their_own():
    model, bright = randomize(small_reset()), np.arange(200) % 2 == 0
    images = IMAGES + np.where(bright, 2.0, -2.0).astype("float32")[:, None, None, None]
    routes = [
        np.where(bright[:, None], [0, 1], [2, 0]),
        np.where(bright[:, None], [2, 2], [1, 0]),
    ]
    imitate_routes(model, images, routes)
    for taken, expected in zip(choices(model, images), routes, strict=True):
        np.testing.assert_array_equal(taken, expected)


def test_the_controller_is_taught_by_what_it_sees_along_the_route():
    inputs = keras.Input((8, 8, 2))
    x, routed = rk.ReSet(2, 3, return_routes=True)(inputs)
    (module,) = randomize(rk.RoutedModel(inputs, x, routes=[routed])).routed_modules
    features = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype("float32")
    choices = np.array([[0, 2, 1], [1, 0, 2]])
    seen = imitation._features(module, features, choices)
    expected = []
    for image, route in zip(features, choices, strict=True):
        x = image[None]
        for k, choice in enumerate(route):
            expected.append(np.mean(x, axis=(0, 1, 2)))
            if choice < 2:  # the zero unit adds nothing; ReLU follows all the same
                x = x + np.array(module.update(x, np.eye(3, dtype="float32")[[choice]], k, training=False))
            x = np.maximum(x, 0.0)
    np.testing.assert_allclose(seen.reshape(6, 2), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(seen[:, 2] - seen[:, 1]).max() > 1e-3


@pytest.mark.slow
def test_controllers_that_are_not_trained_with_the_units_can_be_taught():
    model = with_fixed_routes(one_module_reset("gumbel_st"))
    imitate_routes(model, IMAGES, [[[1, 0]] * 200])
    np.testing.assert_array_equal(choices(model, IMAGES)[0], np.tile([1, 0], (200, 1)))
    assert not any("/controller/" in weight.path for weight in model.trainable_variables)


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [("cell",), ("cell", "dense")])
def test_parts_of_a_controller_are_as_trainable_as_before(frozen):
    model = one_module_reset("gumbel_st")
    controller = model.routed_modules[0].controller
    for name in frozen:
        getattr(controller, name).trainable = False
    flags, cell = frozen_parts(controller), controller.cell.get_weights()
    imitate_routes(model, IMAGES, [np.tile([1, 0], (200, 1))])
    assert frozen_parts(controller) == flags
    kept = all(np.array_equal(new, old) for new, old in zip(controller.cell.get_weights(), cell, strict=True))
    assert kept == (frozen == ("cell",))  # where nothing would be trained, all is
    if not kept:
        np.testing.assert_array_equal(choices(model, IMAGES)[0], np.tile([1, 0], (200, 1)))


def test_features_are_averaged_in_float32_whatever_the_networks_type():
    with under_policy("mixed_bfloat16"):
        model = one_module_reset("gumbel_st")
    (module,) = model.routed_modules
    x = keras.ops.cast(np.tile(IMAGES[:8], 4), "bfloat16")
    features = imitation._features(module, x, np.zeros((8, 2), int))
    expected = keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")).mean(axis=(1, 2))
    np.testing.assert_allclose(features[:, 0], expected, atol=1e-6)


def test_a_controller_is_taught_by_the_features_that_it_sees_later(monkeypatch):
    seen, call = [], keras.layers.LSTMCell.call
    monkeypatch.setattr(keras.layers.LSTMCell, "call", lambda self, x, state: seen.append(x) or call(self, x, state))
    with under_policy("mixed_bfloat16"):
        student = imitation.ControllerAlone(rk.RNNController(3))
        student(np.full((2, 1, 4), 1.001, "float32"))
    np.testing.assert_array_equal(seen[-1], np.full((2, 4), 1.001, "float32"))


def test_routes_that_a_module_does_not_allow():
    model = rk.ReSetNet((2,), num_classes=4, input_shape=(8, 8, 1), width=4, scorer="gumbel_st", allowed="sequential")
    routes = np.tile([0, 1], (200, 1))
    routes[7] = [2, 0]
    with pytest.raises(ValueError, match=r"in iteration 1 of image 7 the choice 0, which allowed='sequential' forbids"):
        imitate_routes(model, IMAGES, [routes])


@pytest.mark.parametrize(
    "teach",
    [
        imitate_sequence,
        lambda model, images: imitate_routes(model, images, [np.zeros((0, 2), int)] * 2),
        lambda model, images: prune_routes(model, images, 1.3),
        lambda model, images: hold_compute(model, images, 1.3),
        lambda model, images: HoldCompute(images, 1.3),
    ],
)
def test_there_must_be_an_image(teach):
    with pytest.raises(ValueError, match=r"`images` must hold at least one image\. Received: none"):
        teach(small_reset("gumbel_st"), IMAGES[:0])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: small_reset(controller="cnn"),
            r"a CNNController\. Make the model by `rk.resnet_to_reset\(resnet, 'rnn'",
        ),
        (lambda: rk.ReSetNet((1, 1), (2, 2), 4, (8, 8, 1), width=4), "with 1 units and 2 iterations"),
    ],
)
def test_what_cannot_be_taught(model, message):
    with pytest.raises(ValueError, match=message):
        imitate_sequence(model(), IMAGES)


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        ([np.zeros((200, 2), int)], "each of 2 modules. Received: 1"),
        ([np.zeros((200, 2), int), np.zeros((100, 2), int)], r"'stage1_reset' must be .*\(200, 2\).* \(100, 2\)"),
        ([np.full((200, 2), 3), np.zeros((200, 2), int)], "'stage0_reset' must be .* to 2. Received: .* from 3 to 3"),
        (
            [np.zeros((200, 2)), np.zeros((200, 2), int)],
            r"an array of integers .* Received: float64 of shape \(200, 2\)",
        ),
        ([np.zeros((0, 2), int)] * 2, r"\(200, 2\).* Received: int64 of shape \(0, 2\)"),
    ],
)
def test_routes_of_other_images_or_models(routes, message):
    with pytest.raises(ValueError, match=message):
        imitate_routes(small_reset(), IMAGES, routes)
