"""What is frozen stays frozen through files, copies and other scorers: trained variables are compared by number."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import EAGERLY_ON_TENSORFLOW, LOSS, images_and_labels, one_module_reset, user_model
from reset_keras.keras_internals import all_layers
from reset_keras.models import with_one_route
from reset_keras.training import with_fixed_routes

IMAGES, LABELS = images_and_labels()


def model_of_layers():
    """A ReSet whose units are models of a user's."""
    inputs = keras.Input((8, 8, 1))
    units = [keras.Sequential([keras.layers.Conv2D(1, 3, padding="same"), keras.layers.ReLU()]) for _ in range(2)]
    x, routes = rk.ReSet(units, 1, return_routes=True)(inputs)
    return rk.RoutedModel(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(x)), routes=[routes])


def small_model():
    """A ReSet among layers of a user's."""
    inputs = keras.Input((8, 8, 1))
    x, _ = rk.ReSet(1, 1, return_routes=True)(keras.layers.Conv2D(4, 3)(inputs))
    return rk.RoutedModel(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)))


def smallest_reset():
    return rk.ReSetNet((1,), None, 4, (8, 8, 1), width=4)


FREEZE = {
    "pool": lambda model: [model.routed_modules[0].pool],
    "controller": lambda model: [model.routed_modules[0].controller],
    "module": lambda model: [model.routed_modules[-1]],
    "layer": lambda model: [model.layers[1]],
    "model": lambda model: [model],
}


def loaded(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


@pytest.mark.parametrize("part", FREEZE)
@pytest.mark.parametrize("make", [small_model, smallest_reset, model_of_layers])
def test_what_is_frozen_stays_frozen(make, part, tmp_path):
    model = make()
    whole = len(model.trainable_variables)
    for layer in FREEZE[part](model):
        layer.trainable = False
    model.compile("sgd", LOSS)
    trained = len(model.trainable_variables)
    assert trained < whole
    copies = [
        loaded(model, tmp_path),
        type(model).from_config(model.get_config()),
        rk.with_scorer(model, "softmax"),
        keras.models.clone_model(model),
    ]
    assert [len(copy.trainable_variables) for copy in copies] == [trained] * 4


def test_a_unit_of_ones_own_stays_frozen(tmp_path):
    model = model_of_layers()
    model.routed_modules[0].pool.units[1].layers[0].trainable = False
    model.compile("sgd", LOSS)
    found = loaded(model, tmp_path).routed_modules[0].pool.units
    assert [unit.layers[0].trainable for unit in found] == [True, False]


def test_a_part_that_is_trained_in_a_frozen_one(tmp_path):
    model = small_model()
    model.trainable = False
    model.layers[-1].trainable = True
    model.routed_modules[0].controller.trainable = True
    copy = loaded(model, tmp_path)
    assert [layer.trainable for layer in copy.layers] == [layer.trainable for layer in model.layers]
    assert copy.routed_modules[0].controller.trainable
    assert not copy.routed_modules[0].pool.trainable


def test_a_frozen_pool_is_not_trained_after_loading(tmp_path):
    model = small_model()
    model.routed_modules[0].pool.trainable = False
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS, **EAGERLY_ON_TENSORFLOW)
    model.train_on_batch(IMAGES, LABELS)
    copy = loaded(model, tmp_path)
    before = [np.array(weight) for weight in copy.routed_modules[0].pool.weights]
    for network in (model, copy):
        network.train_on_batch(IMAGES, LABELS)
    for weight, old in zip(copy.routed_modules[0].pool.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)
    for ours, theirs in zip(copy.weights, model.weights, strict=True):  # the optimizer's momentum was kept as well
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rk.ResidualPool(2, trainable=False),
        lambda: rk.ResidualPool.from_config(rk.ResidualPool(2, trainable=False).get_config()),
        lambda: rk.CNNController(2, 1, trainable=False),
        lambda: rk.ReSet(2, 1, trainable=False),
        lambda: rk.UnitPool([keras.layers.BatchNormalization()], trainable=False),
        lambda: rk.ResidualUnit(4, trainable=False),
    ],
    ids=["pool", "copy of a pool", "controller", "module", "pool of layers", "unit"],
)
def test_what_is_made_frozen_keeps_its_statistics_too(make):
    layer, x = make(), np.random.default_rng(0).normal(3, 2, (4, 6, 6, 4)).astype("float32")
    more = ()
    if isinstance(layer, rk.layers.Pool | rk.Controller):
        more = ([],) if isinstance(layer, rk.Controller) else (np.ones((4, layer.num_units), "float32"),)
    layer(x, *more)
    before = layer.get_weights()
    layer(x, *more, training=True)
    assert layer.trainable_variables == []
    for new, old in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)


