"""Halting by ACT and SACT, against the equations of Graves 2016 and Figurnov et al. 2017 in numpy."""

import keras
import numpy as np
import pytest

import numpy_reference as reference
import reset_keras as rk
from frozen import IMAGES as INPUTS
from gradient import gradient_of
from halting_networks import again_and_again, in_order
from networks import LOSS, randomize, slow_on_jax, spread_scores, user_model

IMAGES = np.random.default_rng(0).normal(size=(12, 5, 5, 6)).astype("float32")
EPSILON = 0.01
STATE = (np.zeros((2, 1, 1, 1), "float32"), np.ones((2, 1, 1, 1), "float32"))


def halting_module(halting="act", units=4, **options):
    """A module and the units that its pool holds."""
    keras.utils.set_random_seed(0)
    module = rk.ReSet(units, 4, **(options or in_order()), halting=halting, return_routes=True)
    module(IMAGES)
    singles = [rk.ResidualUnit(6, num_iterations=4) for _ in range(units)]
    for index, unit in enumerate(singles):
        unit.build(IMAGES.shape)
        randomize(unit, seed=index)
        module.pool.load_unit(index, unit)
    spread_scores(module, IMAGES)
    return module, singles


def act_by_hand(module, units):
    """ACT, image by image: all features first, then what the equations make of them."""
    outputs, active, ponder = [], [], []
    for image in IMAGES.astype("float64"):
        x, features, scores = image[None], [], []
        for k in range(4):
            x = reference.relu(x + reference.residual_unit(units[k % len(units)], x, k))
            features.append(x[0])
            scores += [reference.act_scores(module.halting, x, k)[0]] if k < 3 else []
        n, remainder, p = reference.act(scores, EPSILON)
        outputs.append(sum(weight * x for weight, x in zip(p, features, strict=True)))
        active.append([1.0] * n + [0.0] * (4 - n))
        ponder.append([1.0] * (n - 1) + [1.0 + remainder] + [0.0] * (4 - n))
    return np.stack(outputs), np.array(active), np.array(ponder)


def sact_by_hand(module, units):
    """SACT, position by position."""
    shape = IMAGES.shape[:3]
    x, features, all_scores = IMAGES.astype("float64"), [], []
    halted = np.zeros(shape, bool)
    for k, unit in enumerate(units):
        updated = reference.relu(x + reference.residual_unit(unit, x, k))
        x = np.where(halted[..., None], x, updated)
        features.append(x)
        if k < 3:
            all_scores.append(reference.sact_scores(module.halting, x, k))
            for place in np.ndindex(shape):
                halted[place] |= sum(scores[place] for scores in all_scores) >= 1 - EPSILON
    outputs, active, ponder = np.zeros(IMAGES.shape), np.zeros((*shape, 4)), np.zeros((*shape, 4))
    for place in np.ndindex(shape):
        n, remainder, p = reference.act([scores[place] for scores in all_scores], EPSILON)
        outputs[place] = sum(weight * x[place] for weight, x in zip(p, features, strict=True))
        active[place][:n] = 1
        ponder[place][:n] = 1
        ponder[place][n - 1] += remainder
    assert {1, 2, 3, 4} <= set(active.sum(axis=-1).ravel().astype(int))
    return outputs, active.mean(axis=(1, 2)), ponder.mean(axis=(1, 2))


BY_HAND = {"act": act_by_hand, "sact": sact_by_hand}


def assert_is_by_hand(module, units, halting):
    output, routes = module(IMAGES, training=False)
    expected, active, ponder = BY_HAND[halting](module, units)
    np.testing.assert_allclose(routes["active"], active, atol=1e-6)
    np.testing.assert_allclose(routes["ponder"], ponder, atol=1e-5)
    np.testing.assert_allclose(output, expected, atol=1e-4, rtol=1e-4)
    return active, np.array(routes["scores"])


