"""Units that share a convolution, and one unit that is applied several times."""

import keras
import numpy as np
import pytest

import numpy_reference as reference
import reset_keras as rk
from frozen import ON_TENSORFLOW, assert_equal_at_every_batch_size, expected_of
from gradient import layer_gradients
from networks import (
    EAGERLY_ON_TENSORFLOW,
    LOSS,
    images_and_labels,
    one_module_reset,
    randomize,
    slow_on_jax,
    small_reset,
)

SHAPE = (4, 8, 8, 6)
FEATURES = np.random.default_rng(0).normal(size=SHAPE).astype("float32")
IMAGES, LABELS = images_and_labels()


def units_of_one_second_kernel():
    """Three residual units that differ in all but their second kernel."""
    rng = np.random.default_rng(1)
    units = [rk.ResidualUnit(6, num_iterations=2) for _ in range(3)]
    for unit in units:
        unit.build(SHAPE)
        unit.conv2.kernel.assign(np.array(units[0].conv2.kernel))
        for weight in unit.weights:
            if len(weight.shape) == 1:
                weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return units


def module_of(pool):
    module = rk.ReSet(pool, 2)
    module(FEATURES)
    return module


@pytest.fixture(scope="module")
def one_by_one():
    return module_of(rk.UnitPool(units_of_one_second_kernel()))


def sharing(plain, execution):
    """A ReSet of the same weights whose pool has the second kernel once."""
    module = module_of(rk.ResidualPool(3, 2, execution=execution, shared="second"))
    for index, unit in enumerate(plain.pool.units):
        module.pool.load_unit(index, unit)
    module.controller.set_weights(plain.controller.get_weights())
    return module


@slow_on_jax
@pytest.mark.parametrize("execution", ["split", "grouped"])
def test_it_trains_as_units_with_equal_kernels_whose_gradients_are_added(one_by_one, execution):
    expected, by_x, by_weight = layer_gradients(one_by_one, FEATURES, training=True)
    module = sharing(one_by_one, execution)
    ours, ours_by_x, ours_by_weight = layer_gradients(module, FEATURES, training=True)
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(ours_by_x, by_x, atol=1e-4 * np.abs(by_x).max())
    paths = [weight.path for weight in one_by_one.trainable_variables]
    by_kernel2 = sum(g for path, g in zip(paths, by_weight, strict=True) if path.endswith("conv2/kernel"))
    (ours,) = [g for w, g in zip(module.trainable_variables, ours_by_weight, strict=True) if "kernel2" in w.path]
    np.testing.assert_allclose(ours, by_kernel2, atol=1e-4 * np.abs(by_kernel2).max())


@pytest.mark.parametrize("execution", ["split", "grouped", "auto"])
def test_it_infers_as_units_with_equal_kernels(one_by_one, execution):
    module = sharing(one_by_one, execution)
    np.testing.assert_allclose(module(FEATURES), one_by_one(FEATURES), atol=1e-4, rtol=1e-4)
    unit = one_by_one.pool.units[2]
    np.testing.assert_allclose(
        module.pool.run_unit(2, FEATURES, 1), reference.residual_unit(unit, FEATURES, 1), atol=1e-4, rtol=1e-4
    )


def test_units_run_for_the_images_that_chose_them(one_by_one):
    pool = sharing(one_by_one, "chosen").pool
    scores = np.eye(4, dtype="float32")[[2, 0, 3, 2]]
    expected = one_by_one.pool(FEATURES, scores, iteration=1)
    np.testing.assert_allclose(pool(FEATURES, scores, iteration=1), expected, atol=1e-4, rtol=1e-4)


def test_the_kernel_is_stored_once():
    shared, own = (rk.ResidualPool(3, 2, shared=shared) for shared in ("second", "none"))
    for pool in (shared, own):
        pool.build(SHAPE)
    assert own.count_params() - shared.count_params() == 2 * 3 * 3 * 6 * 6
    assert rk.ResidualPool.from_config(shared.get_config()).shared == "second"
    old = own.get_config()
    del old["shared"]  # as in files of before
    assert rk.ResidualPool.from_config(old).shared == "none"


def test_a_unit_with_another_kernel_is_refused(one_by_one):
    module = sharing(one_by_one, "split")
    with pytest.raises(ValueError, match="unit 1 with another kernel"):
        module.pool.load_unit(1, build(rk.ResidualUnit(6)))
    with pytest.raises(ValueError, match="`shared` must be one of"):
        rk.ResidualPool(2, shared="first")


def build(layer):
    layer.build(SHAPE)
    return layer


def unrolled(zero_unit):
    """One unit a stage, three times in the first and twice in the second."""
    controller = rk.FixedController(1 + zero_unit, [0, 0, 0])
    options = {"per_iteration_affine": True}
    return small_unrolled(controller, zero_unit, options)


def small_unrolled(controller, zero_unit, options):
    return rk.ReSetNet(
        (1, 1), (3, 2), 4, (8, 8, 1), controller=controller, zero_unit=zero_unit, pool_options=options, width=4
    )


@pytest.mark.parametrize("zero_unit", [False, True])
def test_one_unit_with_batch_norms_of_its_own_each_time(zero_unit):
    model = randomize(unrolled(zero_unit))
    module = model.routed_modules[0]
    assert len(module.pool.norm1.gammas) == 3
    x = np.random.default_rng(2).normal(size=(3, 8, 8, 4)).astype("float32")
    expected = x.astype("float64")
    for k in range(3):
        y = expected
        for kernel, norm in ((module.pool.kernel1, module.pool.norm1), (module.pool.kernel2, module.pool.norm2)):
            y = reference.relu(y) if norm is module.pool.norm2 else y
            parts = (norm.moving_means, norm.moving_variances, norm.gammas, norm.betas)
            y = reference.batch_norm(reference.conv3x3(y, np.array(kernel)), *(np.array(part[k]) for part in parts))
        expected = reference.relu(expected + y)
    np.testing.assert_allclose(module(x)[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: unrolled(False), lambda: one_module_reset(pool_options={"shared": "second"})])
def test_networks_are_trained_saved_loaded_and_frozen(make, tmp_path):
    model = make()
    model.compile("sgd", LOSS, **EAGERLY_ON_TENSORFLOW)
    model.fit(IMAGES, LABELS, verbose=0)
    randomize(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.pool_options == model.pool_options
    np.testing.assert_allclose(expected_of(loaded, IMAGES), expected_of(model, IMAGES), atol=1e-5)
    for execution in ("auto", "sparse") if ON_TENSORFLOW else ("auto",):
        assert_equal_at_every_batch_size(rk.inference.freeze(loaded, execution), loaded)


def test_other_options_of_pools_are_refused():
    with pytest.raises(ValueError, match="`pool_options` must be a dict with keys from"):
        small_reset(pool_options={"execution": "grouped"})
