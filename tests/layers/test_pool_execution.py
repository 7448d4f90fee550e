"""Each execution of a residual pool against the same units run one by one."""

import functools

import keras
import numpy as np
import pytest

import reset_keras as rk
from gradient import gradient_of, layer_gradients
from networks import ONE_BACKEND, slow_on_jax
from reset_keras.layers import residual_pool
from reset_keras.layers.image_groups import groups_of, in_groups, in_order
from reset_keras.layers.scorers import get_scorer

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 6)).astype("float32")
SCORES = np.random.default_rng(1).dirichlet(np.ones(4), size=4).astype("float32")
NUM_UNITS, ITERATIONS = 3, 2
MASK = [[1, 0, 1], [0, 1, 1]]
"""Of two iterations over two units and the zero unit."""


def trained_units(seed=3):
    """Residual units whose statistics, scales and offsets are not those of the start."""
    rng = np.random.default_rng(seed)
    units = [rk.ResidualUnit(6, num_iterations=ITERATIONS) for _ in range(NUM_UNITS)]
    for unit in units:
        unit.build(IMAGES.shape)
        for weight in unit.weights:
            if len(weight.shape) == 1:
                weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return units


def one_by_one(scorer):
    """A ReSet that runs its units one by one."""
    module = rk.ReSet(rk.UnitPool(trained_units()), ITERATIONS, scorer=scorer_of(scorer))
    module(IMAGES)
    return module


def by(execution, scorer, plain, allowed="any"):
    """A ReSet of the same weights that runs its units by `execution`."""
    pool = rk.ResidualPool(NUM_UNITS, ITERATIONS, execution=execution)
    module = rk.ReSet(pool, ITERATIONS, scorer=scorer_of(scorer), allowed=allowed)
    module(IMAGES)
    for index, unit in enumerate(plain.pool.units):
        pool.load_unit(index, unit)
    module.controller.set_weights(plain.controller.get_weights())
    return module


@functools.cache
def trained_one_by_one(scorer, frozen):
    """The units one by one, and their gradients, which all executions are compared with."""
    plain = one_by_one(scorer)
    plain.pool.trainable = not frozen
    return plain, layer_gradients(plain, IMAGES, training=True)


def scorer_of(name):
    """A new scorer of that kind, which draws the same noise as all others."""
    scorer = get_scorer(name)
    return type(scorer).from_config({**scorer.get_config(), "seed": 5})


TRAINED = [(scorer, execution, False) for scorer in ("softmax", "hard") for execution in ("split", "grouped")]
TRAINED += [("softmax", "auto", True), ("hard", "auto", True)]
ELSEWHERE_TRAINED = [
    (scorer, execution, False) for scorer in ("gumbel_st", "top_k") for execution in ("split", "grouped")
]
ELSEWHERE_TRAINED += [(scorer, execution, True) for scorer in ("softmax", "hard") for execution in ("split", "grouped")]
ELSEWHERE_TRAINED += [("gumbel_softmax", "split", False), ("gumbel_st", "auto", True), ("top_k", "auto", True)]


