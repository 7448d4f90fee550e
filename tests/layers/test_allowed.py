"""Masks of what an iteration may choose."""

import keras
import numpy as np
import pytest

import numpy_reference as reference
import reset_keras as rk
from frozen import ON_TENSORFLOW, assert_equal_at_every_batch_size, expected_of
from networks import (
    EAGERLY_ON_TENSORFLOW,
    LOSS,
    ONE_BACKEND,
    images_and_labels,
    one_module_reset,
    randomize,
    slow_on_jax,
    small_reset,
    user_model,
)
from reset_keras.losses.entropy import entropies
from reset_keras.losses.skip_reward import choice_log_probabilities

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 6)).astype("float32")
MASK = [[1, 0, 1], [0, 1, 1], [1, 1, 0]]
"""Of three iterations over two units and the zero unit."""


def masked_module(scorer="softmax", allowed=MASK, **options):
    module = rk.ReSet(2, 3, scorer=scorer, allowed=allowed, return_routes=True, **options)
    module(IMAGES)
    randomize(module)
    return module


def by_hand(module, score):
    """Algorithm 1 in numpy, by scores over the allowed choices only."""
    units = []
    for index in range(2):
        unit = rk.ResidualUnit(6, num_iterations=3)
        unit.build(IMAGES.shape)
        units.append(unit)
        take = slice(6 * index, 6 * index + 6)
        for ours, theirs in ((unit.norm1, module.pool.norm1), (unit.norm2, module.pool.norm2)):
            for name in ("gammas", "betas", "moving_means", "moving_variances"):
                for mine, stacked in zip(getattr(ours, name), getattr(theirs, name), strict=True):
                    mine.assign(np.array(stacked)[..., take])
        for conv, kernel in ((unit.conv1, module.pool.kernel1), (unit.conv2, module.pool.kernel2)):
            conv.kernel.assign(np.array(kernel)[..., take])
    x, state, all_scores = IMAGES.astype("float64"), (np.zeros((4, 64)),) * 2, []
    for k, row in enumerate(MASK):
        logits, state = reference.lstm_controller(module.controller, x, state)
        chosen = np.flatnonzero(row)
        scores = np.zeros((4, 3))
        scores[:, chosen] = score(logits[:, chosen])
        x = reference.relu(
            x
            + sum(scores[:, i, None, None, None] * reference.residual_unit(unit, x, k) for i, unit in enumerate(units))
        )
        all_scores.append(scores)
    return x, np.stack(all_scores, axis=1)