@pytest.mark.parametrize("unrolled", [False, True])
def test_act_is_that_of_the_papers(unrolled):
    module, units = halting_module(units=1, **again_and_again()) if unrolled else halting_module()
    active, scores = assert_is_by_hand(module, units, "act")
    assert len(set(active.sum(axis=1))) >= 3  # images halt at different iterations
    for k in range(4):
        np.testing.assert_array_equal(scores[:, k, k % len(units)], active[:, k])
    np.testing.assert_array_equal(scores[..., -1], 1 - active)


def test_sact_is_that_of_the_paper_at_each_position():
    module, units = halting_module("sact")
    active, scores = assert_is_by_hand(module, units, "sact")
    np.testing.assert_array_equal(scores[..., -1], active == 0)


def test_the_gradient_of_the_ponder_cost_is_minus_one_by_each_score_before_the_last():
    logits = np.array([[-1.0, -0.5, 2.0, 0.3], [3.0, 3.0, 3.0, 3.0]], "float32")  # N is 3 for one, 2 for the other
    halting = rk.ACT(bias=0.0, num_iterations=5)
    halting.build((2, 4))

    def cost(logits):
        state, total = [part[:, :, 0, 0] for part in STATE], 0.0
        for k in range(5):
            halting.logits = lambda *_, k=k: logits[:, k : k + 1]
            (_, _, ponder), state = halting.call(logits, state, k)
            total = total + ponder
        return keras.ops.sum(total)

    h = reference.sigmoid(logits)
    slope = h * (1 - h)
    expected = np.where([[1, 1, 0, 0], [1, 0, 0, 0]], -slope, 0)
    np.testing.assert_allclose(cost(logits), 3 + 1 - h[0, :2].sum() + 2 + 1 - h[1, 0], rtol=1e-5)
    np.testing.assert_allclose(gradient_of(cost, logits), expected, atol=1e-6)
    step = 1e-2 * np.eye(8, dtype="float32").reshape(8, 2, 4)
    differences = [(float(cost(logits + d)) - float(cost(logits - d))) / 2e-2 for d in step]
    np.testing.assert_allclose(np.reshape(differences, (2, 4)), expected, atol=1e-3)


@pytest.mark.parametrize("halting", ["act", "sact"])
def test_gradients_are_those_of_finite_differences(halting):
    """Of the equations in float64, by steps so small that no N changes."""
    module, units = halting_module(halting)
    upstream = np.random.default_rng(5).normal(size=IMAGES.shape).astype("float32")
    biases = module.halting.biases

    def loss(bias, call, total):
        module.halting.biases = [bias, *biases[1:]]
        output, ponder = call()
        module.halting.biases = biases
        return total(output * upstream) + total(ponder)

    def ours():
        output, routes = module(IMAGES, training=False)
        return output, routes["ponder"]

    def by_hand():
        output, _, ponder = BY_HAND[halting](module, units)
        return output, ponder

    bias, step = np.array(biases[0]), 1e-6
    up, down = (loss(bias.astype("float64") + end, by_hand, np.sum) for end in (step, -step))
    gradient = gradient_of(lambda bias: loss(bias, ours, keras.ops.sum), bias)
    np.testing.assert_allclose(gradient[0], (up - down) / (2 * step), rtol=1e-3)


def test_at_its_limits():
    module, units = halting_module()
    for kernel, bias in zip(module.halting.kernels, module.halting.biases, strict=True):
        kernel.assign(np.zeros(kernel.shape))
        bias.assign([-30.0])
    output, routes = module(IMAGES, training=False)
    x = IMAGES
    for k, unit in enumerate(units):
        x = keras.ops.relu(x + unit(x, iteration=k))
    np.testing.assert_allclose(output, x, atol=1e-5)  # the remainder of 1 is the last features'
    np.testing.assert_allclose(routes["ponder"], [[1, 1, 1, 2]] * 12, atol=1e-6)
    for bias in module.halting.biases:
        bias.assign([30.0])
    output, routes = module(IMAGES, training=False)
    np.testing.assert_allclose(output, keras.ops.relu(IMAGES + units[0](IMAGES)), atol=1e-5)
    np.testing.assert_allclose(routes["ponder"], [[2, 0, 0, 0]] * 12, atol=1e-6)


