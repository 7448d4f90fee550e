"""A network for every budget: its outputs at all depths, what is chosen of them, and the dial."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import expected_of, outputs_of
from networks import images_and_labels, one_module_reset, randomize
from reset_keras.inference import Budgets, calibrate, freeze, outputs_at_every_depth, set_compute
from reset_keras.inference.budgets.calibration import best_budgets
from reset_keras.models.backbone import under_policy
from reset_keras.models.classifier import classifier_of

IMAGES, LABELS = images_and_labels(64)
UNIT = 2 * 9 * 4 * 4 * 64
"""MACs of each unit of the network: the second stage has twice the width, and half the height and width."""
FIRST_BLOCKS = UNIT + 9 * 4 * 8 * 16 + 9 * 8 * 8 * 16
FIXED = 9 * 1 * 4 * 64 + FIRST_BLOCKS + 8 * 4
STATIC = FIXED + 4 * UNIT
LEAST = FIXED + 2 * 4 * 4 + 2 * 8 * 4
"""With the heads of two controllers, for two iterations each."""


@keras.saving.register_keras_serializable("test_budgets")
class MyReSet(rk.ReSet):
    def update(self, *args, **kwargs):
        return super().update(*args, **kwargs)


def test_layers_that_were_called_before_are_found_where_the_model_calls_them():
    controller = rk.HaltingController(3, 4)
    module, dense = rk.ReSet(2, 2, controller, rk.HardScorer(sampled=False), return_routes=True), keras.layers.Dense(4)
    pooling = keras.layers.GlobalAveragePooling2D()
    for scale in (1.0, 2.0):
        inputs = keras.Input((8, 8, 1))
        x, routes = module(keras.layers.Rescaling(scale)(inputs))
        model = rk.RoutedModel(inputs, dense(pooling(x)), routes=[routes])
    assert classifier_of(model) is dense
    other = rk.RoutedModel(inputs, dense(pooling(keras.layers.ReLU()(x))), routes=[routes])
    with pytest.raises(ValueError, match="whose last module is followed by GlobalAveragePooling2D"):
        classifier_of(other)


@pytest.fixture(scope="module")
def resnet():
    """A network whose answers differ between images, and between depths."""
    keras.utils.set_random_seed(0)  # it is made before the seed of the first test is set
    network = randomize(rk.ResNet((3, 3), 4, (8, 8, 1), width=4))
    kernel = np.random.default_rng(0).normal(size=(8, 4))
    pooled = expected_of(keras.Model(network.input, network.layers[-1].input), IMAGES).mean(axis=0)
    network.layers[-1].set_weights([kernel, -pooled @ kernel])
    return network


@pytest.fixture(scope="module")
def network(resnet):
    return rk.resnet_to_reset(resnet, rk.HaltingController(1, 4), rk.HardScorer(sampled=False))


@pytest.fixture(scope="module")
def labels(resnet):
    """What the whole network says, so that deeper is better."""
    return expected_of(resnet, IMAGES).argmax(axis=-1)


@pytest.fixture(scope="module")
def calibrated(network, labels):
    return network, calibrate(network, IMAGES, labels)


@pytest.fixture(scope="module")
def at_every_depth(network):
    return outputs_at_every_depth(network, IMAGES)


def test_outputs_at_every_depth_are_those_of_shorter_resnets(resnet, at_every_depth):
    assert at_every_depth.shape == (64, 3, 3, 4)
    for depths in ((0, 0), (0, 2), (1, 1), (2, 0), (2, 2)):
        shorter = rk.ResNet([depth + 1 for depth in depths], 4, (8, 8, 1), width=4)
        for layer in shorter.layers:
            layer.set_weights(resnet.get_layer(layer.name).get_weights())
        np.testing.assert_allclose(at_every_depth[:, *depths], shorter(IMAGES, training=False), atol=1e-4)


def test_a_reset_nets_controllers_have_the_classes_of_its_classifier(resnet, labels):
    network = rk.resnet_to_reset(resnet, rk.HaltingController(1), rk.HardScorer(sampled=False))
    assert [module.controller.num_classes for module in network.routed_modules] == [4, 4]
    assert len(calibrate(network, IMAGES, labels).compute) > 1


def test_a_network_in_bfloat16_is_calibrated_wherever_it_was_made(network, at_every_depth):
    in_bfloat16 = rk.models.with_dtype_policy(network, "mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"
    found = outputs_at_every_depth(in_bfloat16, IMAGES)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, at_every_depth, atol=0.03 * np.abs(at_every_depth).max())


def predicted_with_routes(model):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(IMAGES, training=False, return_routes=True))


def test_each_setting_costs_and_gets_right_what_the_calibration_says(calibrated, labels):
    network, budgets = calibrated
    assert len(budgets.compute) > 2
    assert (budgets.threshold < 1).any()
    for compute, accuracy in zip(budgets.compute, budgets.accuracy, strict=True):
        assert set_compute(network.routed_modules, compute) == pytest.approx(compute)
        predicted = predicted_with_routes(network)
        assert np.mean(predicted.outputs.argmax(axis=-1) == labels) == pytest.approx(accuracy)
        runs = sum(route["scores"][..., :2].sum(axis=(1, 2)) for route in predicted.routes)
        assert (LEAST + UNIT * runs.mean()) / STATIC == pytest.approx(compute, rel=1e-5)


def units_of_two_costs():
    return [keras.layers.Conv2D(8, size, padding="same") for size in (1, 3)]


@pytest.mark.parametrize(
    ("units", "macs"),
    [(lambda: 2, [2 * 9 * 8 * 8 * 64] * 2), (units_of_two_costs, [8 * 8 * 64, 9 * 8 * 8 * 64])],
    ids=["equal", "different"],
)
def test_so_they_do_where_units_differ_and_no_activation_comes_before_the_module(units, macs):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(8, 3, padding="same")(inputs)
    x, routes = rk.ReSet(units(), 2, rk.HaltingController(3, 4), rk.HardScorer(sampled=False), return_routes=True)(x)
    outputs = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x))
    model = rk.RoutedModel(inputs, outputs, routes=[routes])
    whole = expected_of(model, IMAGES)
    np.testing.assert_allclose(outputs_at_every_depth(model, IMAGES)[:, -1], whole, atol=1e-5)
    labels = whole.argmax(axis=-1)
    budgets = calibrate(model, IMAGES, labels)
    assert (budgets.threshold < 1).any()
    for compute, accuracy in zip(budgets.compute, budgets.accuracy, strict=True):
        set_compute(model, compute)
        predicted = predicted_with_routes(model)
        assert np.mean(predicted.outputs.argmax(axis=-1) == labels) == pytest.approx(accuracy)
        runs = predicted.routes[0]["scores"].sum(axis=1)[:, :2]
        fixed = 9 * 1 * 8 * 64 + 8 * 4
        by_hand = (fixed + 2 * 8 * 4 + runs.mean(axis=0) @ macs) / (fixed + sum(macs))
        assert by_hand == pytest.approx(compute, rel=1e-5)


def test_the_dial_takes_a_model_too(calibrated):
    network, budgets = calibrated
    for compute in (budgets.compute[0], budgets.compute[-1]):
        found = []
        for given in (network, network.routed_modules):
            set_compute(network, budgets.compute[1])
            cost = set_compute(given, compute)
            settings = [(float(m.controller.depth), float(m.controller.threshold)) for m in network.routed_modules]
            found.append((cost, settings))
        assert found[0] == found[1]
    with pytest.raises(ValueError, match="Received: a ResNet with no routed_modules"):
        set_compute(rk.ResNet((1,), 4, (8, 8, 1)), 0.5)
    with pytest.raises(ValueError, match=r"Set `network.compute`.* Received: a FrozenNetwork with no routed_modules"):
        set_compute(freeze(network), 0.5)


@pytest.mark.parametrize("classes", [(rk.ReSet, MyReSet), (MyReSet, MyReSet)])
def test_the_dial_of_a_frozen_network_reaches_modules_of_a_subclass(classes):
    inputs = x = keras.Input((8, 8, 4))
    routes = []
    for cls in classes:
        x, found = cls(2, 2, rk.HaltingController(3, 4), rk.HardScorer(sampled=False), return_routes=True)(x)
        routes.append(found)
    outputs = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x))
    model = randomize(rk.RoutedModel(inputs, outputs, routes=routes))
    images = np.random.default_rng(0).normal(size=(32, 8, 8, 4)).astype("float32")
    budgets = calibrate(model, images, np.arange(32) % 4)
    frozen = freeze(model)
    for compute in (budgets.compute[0], budgets.compute[-1]):
        frozen.compute = compute
        set_compute(model, compute)
        np.testing.assert_allclose(frozen(images), model(images, training=False), atol=1e-4)


def test_more_compute_never_gets_fewer_images_right(calibrated):
    _, budgets = calibrated
    assert (np.diff(budgets.compute) > 0).all()
    assert (np.diff(budgets.accuracy) > 0).all()


def test_static_budgets_run_the_same_for_all_images(network, labels, at_every_depth):
    budgets = calibrate(network, IMAGES, labels, halting=False)
    assert (budgets.threshold > 1).all()
    np.testing.assert_allclose(budgets.compute, (LEAST + UNIT * budgets.depths.sum(axis=1)) / STATIC, rtol=1e-6)
    for depths, accuracy in zip(budgets.depths, budgets.accuracy, strict=True):
        assert np.mean(at_every_depth[:, *depths].argmax(axis=-1) == labels) == pytest.approx(accuracy)


@pytest.mark.slow
def test_a_frozen_network_has_a_dial(calibrated, tmp_path):
    network, budgets = calibrated
    network.save(tmp_path / "model.keras")
    frozen = freeze(keras.models.load_model(tmp_path / "model.keras"), compute=budgets.compute[0])
    assert frozen.compute == pytest.approx(budgets.compute[0])
    for compute in (budgets.compute[-1], budgets.compute[1]):
        frozen.compute = compute + 1e-5
        assert frozen.compute == set_compute(network.routed_modules, compute + 1e-5)
        expected = expected_of(network, IMAGES)
        for size in (64, 1):
            np.testing.assert_allclose(outputs_of(frozen, IMAGES[:size]), expected[:size], atol=1e-4)


@pytest.mark.parametrize("execution", ["dense", "sparse"])
def test_other_executions_halt_too(calibrated, execution):
    if execution == "sparse" and keras.backend.backend() != "tensorflow":
        pytest.skip("needs TensorFlow")
    network, budgets = calibrated
    frozen = freeze(network, execution, compute=budgets.compute[1])
    set_compute(network.routed_modules, budgets.compute[1])
    expected = expected_of(network, IMAGES)
    for size in (64, 5, 1):
        np.testing.assert_allclose(outputs_of(frozen, IMAGES[:size]), expected[:size], atol=1e-4)


def test_the_best_budgets_by_hand():
    compute = np.array([0.5, 0.2, 0.9, 0.2, 0.6, 0.7])
    accuracy = np.array([0.6, 0.5, 0.8, 0.4, 0.6, 0.55])
    best = best_budgets(Budgets(compute, accuracy, np.arange(6)[:, None], np.zeros(6)))
    np.testing.assert_array_equal(best.depths[:, 0], [1, 0, 2])


def test_at_most_64_budgets_are_kept():
    spaced = np.linspace(0.1, 1.0, 1000)
    best = best_budgets(Budgets(spaced, spaced, np.zeros((1000, 1), int), spaced))
    assert len(best.compute) == 64
    assert (best.compute[0], best.compute[-1]) == (0.1, 1.0)


def test_less_than_there_is_names_the_least(calibrated):
    network, budgets = calibrated
    with pytest.raises(
        ValueError, match=rf"at least {budgets.compute[0]:.3f}, what .* Received: compute=0.01. Ask for at least"
    ):
        freeze(network, compute=0.01)


def test_networks_without_budgets(network):
    fresh = rk.resnet_to_reset(rk.ResNet((2,), 4, (8, 8, 1)), rk.HaltingController(1, 4), rk.HardScorer(sampled=False))
    with pytest.raises(ValueError, match="has no budgets yet: call rk"):
        set_compute(fresh.routed_modules, 0.5)
    with pytest.raises(ValueError, match=r"HaltingControllers has budgets.* Received: .* with \['RNNController'\]"):
        freeze(one_module_reset("gumbel_st"), compute=0.5)
    with pytest.raises(ValueError, match=r"HaltingControllers has budgets.* a ReSetNet with \['RNNController'\]"):
        calibrate(one_module_reset("gumbel_st"), IMAGES, LABELS)


def test_the_global_dtype_policy_does_not_round_a_network_in_float32(network, at_every_depth):
    with under_policy("mixed_bfloat16"):
        found = outputs_at_every_depth(network, IMAGES)
    np.testing.assert_allclose(found, at_every_depth, atol=1e-5)


@pytest.mark.parametrize(("classes", "use_bias"), [(10, True), (4, False)])
def test_a_last_layer_that_is_no_head_of_the_controllers(classes, use_bias):
    inputs = keras.Input((8, 8, 4))
    x, routes = rk.ReSet(2, 2, rk.HaltingController(3, classes), rk.HardScorer(sampled=False), return_routes=True)(
        inputs
    )
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = rk.RoutedModel(inputs, keras.layers.Dense(4, use_bias=use_bias, name="last")(x), routes=[routes])
    message = f"Received: 'last' with 4 units and use_bias={use_bias}, a controller with num_classes={classes}"
    with pytest.raises(ValueError, match=message):
        calibrate(model, np.zeros((4, 8, 8, 4), "float32"), np.arange(4))


def test_each_image_of_a_calibration_has_a_label(network):
    with pytest.raises(ValueError, match=r"one for each image. Received: 3 images, 2 labels"):
        calibrate(network, IMAGES[:3], LABELS[:2])


def test_a_model_that_ends_otherwise_is_not_calibrated():
    inputs = keras.Input((8, 8, 4))
    x, routes = rk.ReSet(2, 2, rk.HaltingController(3, 4), rk.HardScorer(sampled=False), return_routes=True)(inputs)
    model = rk.RoutedModel(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(x)), routes=[routes])
    with pytest.raises(ValueError, match="ends with Flatten, Dense"):
        calibrate(model, np.zeros((4, 8, 8, 4), "float32"), np.arange(4))


def test_percent_are_not_taken_for_a_share(calibrated):
    network, _ = calibrated
    for compute in (1.2, 35):
        with pytest.raises(ValueError, match=rf"0.7 for 70 %, and at most 1\S* here. Received: compute={compute}"):
            set_compute(network, compute)
