import numpy as np
import pytest
from networks import images_and_labels, randomize, small_reset, small_resnet
from scipy.special import softmax

import reset_keras as rk
from reset_keras.inference import compute_fractions
from reset_keras.training import imitate_sequence

IMAGES, _ = images_and_labels(200)


def test_a_hard_routed_reset_becomes_the_resnet():
    resnet = randomize(small_resnet())
    reset = rk.resnet_to_reset(resnet, scorer="gumbel_st")
    before = {weight.path: np.array(weight) for weight in reset.weights}
    imitate_sequence(reset, IMAGES[:128])
    outputs, routes = reset.predict_with_routes(IMAGES, verbose=0)
    np.testing.assert_allclose(outputs, resnet.predict(IMAGES, verbose=0), rtol=1e-4, atol=1e-4)
    assert all(np.array_equal(route["logits"].argmax(-1), np.tile([0, 1], (200, 1))) for route in routes)
    controllers = sum(
        module.num_iterations * (4 * 64 * (channels + 64) + 64 * 3)
        for module, channels in zip(reset.routed_modules, (4, 8), strict=True)
    )
    static = rk.inference.macs(resnet)
    np.testing.assert_allclose(compute_fractions(reset, routes), (static + controllers) / static)
    changed = {path for weight in reset.weights if not np.array_equal(weight, before[path := weight.path])}
    assert all("/controller/" in path for path in changed)


def test_it_leaves_probability_to_skipping():
    reset = rk.resnet_to_reset(small_resnet(), scorer="gumbel_st")
    imitate_sequence(reset, IMAGES[:128], skip_probability=0.3, epochs=60)
    for route in reset.predict_routes(IMAGES, verbose=0):
        policy = softmax(route["logits"], axis=-1).mean(axis=0)
        np.testing.assert_allclose(policy, [[0.7, 0, 0.3], [0, 0.7, 0.3]], atol=0.05)


@pytest.mark.parametrize(
    ("model", "skip_probability"),
    [
        (lambda: small_reset(controller="cnn"), 0.0),
        (lambda: small_reset(zero_unit=False), 0.1),
        (small_reset, 1.0),
        (lambda: rk.ReSetNet((1, 1), (2, 2), 4, (8, 8, 1), width=4), 0.0),
    ],
)
def test_what_cannot_be_taught(model, skip_probability):
    with pytest.raises(ValueError, match="Received"):
        imitate_sequence(model(), IMAGES, skip_probability)