def norms_of(layer):
    return [part for part in all_layers(layer) if isinstance(part, rk.IterationBatchNormalization)]


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize(
    "make",
    [
        lambda: rk.ResNet((1, 1), 4, (8, 8, 1), width=4),
        lambda: rk.ReSetNet((1,), None, 4, (8, 8, 1), controller="cnn", width=4),
        lambda: rk.with_scorer(user_model(), "hard"),
    ],
    ids=["resnet", "reset net", "model of layers"],
)
def test_statistics_that_are_fixed_stay_so(make, place, tmp_path):
    model = make()
    norms = norms_of(model)
    fixed = [norm is norms[place * (len(norms) - 1) // 2] for norm in norms]
    for norm, is_fixed in zip(norms, fixed, strict=True):
        norm.fixed_statistics = is_fixed
    for copy in (loaded(model, tmp_path), type(model).from_config(model.get_config())):
        assert [norm.fixed_statistics for norm in norms_of(copy)] == fixed


@pytest.mark.parametrize(
    "make", [lambda: rk.ResidualUnit(4), lambda: rk.CNNController(3, 2), lambda: rk.ResidualPool(2)]
)
def test_a_layer_by_itself_keeps_what_is_set_for_its_parts(make):
    layer = make()
    for norm in (norms := norms_of(layer)):
        norm.fixed_statistics = norm is norms[-1]
        norm.trainable = norm is not norms[0]
    copy = norms_of(type(layer).from_config(layer.get_config()))
    for name in ("fixed_statistics", "trainable"):
        assert [getattr(norm, name) for norm in copy] == [getattr(norm, name) for norm in norms]


def test_a_unit_that_is_trained_in_a_frozen_pool():
    pool = rk.UnitPool([keras.layers.BatchNormalization() for _ in range(2)])
    pool.trainable = False
    pool.units[0].trainable = True
    assert [unit.trainable for unit in rk.UnitPool.from_config(pool.get_config()).units] == [True, False]


def test_along_one_route_statistics_stay_fixed():
    model = rk.ReSetNet((2, 2), None, 4, (8, 8, 1), width=4, scorer="gumbel_st")
    fixed = [model.routed_modules[0].pool.norm2, model.routed_modules[1].pool.norm1]
    for norm in fixed:
        norm.fixed_statistics = True
    static = with_one_route(model, IMAGES)
    pools = [module.pool for module in static.routed_modules]
    assert [[pool.norm1.fixed_statistics, pool.norm2.fixed_statistics] for pool in pools] == [
        [False, True],
        [True, False],
    ]


def test_a_block_of_a_resnet_stays_frozen(tmp_path):
    model = rk.ResNet((1, 1), 4, (8, 8, 1), width=4)
    model.get_layer("stage1_block0").trainable = False
    assert len(loaded(model, tmp_path).trainable_variables) == len(model.trainable_variables)


@pytest.mark.parametrize("make", [lambda: user_model(scorer="hard"), lambda: one_module_reset("hard")])
def test_fixed_routes_stay_fixed(make, tmp_path):
    model = with_fixed_routes(make())
    copy = loaded(model, tmp_path)
    assert [len(network.trainable_variables) for network in (copy, model)] == [len(model.trainable_variables)] * 2
    for module in copy.routed_modules:
        assert (module.pool.execution, module.pool.fixed_statistics) == ("chosen", True)
        assert not module.controller.trainable


@pytest.mark.parametrize(
    "controller",
    [
        lambda **frozen: rk.RNNController(3, **frozen),
        lambda **frozen: rk.CNNController(3, 2, **frozen),
        lambda **frozen: rk.GateController(3, 2, **frozen),
    ],
    ids=["rnn", "cnn", "gate"],
)
def test_a_controller_may_be_made_frozen_or_be_frozen_before_it_is_built(controller):
    made, frozen = rk.ReSet(2, 2, controller(trainable=False)), rk.ReSet(2, 2, controller())
    frozen.controller.trainable = False
    for module in (made, frozen, *(rk.ReSet.from_config(each.get_config()) for each in (made, frozen))):
        module.build((None, 8, 8, 4))
        assert not any("controller" in variable.path for variable in module.trainable_variables)
        assert module.pool.trainable_variables


def test_controllers_of_a_network_may_be_made_frozen():
    model = rk.ReSetNet((1,), None, 4, (8, 8, 1), rk.RNNController(2, trainable=False), width=4)
    assert not any("controller" in variable.path for variable in model.trainable_variables)