@slow_on_jax
@pytest.mark.parametrize("scorer", ["softmax", "gumbel_softmax", "gumbel_st", "hard", "top_k"])
def test_images_that_have_halted_run_the_zero_unit_whatever_the_scorer_and_mask(scorer):
    mask = [[True, True, False]] * 4  # the zero unit may be forbidden otherwise
    module, _ = halting_module(units=2, controller="rnn", scorer=scorer, allowed=mask)
    module.halting.logits = lambda *_: np.linspace(-2, 6, 12, dtype="float32").reshape(-1, 1, 1, 1)
    _, routes = module(IMAGES, training=True)
    active, scores = np.array(routes["active"]), np.array(routes["scores"])
    assert set(active.sum(axis=1)) == {1, 2, 3, 4}
    np.testing.assert_array_equal(scores[active == 0][:, :-1], 0)
    # A softmax of one large logit is 1, less the last digit on some processors.
    np.testing.assert_allclose(scores[active == 0][:, -1], 1, rtol=2**-23)
    assert np.all(scores[active == 1][:, 2] == 0)
    np.testing.assert_array_equal(np.array(routes["logits"])[active == 0].argmax(axis=-1), 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"halting": "act", "zero_unit": False}, "needs zero_unit=True"),
        ({"halting": "acts"}, "one of \\['act', 'sact'\\]"),
        ({"halting": 0.01}, "one of"),
        ({"halting": rk.ACT(num_iterations=3)}, "module's 2 iterations"),
        (
            {"halting": "act", "controller": rk.HaltingController(3), "scorer": rk.HardScorer(sampled=False)},
            "either it or `halting`",
        ),
    ],
)
def test_modules_that_cannot_halt_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        rk.ReSet(2, 2, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rk.ACT(epsilon=0.0), "above 0, below 1"),
        (lambda: rk.SACT(epsilon=1.0), "above 0, below 1"),
        (lambda: rk.ACT(bias="low"), "`bias` must be a finite number"),
        (lambda: rk.ACT(num_iterations=0), "at least 1"),
        (lambda: rk.ACT()(IMAGES, STATE), "give it `num_iterations`"),
        (lambda: rk.PonderCost(-0.1), "at least 0"),
        (lambda: rk.PonderCost(float("nan")), "finite number"),
        (lambda: user_model().compile("sgd", LOSS, ponder_cost=rk.PonderCost(0.1)), "needs modules with halting"),
        (lambda: user_model(halting="act").compile("sgd", LOSS), r"rk.PonderCost\(0.01\)"),
        (
            lambda: rk.ReSet([keras.layers.Dense(6), keras.layers.Dense(6)], 2, halting="sact")(keras.Input((6,))),
            "features with positions",
        ),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_features_without_positions_halt_by_act():
    features = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    module = rk.ReSet([keras.layers.Dense(6), keras.layers.Dense(6)], 3, halting="act", return_routes=True)
    output, routes = module(features)
    assert output.shape == (5, 6)
    np.testing.assert_array_equal(routes["active"], np.ones((5, 3)))


def test_routes_that_halt_are_not_pruned():
    reset = rk.ReSetNet((2,), None, 4, (8, 8, 1), scorer="gumbel_st", width=4, halting="act")
    with pytest.raises(ValueError, match=r"\['stage0_reset'\] with halting"):
        rk.training.prune_routes(reset, INPUTS, 1.0)


def test_routes_of_halting_are_given_whole():
    inputs = keras.Input((8, 8, 4))
    x, routes = rk.ReSet(2, 2, scorer="gumbel_st", halting="act", return_routes=True)(inputs)
    outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))
    with pytest.raises(ValueError, match=r"without \['active', 'ponder'\]"):
        rk.RoutedModel(inputs, outputs, routes=[{name: routes[name] for name in ("logits", "scores")}])