@pytest.mark.parametrize(
    ("scorer", "score"),
    [
        ("softmax", reference.softmax),
        (lambda: rk.SoftmaxScorer(0.5), lambda logits: reference.softmax(logits / 0.5)),
        ("gumbel_st", reference.one_hot_of_largest),
        (lambda: rk.TopKScorer(1), reference.top_k(1)),
    ],
)
def test_scores_are_those_of_the_allowed_choices(scorer, score):
    module = masked_module(scorer if isinstance(scorer, str) else scorer())
    output, routes = module(IMAGES, training=False)
    expected, scores = by_hand(module, score)
    np.testing.assert_allclose(routes["scores"], scores, atol=1e-4)
    np.testing.assert_allclose(output, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("scorer", ["gumbel_softmax", "gumbel_st", "hard"])
def test_noise_never_leads_to_a_choice_that_is_not_allowed(scorer):
    module = masked_module(scorer)
    module.controller.dense.set_weights([np.zeros((64, 3)), np.zeros(3)])
    forbidden = ~np.array(MASK, bool)
    scores = np.array(module(np.tile(IMAGES[:1], (80, 1, 1, 1)), training=True)[1]["scores"])
    assert np.all(scores[:, forbidden] == 0)
    assert len(np.unique(scores, axis=0)) > 1  # noise chooses among the others


def test_entropies_and_probabilities_are_of_the_allowed_choices():
    module = masked_module("hard")
    routes = module(IMAGES, training=False)[1]
    logits = np.array(routes["logits"])
    policies = [reference.softmax(logits[:, k, np.flatnonzero(row)]) for k, row in enumerate(MASK)]
    across = sum(-np.sum(p.mean(axis=0) * np.log(p.mean(axis=0))) for p in policies)
    within = sum(np.mean(-np.sum(p * np.log(p), axis=-1)) for p in policies)
    np.testing.assert_allclose(entropies([routes["logits"]]), (across, within), rtol=1e-5)
    taken = np.stack([np.log(p.max(axis=-1)) for p in policies], axis=1)
    np.testing.assert_allclose(choice_log_probabilities([logits], [routes["scores"]]), taken, rtol=1e-4)


def test_in_their_order_units_run_or_are_skipped():
    module = rk.ReSet(3, 3, scorer="gumbel_st", allowed="sequential", return_routes=True)
    module(IMAGES)
    randomize(module)
    output, routes = module(IMAGES, training=False)
    scores = np.array(routes["scores"])
    assert np.all(scores[..., :3].sum(axis=1) <= 1)
    x = IMAGES
    for k in range(3):
        runs = scores[:, k, k] == 1
        assert np.all(scores[:, k, k] + scores[:, k, 3] == 1)
        x = np.where(runs[:, None, None, None], x + keras.ops.convert_to_numpy(module.pool.run_unit(k, x, k)), x)
        x = np.maximum(x, 0)
    assert 0 < scores[..., 3].sum() < scores[..., 3].size
    np.testing.assert_allclose(output, x, rtol=1e-5, atol=1e-5)  # folded, against units one by one


@pytest.mark.parametrize("units", [2, lambda: [keras.layers.Dense(6), keras.layers.Dense(6)]])
def test_units_that_an_iteration_may_not_choose_are_not_computed(units):
    module = rk.ReSet(units if isinstance(units, int) else units(), 1, allowed=[[False, True, True]])
    module(IMAGES)
    if isinstance(units, int):
        module.pool.kernel1.assign(np.where(np.arange(12) < 6, np.nan, np.array(module.pool.kernel1)))
    else:
        module.pool.units[0].kernel.assign(np.full((6, 6), np.nan))
    assert np.isfinite(keras.ops.convert_to_numpy(module(IMAGES, training=True))).all()


def test_with_all_gates_open_it_is_the_resnet():
    """SkipNet with no unit skipped."""
    resnet = rk.ResNet((3,), 4, (8, 8, 1), width=4)
    randomize(resnet)
    reset = rk.resnet_to_reset(resnet, scorer="gumbel_st", allowed="sequential")
    for module in reset.routed_modules:
        module.controller.dense.bias.assign([100.0, 100.0, 0.0])
    images, _ = images_and_labels(8)
    np.testing.assert_allclose(expected_of(reset, images), expected_of(resnet, images), atol=1e-5)


@pytest.mark.parametrize(
    ("scorer", "allowed"),
    [
        ("softmax", [[1, 0, 1], [1, 1, 0]]),
        ("gumbel_st", "sequential"),
        pytest.param("gumbel_st", [[1, 0, 1], [1, 1, 0]], marks=ONE_BACKEND),
        pytest.param(rk.TopKScorer(2), [[1, 0, 1], [1, 1, 0]], marks=ONE_BACKEND),
    ],
)
def test_frozen_it_computes_the_same(scorer, allowed):
    model = user_model(scorer=scorer, allowed=allowed)
    randomize(model)
    for execution in ("auto", "dense") if ON_TENSORFLOW and scorer == "gumbel_st" else ("auto",):
        assert_equal_at_every_batch_size(rk.inference.freeze(model, execution), model)


@slow_on_jax
def test_it_is_trained_saved_loaded_and_given_another_scorer(tmp_path):
    images, labels = images_and_labels()
    model = one_module_reset("gumbel_st", allowed="sequential")
    randomize(model)
    model.compile("sgd", LOSS, skip_reward=rk.SkipReward(0.1), **EAGERLY_ON_TENSORFLOW)
    model.fit(images, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(expected_of(loaded, images), expected_of(model, images), atol=1e-5)
    soft = np.array(rk.with_scorer(loaded, "softmax")(images[:2], return_routes=True).routes[0]["scores"])
    np.testing.assert_array_equal(soft > 0, np.broadcast_to([[1, 0, 1], [0, 1, 1]], soft.shape))


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        ("all", "'any', 'sequential' or booleans of the shape"),
        ([[1, 1, 1]], r"booleans of the shape \(3, 3\)"),
        ([[1, 1, 1], [1, 1], [1, 1, 1]], "a column for each score"),
        ([[1, 1, 1], [0.5, 1, 1], [1, 1, 1]], "booleans"),
        ([[1, 1, 1], [0, 0, 0], [1, 1, 1]], r"none in iterations \[1\]"),
        ("sequential", "2 units and 3 iterations"),
        (None, "'any'"),
    ],
)
def test_masks_that_make_no_sense_are_refused(allowed, message):
    with pytest.raises(ValueError, match=message):
        rk.ReSet(2, 3, allowed=allowed)