@pytest.mark.parametrize(
    ("scorer", "execution", "frozen"),
    [*TRAINED, *(pytest.param(*case, marks=ONE_BACKEND) for case in ELSEWHERE_TRAINED)],
)
def test_every_execution_trains_as_the_units_one_by_one(scorer, execution, frozen):
    plain, (expected, by_x, by_weight) = trained_one_by_one(scorer, frozen)
    module = by(execution, scorer, plain)
    module.pool.trainable = not frozen
    ours = layer_gradients(module, IMAGES, training=True)
    np.testing.assert_allclose(ours[0], expected, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(ours[1], by_x, atol=1e-4 * np.abs(by_x).max())
    for stacked, gradient in zip(stack(plain, by_weight), ours[2], strict=True):
        np.testing.assert_allclose(gradient, stacked, atol=1e-4 * max(1, np.abs(stacked).max()))


@pytest.mark.parametrize(
    ("scorer", "execution"),
    [
        *(("softmax", execution) for execution in ("split", "grouped", "auto")),
        *(("hard", execution) for execution in ("split", "grouped", "auto", "chosen")),
        *(pytest.param(name, "auto", marks=ONE_BACKEND) for name in ("gumbel_softmax", "gumbel_st", "top_k")),
        pytest.param("gumbel_st", "chosen", marks=ONE_BACKEND),
    ],
)
def test_every_execution_infers_as_the_units_one_by_one(scorer, execution):
    plain = one_by_one(scorer)
    module = by(execution, scorer, plain)
    np.testing.assert_allclose(module(IMAGES), plain(IMAGES), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scorer", [rk.HardScorer(), rk.HardScorer(sampled=False)])
def test_only_the_chosen_units_train_as_the_units_one_by_one(scorer):
    plain = one_by_one(scorer)
    module = by("chosen", scorer, plain)
    for part in (*plain.pool.units, module.pool):
        part.norm1.fixed_statistics = part.norm2.fixed_statistics = True
    (expected, by_x, by_weight), ours = (layer_gradients(m, IMAGES, training=True) for m in (plain, module))
    np.testing.assert_allclose(ours[0], expected, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(ours[1], by_x, atol=1e-4 * np.abs(by_x).max())
    for stacked, gradient in zip(stack(plain, by_weight), ours[2], strict=True):
        np.testing.assert_allclose(gradient, stacked, atol=1e-4 * max(1, np.abs(stacked).max()))


@slow_on_jax
@pytest.mark.parametrize(
    ("scorer", "chosen", "allowed"),
    [
        (rk.HardScorer(sampled=False), [2, 0], "any"),
        (rk.HardScorer(sampled=False), [0, 2], MASK),
        (rk.TopKScorer(1), [2, 0], "any"),
        *(
            pytest.param(*case, marks=ONE_BACKEND)
            for case in (
                (rk.HardScorer(sampled=False), [0, 1], "any"),
                (rk.HardScorer(sampled=False), [2, 2], "any"),
                (rk.HardScorer(sampled=False), [2, 1], "sequential"),
                (rk.TopKScorer(1), [0, 2], MASK),
            )
        ),
    ],
)
def test_units_that_no_image_uses_are_left_out_of_a_training_step(scorer, chosen, allowed):
    """Unit 2 of the choice is the zero unit; the reference computes all units."""
    controller, scorers = rk.FixedController(3, chosen), [type(scorer).from_config(scorer.get_config()) for _ in "ab"]
    units = trained_units()[:2]
    plain = rk.ReSet(rk.UnitPool(units), 2, controller, scorers[0])
    split = rk.ReSet(rk.ResidualPool(2, 2, execution="split"), 2, controller, scorers[1], allowed=allowed)
    for module in (plain, split):
        module(IMAGES)
    for index, unit in enumerate(units):
        split.pool.load_unit(index, unit)
    expected, ours = (layer_gradients(module, IMAGES, training=True) for module in (plain, split))
    np.testing.assert_allclose(ours[0], expected[0], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(ours[1], expected[1], atol=1e-4 * np.abs(expected[1]).max())
    for stacked, gradient in zip(stack(plain, expected[2], 2), ours[2], strict=True):
        np.testing.assert_allclose(gradient, stacked, atol=1e-4 * max(1, np.abs(stacked).max()))


@slow_on_jax
@pytest.mark.parametrize(
    ("scorer", "execution"),
    [
        *((scorer, name) for scorer in ("gumbel_st", "hard") for name in ("split", "grouped", "auto", "chosen")),
        ("softmax", "split"),
        ("top_k", "split"),
    ],
)
@pytest.mark.parametrize("allowed", ["any", MASK])
def test_statistics_of_a_unit_that_no_image_uses_stay_only_where_its_scores_get_no_gradient(scorer, execution, allowed):
    """Those of a unit that may not be chosen always stay."""
    pool = rk.ResidualPool(2, 2, execution=execution)
    module = rk.ReSet(pool, 2, rk.FixedController(3, [0, 2]), scorer, allowed=allowed)
    module(IMAGES)
    assert module.scorer.zeros_have_gradient == (scorer in ("softmax", "gumbel_st"))
    statistics = [*pool.norm1.moving_means, *pool.norm2.moving_variances]
    for weight in statistics:
        weight.assign(np.random.default_rng(0).uniform(0.5, 1.5, weight.shape))
    before = [np.array(weight) for weight in statistics]
    module(IMAGES, training=True)
    moved = [np.split(np.array(new) != old, 2) for new, old in zip(statistics, before, strict=True)]
    assert all(unit.all() or not unit.any() for units in moved for unit in units)
    may_move = np.array(MASK)[:, :2] == 1 if allowed is MASK else np.ones((2, 2), bool)
    used = np.ones((2, 2), bool) if module.scorer.zeros_have_gradient else np.array([[True, False], [False, False]])
    np.testing.assert_array_equal(np.array(moved).all(axis=-1), np.tile(may_move & used, (2, 1)))


def test_under_a_mask_too_a_unit_that_no_image_uses_is_not_computed():
    pool = rk.ResidualPool(2, 2, execution="split")
    module = rk.ReSet(pool, 2, rk.FixedController(3, [2, 1]), "hard", allowed="sequential")
    module(IMAGES)
    pool.kernel1.assign(np.where(np.arange(12) < 6, np.nan, np.array(pool.kernel1)))
    assert np.isfinite(keras.ops.convert_to_numpy(module(IMAGES, training=True))).all()


@pytest.mark.parametrize("execution", ["split", "grouped", "auto", "chosen"])
def test_under_a_mask_every_execution_infers_and_trains_as_the_units_one_by_one(execution):
    allowed = [[1, 0, 1, 1], [0, 1, 0, 1]]
    scorer = "gumbel_st" if execution == "chosen" else "softmax"
    plain = rk.ReSet(rk.UnitPool(trained_units()), ITERATIONS, scorer=scorer_of(scorer), allowed=allowed)
    plain(IMAGES)
    module = by(execution, scorer, plain, allowed)
    np.testing.assert_allclose(module(IMAGES), plain(IMAGES), atol=1e-4, rtol=1e-4)
    if execution != "chosen":  # whose scores get no gradient
        (expected, by_x, _), ours = (layer_gradients(m, IMAGES, training=True) for m in (plain, module))
        np.testing.assert_allclose(ours[0], expected, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(ours[1], by_x, atol=1e-4 * np.abs(by_x).max())


def test_a_call_may_name_the_units_that_have_scores():
    pool = rk.ResidualPool(3)
    scores = np.array([[0.0, 0.3, 0.7]] * 4, "float32")
    expected = pool(IMAGES, scores)
    pool.kernel1.assign(np.where(np.arange(18) < 6, np.nan, np.array(pool.kernel1)))
    np.testing.assert_allclose(pool(IMAGES, scores, units=[2, 1]), expected, atol=1e-5)


def test_a_unit_that_no_image_takes_gets_no_gradient():
    module = rk.ReSet(rk.ResidualPool(2, 2, execution="chosen"), 2, rk.FixedController(3, [0, 2]), "hard")
    module(IMAGES)
    module.pool.fixed_statistics = True
    outputs, _, gradients = layer_gradients(module, IMAGES, training=True)
    assert np.isfinite(outputs).all()
    for gradient in gradients:
        taken, left = np.split(gradient, 2, axis=-1)
        assert np.abs(taken).max() > 0
        np.testing.assert_array_equal(left, 0)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="runs folded there")
@pytest.mark.parametrize("units", [[0, 2, 3, 0, 2, 0], [3, 3, 3, 3, 3, 3], [1, 1, 1, 1, 1, 1]])
def test_images_in_groups_and_back(units):
    images = np.random.default_rng(1).normal(size=(6, 2, 2, 3)).astype("float32")
    scores = np.eye(4, dtype="float32")[units]
    groups = groups_of(scores, range(3))
    assert [list(np.array(group)) for group in groups] == [list(np.flatnonzero(scores[:, u])) for u in range(3)]
    for group, part in zip(groups, in_groups(images, groups), strict=True):
        np.testing.assert_array_equal(part, images[np.array(group)])
    taken = np.array(units) != 3

    def weighted_sum(x):
        parts = [(unit + 2.0) * part for unit, part in enumerate(in_groups(x, groups))]
        return keras.ops.sum(images**2 * in_order(parts, groups, 6))

    expected = np.where(taken, np.array(units) + 2.0, 0)[:, None, None, None] * images**2
    np.testing.assert_allclose(weighted_sum(images), np.sum(expected * images), rtol=1e-5)
    np.testing.assert_allclose(gradient_of(weighted_sum, images), expected, rtol=1e-5)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="runs folded there")
def test_units_see_the_images_that_chose_them(monkeypatch):
    pool = rk.ResidualPool(3, execution="chosen")
    scores = np.eye(4, dtype="float32")[[0, 2, 3, 2]]
    pool(IMAGES, scores)
    sizes, convolve = [], keras.ops.conv
    monkeypatch.setattr(
        keras.ops, "conv", lambda x, *args, **kwargs: sizes.append(len(x)) or convolve(x, *args, **kwargs)
    )
    outputs = pool(IMAGES, scores)
    assert sizes == [1, 1, 0, 0, 2, 2]
    np.testing.assert_array_equal(outputs[2], 0)


@pytest.mark.parametrize(("gpu", "form"), [(True, "grouped"), (False, "split")])
def test_auto_execution_depends_on_device_and_batch_norm(gpu, form, monkeypatch):
    def taken(pool, training):
        pool(IMAGES, SCORES, training=training)
        return forms.pop()

    forms = []
    monkeypatch.setattr(residual_pool, "has_gpu", lambda: gpu)
    for name in ("grouped", "split", "folded"):
        monkeypatch.setattr(residual_pool, name, lambda pool, x, *rest, name=name: forms.append(name) or x)
    assert taken(rk.ResidualPool(NUM_UNITS, execution="chosen"), training=True) == form
    pool = rk.ResidualPool(NUM_UNITS)
    assert taken(pool, training=True) == form
    assert taken(pool, training=False) == "folded"
    pool.fixed_statistics = True
    assert taken(pool, training=True) == "folded"
    pool.fixed_statistics, pool.trainable = False, False
    assert taken(pool, training=True) == "folded"


def test_xla_is_not_asked_to_compile_shapes_that_depend_on_the_scores():
    model = rk.ReSetNet((2,), input_shape=(8, 8, 1), scorer="top_k")
    assert keras.src.trainers.trainer.model_supports_jit(model)
    model.routed_modules[0].pool.execution = "chosen"
    assert keras.src.trainers.trainer.model_supports_jit(model) == (keras.backend.backend() == "jax")
    with pytest.raises(ValueError, match=r"`execution` must be one of .*'chosen'.* Received: execution='loop'"):
        model.routed_modules[0].pool.execution = "loop"


@pytest.mark.parametrize("execution", ["folded", "sparse"])
def test_executions_of_older_files_run_as_auto(execution):
    """A pool's config, and what the config of a `ReSetNet` says of its pools."""
    pool = rk.ResidualPool.from_config({**rk.ResidualPool(2).get_config(), "execution": execution})
    model = rk.ReSetNet((1,), input_shape=(8, 8, 1), width=4)
    config = model.get_config()
    config["pools"][0]["execution"] = execution
    loaded = rk.ReSetNet.from_config(config).routed_modules[0].pool
    assert (pool.execution, loaded.execution) == ("auto", "auto")


def stack(plain, gradients, num_units=NUM_UNITS):
    """Gradients of the weights of single units, side by side as a `ResidualPool` keeps its weights."""
    if not plain.pool.trainable:
        return gradients
    count = len(plain.pool.trainable_variables) // num_units
    units = [gradients[index * count : (index + 1) * count] for index in range(num_units)]
    conv1, gamma1, beta1, conv2, gamma2, beta2 = (np.concatenate(parts, axis=-1) for parts in zip(*units, strict=True))
    return [conv1, conv2, gamma1, beta1, gamma2, beta2, *gradients[num_units * count :]]
