import numpy as np
import pytest

import reset_keras as rk
from networks import images_and_labels, randomize, slow_on_jax
from reset_keras.models.one_route import most_frequent_route

IMAGES, _ = images_and_labels(8)


@pytest.fixture(scope="module")
def resnet():
    return randomize(rk.ResNet((3, 3), 4, (8, 8, 1), width=4))


def gated(resnet, skips_second, controller="gate"):
    """The ResNet's blocks in their order; a gate lets the second of each stage through, or does not."""
    model = rk.resnet_to_reset(resnet, controller, "gumbel_st")
    for module in model.routed_modules:
        for k, gate in enumerate(module.controller.dense):
            unit = 2 if skips_second and k else k
            gate.set_weights([np.zeros(gate.kernel.shape), np.eye(3)[unit]])
    return model


@slow_on_jax
@pytest.mark.parametrize("blocks", [(3, 3), pytest.param((2, 2), marks=pytest.mark.slow)])
def test_along_the_order_of_its_blocks_it_is_the_resnet(resnet, blocks):
    model = gated(resnet, skips_second=blocks == (2, 2))
    expected = rk.models.first_blocks(resnet, blocks)(IMAGES, training=False)
    static = rk.models.with_one_route(model, IMAGES)
    np.testing.assert_allclose(static(IMAGES, training=False), expected, atol=1e-4)
    frozen = rk.inference.freeze(static)
    assert frozen.forms(1) == frozen.forms(128) == ["static", "static"]
    np.testing.assert_allclose(np.asarray(frozen(IMAGES)), expected, atol=1e-4)
    assert np.asarray(frozen(IMAGES[:0])).shape == (0, 4)
    assert frozen._one.xla == rk.inference.freeze(resnet)._one.xla  # one image takes a ResNet's time


def test_a_policy_network_is_left_out(resnet):
    model = rk.resnet_to_reset(resnet, "policy", "hard")
    static = rk.models.with_one_route(model, IMAGES)
    assert not any(layer.name == "policy_network" for layer in static.layers)
    routes, all_given = (network(IMAGES, training=False, return_routes=True).routes for network in (static, model))
    for found, given in zip(routes, all_given, strict=True):
        np.testing.assert_array_equal(found["scores"][0], most_frequent_route(np.array(given["scores"])))


def test_the_most_frequent_route_is_a_whole_one():
    """Not the most frequent unit of each iteration, which may be no image's route."""
    units = np.array([[0, 0], [0, 0], [1, 1], [1, 1], [1, 1], [0, 2], [0, 2]])
    np.testing.assert_array_equal(most_frequent_route(np.eye(3)[units]), np.eye(3)[[1, 1]])


def test_what_is_not_trainable_stays_so(resnet):
    model = gated(resnet, skips_second=False)
    for layer in (model.get_layer("stem_conv"), model.get_layer("stage1_block0").conv1, model.routed_modules[0].pool):
        layer.trainable = False
    static = rk.models.with_one_route(model, IMAGES)
    expected = {weight.path for weight in model.trainable_weights if "/controller/" not in weight.path}
    assert {weight.path for weight in static.trainable_weights} == expected


def test_what_has_no_route_for_all(resnet):
    with pytest.raises(ValueError, match=r"without `halting`\. Received: a ResNet"):
        rk.models.with_one_route(resnet, IMAGES)
    with pytest.raises(ValueError, match=r"choose one unit, .* Received: \['SoftmaxScorer'\]"):
        rk.models.with_one_route(rk.resnet_to_reset(resnet), IMAGES)
    halting = rk.resnet_to_reset(resnet, rk.FixedController(3, [0, 1]), "hard", allowed="sequential", halting="act")
    with pytest.raises(ValueError, match=r"without `halting`\. Received: a ReSetNet with halting"):
        rk.models.with_one_route(halting, IMAGES)
    with pytest.raises(ValueError, match=r"must hold an image.* Received: 0 images"):
        rk.models.with_one_route(gated(resnet, skips_second=False), IMAGES[:0])