def test_a_pool_that_makes_something_else_of_its_units_is_asked_itself():
    class Tenfold(rk.layers.UnitPool):
        def call(self, inputs, scores, iteration=0):
            return 10.0 * super().call(inputs, scores, iteration)

    units = [keras.layers.Dense(6, kernel_initializer="identity") for _ in range(2)]
    first_only = {"zero_unit": False, "activation": None, "allowed": [[True, False]]}
    module = rk.ReSet(Tenfold(units), 1, rk.FixedController(2, [0]), **first_only)
    np.testing.assert_allclose(module(IMAGES), 11.0 * IMAGES, rtol=1e-5)


def test_a_mask_of_numpy_is_kept_in_a_file(tmp_path):
    mask = np.array([[True, False, True], [True, True, True]])
    model = one_module_reset("gumbel_st", allowed=mask)
    randomize(model)
    model.save(tmp_path / "model.keras")
    images, _ = images_and_labels(4)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.routed_modules[0].allowed.mask, mask)
    np.testing.assert_allclose(expected_of(loaded, images), expected_of(model, images), atol=1e-6)


def test_modules_may_have_masks_of_their_own(tmp_path):
    mask = [[True, False, True], [False, True, False]]
    for allowed in (["sequential", mask], [mask, "any"], [mask, np.array(mask)]):
        model = small_reset("hard", allowed=allowed)
        for module, entry in zip(model.routed_modules, allowed, strict=True):
            expected = entry if isinstance(entry, str) else np.array(entry).tolist()
            assert module.allowed.config == expected
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        for ours, theirs in zip(loaded.routed_modules, model.routed_modules, strict=True):
            np.testing.assert_array_equal(ours.allowed.mask, theirs.allowed.mask)
    assert small_reset("hard", allowed=[mask, mask]).allowed == mask


@pytest.mark.parametrize("allowed", [[], [[]], [[], []], [np.array(True)] * 2, [[[True], [True, False]]] * 2])
def test_lists_that_are_no_masks(allowed):
    with pytest.raises(ValueError, match="allowed"):
        small_reset("hard", allowed=allowed)


@pytest.mark.parametrize("allowed", [["any"], ["any", "any", "any"], [MASK[:2]] * 3])
def test_a_list_of_masks_has_one_for_each_module(allowed):
    with pytest.raises(ValueError, match=f"each of the 2 modules. Received: {len(allowed)} entries"):
        small_reset("hard", allowed=allowed)


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ("sequential", True),
        ([[1, 0, 1], [0, 1, 0]], True),
        ([[0, 0, 1], [0, 1, 1]], True),
        ([[1, 1, 1], [0, 1, 1]], False),
        ("any", False),
    ],
)
def test_whether_a_mask_keeps_the_order(allowed, expected):
    assert rk.ReSet(2, 2, allowed=allowed).allowed.is_sequential == expected


def test_a_controller_that_looks_at_the_mask_is_frozen():
    class InOrderOnly(rk.GateController):
        def check_module(self, module):
            super().check_module(module)
            if not module.allowed.is_sequential:
                raise ValueError("only in order")

    model = user_model(controller=InOrderOnly(3, 2), scorer="gumbel_st", allowed="sequential")
    assert_equal_at_every_batch_size(rk.inference.freeze(model), model)


def test_a_controller_that_runs_units_in_order_keeps_the_mask():
    class InOrder(rk.FixedController):
        runs_in_order = True

    mask = [[True, False, True], [False, False, True]]
    module = rk.ReSet(2, 2, InOrder(3, [0, 2]), "hard", allowed=mask)
    np.testing.assert_array_equal(module.allowed.mask, mask)
    assert rk.ReSet(2, 2, InOrder(3, [0, 2]), "hard").allowed.config == "sequential"


def test_a_fixed_route_must_be_allowed():
    with pytest.raises(ValueError, match="unit 1 in iteration 0"):
        rk.ReSet(2, 2, rk.FixedController(3, [1, 1]), allowed="sequential")
