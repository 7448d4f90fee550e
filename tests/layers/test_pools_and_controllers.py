import keras
import numpy as np
import pytest

import numpy_reference as reference
import reset_keras as rk
from gradient import layer_gradients
from networks import randomize
from reset_keras.layers.unit_pool import weighted

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 6)).astype("float32")
SCORES = np.random.default_rng(2).dirichlet(np.ones(4), size=4).astype("float32")


def test_a_unit_of_another_width_is_refused():
    pool, unit = rk.ResidualPool(3), rk.ResidualUnit(5)
    pool(IMAGES, SCORES)
    unit.build((4, 8, 8, 5))
    with pytest.raises(ValueError, match="do not fit a unit of this pool"):
        pool.load_unit(0, unit)


@pytest.mark.parametrize(("built", "other"), [("pool", "unit"), ("unit", "pool")])
def test_only_built_layers_give_and_get_weights(built, other):
    layers = {"pool": rk.ResidualPool(3), "unit": rk.ResidualUnit(6)}
    layers[built].build(IMAGES.shape)
    with pytest.raises(ValueError, match=f"Received: the {other} 'residual_{other}.*', which is not built"):
        layers["pool"].load_unit(0, layers["unit"])


@pytest.mark.parametrize("way", ["split", "grouped", "auto", "run_unit"])
@pytest.mark.parametrize("frozen", ["norm1", "norm2"])
def test_with_one_of_its_norms_frozen_a_pool_trains_as_its_units_do(frozen, way):
    pool = rk.ResidualPool(3, execution="auto" if way == "run_unit" else way)
    pool.build(IMAGES.shape)
    units = [rk.ResidualUnit(6) for _ in range(3)]
    for index, unit in enumerate(units):
        unit.build(IMAGES.shape)
        pool.load_unit(index, randomize(unit, index))
    for layer in (pool, *units):
        getattr(layer, frozen).trainable = False
    expected = sum(weighted(unit(IMAGES, training=True), SCORES, index) for index, unit in enumerate(units))
    if way == "run_unit":
        ours = sum(weighted(pool.run_unit(index, IMAGES, training=True), SCORES, index) for index in range(3))
    else:
        ours = pool(IMAGES, SCORES, training=True)
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    for name in ("norm1", "norm2"):
        tolerance = 0 if name == frozen else 1e-5
        for kind in ("moving_means", "moving_variances"):
            by_unit = np.concatenate([getattr(getattr(unit, name), kind)[0] for unit in units])
            np.testing.assert_allclose(getattr(getattr(pool, name), kind)[0], by_unit, atol=tolerance, rtol=tolerance)


def test_a_unit_receives_the_iteration_if_it_asks_for_it():
    class Counter(keras.layers.Layer):
        def call(self, inputs, iteration=0):
            return inputs * float(iteration)

    ones = np.ones((2, 3), "float32")
    output = rk.UnitPool([Counter(), keras.layers.Identity()])(ones, np.ones((2, 2), "float32"), iteration=4)
    np.testing.assert_array_equal(output, 5 * ones)


def test_a_unit_may_compute_in_a_type_of_its_own():
    units = [keras.layers.Dense(3), keras.layers.LayerNormalization(dtype="float32")]
    pool = rk.UnitPool(units, dtype="mixed_bfloat16")
    output = pool(np.ones((2, 3), "float32"), np.ones((2, 2), "float32"))
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"


def test_the_recurrent_controller_is_an_lstm():
    controller = rk.RNNController(5, hidden_size=7)
    state = controller.initial_state(4)
    expected_state = (np.zeros((4, 7)), np.zeros((4, 7)))
    for _ in range(3):
        logits, state = controller(IMAGES, state)
        expected, expected_state = reference.lstm_controller(controller, IMAGES, expected_state)
        np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_the_convolutional_controller_has_a_batch_norm_of_its_own_for_each_iteration(training):
    controller = rk.CNNController(5, num_iterations=2)
    controller(IMAGES, [])
    randomize(controller)
    logits = [np.array(controller(IMAGES, [], iteration=k, training=training)[0]) for k in range(2)]
    randomize(controller)  # statistics that training has moved
    for k in range(2):
        np.testing.assert_allclose(logits[k], reference.cnn_controller(controller, IMAGES, k, training), atol=1e-4)
    assert np.abs(logits[0] - logits[1]).max() > 0.1
    assert not any("bias" in weight.name for weight in controller.weights)


@pytest.mark.parametrize(
    "controller",
    [rk.FixedController(4, [0, 1]), rk.CNNController(4, 2), rk.GateController(4, 2), rk.PolicyController(4, 2)],
    ids=lambda controller: type(controller).__name__,
)
def test_a_module_of_more_iterations_is_refused(controller):
    name = type(controller).__name__
    with pytest.raises(ValueError, match=f"A {name} must decide for each .* 5 iterations. Received: one .* made for 2"):
        rk.ReSet(3, 5, controller)
    assert rk.ReSet(3, 1, controller).num_iterations == 1


def test_a_frozen_batch_norm_neither_uses_nor_moves_its_statistics():
    layer = rk.IterationBatchNormalization(1)
    layer(IMAGES, training=True)
    layer.trainable = False
    before = layer.get_weights()
    np.testing.assert_array_equal(layer(IMAGES, training=True), layer(IMAGES, training=False))
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_with_fixed_statistics_scale_and_offset_alone_are_trained():
    layer = rk.IterationBatchNormalization(1, fixed_statistics=True)
    layer(IMAGES)
    for weights in (layer.moving_means, layer.moving_variances):
        weights[0].assign(np.linspace(0.5, 2, IMAGES.shape[-1]))
    statistics = np.linspace(0.5, 2, IMAGES.shape[-1])
    normalized = (IMAGES - statistics) / np.sqrt(statistics + 1e-5)
    outputs, by_x, by_weight = layer_gradients(layer, IMAGES, training=True)
    np.testing.assert_allclose(outputs, normalized, atol=1e-5)
    np.testing.assert_allclose(by_x, 2 * normalized / np.sqrt(statistics + 1e-5), rtol=1e-4, atol=1e-4)
    by_hand = [(2 * normalized**2).sum(axis=(0, 1, 2)), (2 * normalized).sum(axis=(0, 1, 2))]
    for ours, expected in zip(by_weight, by_hand, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4)
    np.testing.assert_allclose(layer.moving_means[0], statistics, rtol=1e-6)


def test_a_unit_of_other_iterations_is_refused():
    pool, unit = rk.ResidualPool(2, 3), rk.ResidualUnit(6, num_iterations=2)
    for layer in (pool, unit):
        layer.build((None, 8, 8, 6))
    with pytest.raises(ValueError, match="moving_means for 2 iterations does not fit a pool that keeps them for 3"):
        pool.load_unit(1, unit)


def test_a_unit_that_returns_more_than_a_tensor_is_named():
    with pytest.raises(ValueError, match=r"must return one tensor.* Received: unit 0 \('inner'\) returns a tuple"):
        rk.ReSet([rk.ReSet(1, 1, return_routes=True, name="inner")], 2)(np.ones((2, 8, 8, 4), "float32"))
