import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import EAGERLY_ON_TENSORFLOW, LOSS, images_and_labels, one_module_reset, randomize, small_resnet
from reset_keras.training import with_fixed_routes

IMAGES, LABELS = images_and_labels(48)


def hard_reset(scorer="gumbel_st"):
    """Logits have mean 0 and deviation 1 over the images, so that units and the zero unit are all chosen for some."""
    keras.utils.set_random_seed(0)
    model = randomize(one_module_reset(scorer))
    (route,) = model(IMAGES, training=False, return_routes=True).routes
    mean, deviation = (statistic(np.array(route["logits"]), axis=(0, 1)) for statistic in (np.mean, np.std))
    dense = model.routed_modules[0].controller.dense
    dense.kernel.assign(np.array(dense.kernel) / deviation)
    dense.bias.assign((np.array(dense.bias) - mean) / deviation)
    return model


def trained(model, **options):
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), LOSS, **options)
    model.fit(IMAGES, LABELS, batch_size=16, epochs=2, shuffle=False, verbose=0)
    return model


def test_it_is_the_same_network_on_the_same_routes():
    model = hard_reset()
    fixed = with_fixed_routes(model)
    expected, (before,) = model(IMAGES, training=False, return_routes=True)
    outputs, (after,) = fixed(IMAGES, training=False, return_routes=True)
    np.testing.assert_array_equal(after["scores"], before["scores"])
    assert set(np.argmax(before["scores"], axis=-1).ravel()) == {0, 1, 2}
    np.testing.assert_allclose(outputs, expected, atol=1e-4)


def test_nothing_is_sampled_in_training():
    model = hard_reset()
    for network, samples in ((model, True), (with_fixed_routes(model), False)):
        first, second = (
            np.array(network(IMAGES, training=True, return_routes=True).routes[0]["scores"]) for _ in range(2)
        )
        assert (first != second).any() == samples


@pytest.mark.slow
def test_it_trains_as_where_all_units_are_computed():
    model = hard_reset("hard")
    chosen, every = with_fixed_routes(model), with_fixed_routes(model)
    every.routed_modules[0].pool.execution = "auto"
    trained(chosen)
    trained(every, **EAGERLY_ON_TENSORFLOW)
    for ours, theirs in zip(chosen.weights, every.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=ours.path)


@pytest.mark.slow
def test_units_are_trained_and_neither_controllers_nor_their_statistics():
    fixed = with_fixed_routes(hard_reset())
    before = {weight.path: np.array(weight) for weight in fixed.weights}
    trained(fixed, **EAGERLY_ON_TENSORFLOW)
    changed = {weight.path for weight in fixed.weights if not np.array_equal(before[weight.path], weight)}
    module = fixed.routed_modules[0]
    in_module = {weight.path for weight in module.weights}
    norms = [module.pool.norm1, module.pool.norm2]
    affine = {weight.path for norm in norms for weight in (*norm.gammas, *norm.betas)}
    assert changed & in_module == {module.pool.kernel1.path, module.pool.kernel2.path} | affine
    assert {"stem", "classifier"} <= {path.split("/")[0].split("_")[0] for path in changed}


def model_of_ones_own():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, padding="same")(inputs))
    x, routes = rk.ReSet(2, 2, scorer="hard", return_routes=True)(x)
    outputs = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x))
    return randomize(rk.RoutedModel(inputs, outputs, routes=[routes]))


@pytest.mark.slow
@pytest.mark.parametrize("make", [hard_reset, model_of_ones_own])
def test_applied_again_to_what_a_file_holds_training_goes_on(make, tmp_path):
    def fit(model):
        model.compile(keras.optimizers.SGD(0.05), LOSS, **EAGERLY_ON_TENSORFLOW)
        model.fit(IMAGES, LABELS, batch_size=24, shuffle=False, verbose=0)

    fixed = with_fixed_routes(make())
    fit(fixed)
    fixed.save(tmp_path / "fixed.keras")
    again = with_fixed_routes(keras.models.load_model(tmp_path / "fixed.keras"))
    np.testing.assert_array_equal(again(IMAGES, training=False), fixed(IMAGES, training=False))
    assert [layer.trainable for layer in again._flatten_layers()] == [
        layer.trainable for layer in fixed._flatten_layers()
    ]
    pool = again.routed_modules[0].pool
    assert (pool.execution, pool.norm1.fixed_statistics, pool.norm2.fixed_statistics) == ("chosen", True, True)
    for network in (again, fixed):
        fit(network)
    for ours, theirs in zip(again.weights, fixed.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=ours.path)


def test_units_of_ones_own_are_trained_too():
    inputs = keras.Input((6,))
    units = [keras.layers.Dense(6, activation="relu") for _ in range(2)]
    x, routes = rk.ReSet(units, 2, scorer="hard", return_routes=True)(inputs)
    fixed = with_fixed_routes(rk.RoutedModel(inputs, keras.layers.Dense(3)(x), routes=[routes]))
    (module,) = fixed.routed_modules
    module.controller.dense.kernel.assign(np.random.default_rng(0).normal(0, 9, module.controller.dense.kernel.shape))
    features = np.random.default_rng(1).normal(size=(48, 6)).astype("float32")
    chosen = np.argmax(fixed(features, training=False, return_routes=True).routes[0]["scores"], axis=-1)
    assert {0, 1} <= set(chosen.ravel())
    before = [layer.get_weights() for layer in (*module.pool.units, module.controller)]
    fixed.compile("sgd", LOSS, **EAGERLY_ON_TENSORFLOW)
    fixed.train_on_batch(features, LABELS % 3)
    *units, controller = [
        [not np.array_equal(new, old) for new, old in zip(layer.get_weights(), weights, strict=True)]
        for layer, weights in zip((*module.pool.units, module.controller), before, strict=True)
    ]
    assert units == [[True, True]] * 2
    assert not any(controller)


@pytest.mark.parametrize("scorer", ["softmax", "gumbel_softmax", "top_k"])
def test_soft_routes_cannot_be_fixed(scorer):
    with pytest.raises(ValueError, match=r"where one unit is chosen, scorer='gumbel_st' or 'hard'. Received: "):
        with_fixed_routes(one_module_reset(scorer))


def test_a_resnet_has_no_routes():
    with pytest.raises(ValueError, match=r"must be a RoutedModel.* Received: a ResNet"):
        with_fixed_routes(small_resnet())


def test_a_network_for_every_budget_is_trained_as_it_is():
    halting = rk.resnet_to_reset(small_resnet(), rk.HaltingController(1, 4), rk.HardScorer(sampled=False))
    with pytest.raises(ValueError, match=r"trained at all depths, and not along the routes"):
        with_fixed_routes(halting)
