"""Feed-forward gates."""

import h5py
import keras
import numpy as np
import pytest

import numpy_reference as reference
import reset_keras as rk
from frozen import ON_TENSORFLOW, assert_equal_at_every_batch_size
from networks import EAGERLY_ON_TENSORFLOW, LOSS, images_and_labels, one_module_reset, randomize, user_model
from reset_keras.models.operations import count_operations

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 6)).astype("float32")


def test_each_iteration_has_a_network_of_its_own():
    controller = rk.GateController(3, 2, hidden_size=5)
    controller(IMAGES, [])
    rng = np.random.default_rng(1)
    controller.set_weights([rng.normal(size=weight.shape) for weight in controller.weights])
    means, logits = IMAGES.mean(axis=(1, 2)), []
    for k in range(2):
        kernel1, bias1, kernel2, bias2 = (
            np.array(weight) for layer in (controller.hidden[k], controller.dense[k]) for weight in layer.weights
        )
        logits.append(np.array(controller(IMAGES, [], iteration=k)[0]))
        expected = reference.relu(means @ kernel1 + bias1) @ kernel2 + bias2
        np.testing.assert_allclose(logits[-1], expected, atol=1e-5)
    assert np.abs(logits[0] - logits[1]).max() > 0.1


def test_units_run_at_first():
    for gates, open_bias in ((rk.GateController(4, 3, open_bias=1.0), 1.0), ("gate", 2.0)):
        module = rk.ReSet(3, 3, gates, allowed="sequential", return_routes=True)
        skipped = np.array(module(IMAGES)[1]["scores"])[..., -1]
        np.testing.assert_allclose(skipped, 1 / (1 + np.exp(open_bias)), atol=0.01)
    assert rk.ReSet(3, 3, "gate", zero_unit=False)(IMAGES).shape == IMAGES.shape


def test_files_know_its_layers_by_the_names_of_their_classes(tmp_path):
    """With other names, weights of older files would not be found."""
    inputs = keras.Input((8, 8, 6))
    keras.Model(inputs, rk.ReSet(2, 2, "gate")(inputs)).save_weights(tmp_path / "gates.weights.h5")
    with h5py.File(tmp_path / "gates.weights.h5") as file:
        parts = {name: set(file["layers/re_set/controller"][name]) for name in ("hidden", "dense")}
    assert parts == {"hidden": {"dense", "dense_1"}, "dense": {"logits_layer", "logits_layer_1"}}


def test_its_operations_are_counted():
    model = one_module_reset("gumbel_st", controller=rk.GateController(1, 1, hidden_size=5))
    counted = count_operations(model.network, model.routed_modules).controllers
    assert counted == 2 * (4 * 5 + 5 * 3)  # iterations, width, hidden size, two units and the zero unit


@pytest.mark.slow
def test_it_is_trained_saved_loaded_and_frozen(tmp_path):
    images, labels = images_and_labels()
    model = user_model(scorer="gumbel_st", controller="gate", allowed="sequential")
    model.compile("sgd", LOSS, skip_reward=rk.SkipReward(0.1), **EAGERLY_ON_TENSORFLOW)
    model.fit(images, labels, verbose=0)
    randomize(model, seed=2)  # with which images go different ways
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    found, expected = (network(images, training=False, return_routes=True) for network in (loaded, model))
    np.testing.assert_allclose(found.outputs, expected.outputs, atol=1e-5)
    skips = np.array(found.routes[0]["scores"])[..., -1]
    assert 0 < skips.mean() < 1
    for execution in ("auto", "dense") if ON_TENSORFLOW else ("auto",):
        assert_equal_at_every_batch_size(rk.inference.freeze(loaded, execution), loaded)


def test_a_module_without_a_zero_unit_needs_no_open_bias():
    with pytest.raises(ValueError, match="open_bias=0"):
        rk.ReSet(2, 3, rk.GateController(2, 3), zero_unit=False)
