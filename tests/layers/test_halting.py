"""Halting by ACT and SACT, against the equations of Graves 2016 and Figurnov et al. 2017 in numpy."""

import keras
import numpy as np
import pytest

import numpy_reference as reference
import reset_keras as rk
from frozen import IMAGES as INPUTS
from frozen import LABELS, ON_TENSORFLOW, assert_equal_at_every_batch_size, expected_of, outputs_of
from gradient import gradient_of
from networks import (
    EAGERLY_ON_TENSORFLOW,
    LOSS,
    ONE_BACKEND,
    one_module_reset,
    randomize,
    spread_scores,
    user_model,
)
from reset_keras.inference.frozen import active_positions
from reset_keras.losses.ponder_cost import halting_sum

IMAGES = np.random.default_rng(0).normal(size=(12, 5, 5, 6)).astype("float32")
EPSILON = 0.01
STATE = (np.zeros((2, 1, 1, 1), "float32"), np.ones((2, 1, 1, 1), "float32"))


def in_order(units=4):
    return {"controller": rk.FixedController(units + 1, range(units)), "scorer": "hard", "allowed": "sequential"}


def again_and_again(iterations=4):
    """IamNN: one unit, until halted."""
    return {"controller": rk.FixedController(2, [0] * iterations), "scorer": "hard"}


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


def numpy_of(x):
    return keras.ops.convert_to_numpy(x)


def routes_of(model):
    """As `predict_routes` returns them, which would compile the network first."""
    routes = model(INPUTS, training=False, return_routes=True).routes
    return [{name: numpy_of(part) for name, part in module.items()} for module in routes]


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


def halting_network(halting="act", images=INPUTS, **options):
    """Three units in order, or any others, halting at different iterations."""
    for seed in range(20):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((8, 8, 1))
        x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
        x, routes = rk.ReSet(3, 3, **(options or in_order(3)), halting=halting, return_routes=True)(x)
        outputs = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x))
        model = randomize(rk.RoutedModel(inputs, outputs, routes=[routes]), seed)
        spread_scores(model.routed_modules[0], model.layers[1](images))
        iterations = np.array(model(images, return_routes=True).routes[0]["active"]).sum(axis=1)
        if len(np.unique(iterations[:7])) > 2:
            return model
    raise AssertionError


@pytest.mark.parametrize(
    ("halting", "scorer"),
    [
        pytest.param("act", None, marks=ONE_BACKEND),
        ("sact", None),
        ("act", "gumbel_st"),
        pytest.param("sact", "softmax", marks=ONE_BACKEND),
    ],
)
def test_frozen_it_computes_the_same(halting, scorer):
    """In order, by chosen units and by all units; only in order may positions be left out."""
    model = halting_network(halting, **({} if scorer is None else {"scorer": scorer}))
    frozen = rk.inference.freeze(model)
    assert_equal_at_every_batch_size(frozen, model)
    if ON_TENSORFLOW and scorer is None:
        assert_equal_at_every_batch_size(rk.inference.freeze(model, "dense"), model)
    expected = model(INPUTS[:7], training=False, return_routes=True).routes[0]
    returned = frozen.graph(INPUTS[:7])["routes"]["module_0"]
    assert set(returned) == set(expected) == {"active", "logits", "ponder", "scores"}
    for name, part in expected.items():
        np.testing.assert_allclose(numpy_of(returned[name]), part, atol=1e-3, rtol=1e-4)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="other backends compute all positions")
@pytest.mark.parametrize("pays", [True, False])
def test_frozen_sact_computes_only_the_active_positions_where_that_pays(pays, monkeypatch):
    import tensorflow as tf

    from reset_keras.inference.frozen import frozen_reset

    model, runs = halting_network("sact"), []
    for kernel in model.routed_modules[0].halting.convolutions:
        kernel.assign(
            np.random.default_rng(0).normal(size=kernel.shape)
        )  # or positions of an image would halt together

    def noted(x, weights, dtype, active):
        tf.py_function(lambda share: runs.append(float(share)), [tf.reduce_mean(active)], [])
        return active_positions.residual_at(x, weights, dtype, active)

    monkeypatch.setattr(frozen_reset, "pays", lambda active, channels: tf.constant(pays))
    monkeypatch.setattr(frozen_reset, "residual_at", noted)
    assert_equal_at_every_batch_size(rk.inference.freeze(model), model)
    assert bool(runs) is pays
    assert not pays or any(0.1 < share < 0.9 for share in runs)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="other backends compute all positions")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_unit_at_some_positions_is_that_of_numpy_there(dtype):
    rng = np.random.default_rng(0)
    active = (rng.random((*IMAGES.shape[:3], 1)) < 0.2).astype("float32")
    weights = [rng.normal(0, 0.3, shape).astype("float32") for shape in ((3, 3, 6, 6), (6,)) * 2]
    kernel1, bias1, kernel2, bias2 = weights
    unit = reference.conv3x3(reference.relu(reference.conv3x3(IMAGES, kernel1) + bias1), kernel2) + bias2
    found = numpy_of(active_positions.residual_at(keras.ops.cast(IMAGES, dtype), weights, dtype, active))
    np.testing.assert_allclose(found, unit * active, atol=1e-4 if dtype == "float32" else 0.15)
    assert np.abs(unit).max() > 10


@pytest.mark.skipif(not ON_TENSORFLOW, reason="other backends compute all positions")
def test_few_positions_of_many_channels_pay():
    few, many = (np.where(np.arange(100) < count, 1.0, 0.0).reshape(1, 10, 10, 1) for count in (12, 45))
    limits = [[bool(active_positions.pays(active, channels)) for channels in (16, 32, 64)] for active in (few, many)]
    assert limits == [[False, True, True], [False, False, False]]


@pytest.mark.skipif(not ON_TENSORFLOW, reason="in order, other backends compute a unit for all images")
@pytest.mark.parametrize("halting", ["act", "sact"])
def test_frozen_it_computes_no_unit_that_no_image_runs(halting):
    model = user_model(**in_order(2), halting=halting)
    randomize(model)
    module = model.routed_modules[0]
    module.halting.biases[0].assign([50.0])
    expected = expected_of(model)
    module.pool.kernel1.assign(np.where(np.arange(8) >= 4, np.nan, np.array(module.pool.kernel1)))
    frozen = rk.inference.freeze(model)
    for size in (1, 7):
        np.testing.assert_allclose(outputs_of(frozen, INPUTS[:size]), expected[:size], atol=1e-4)


@pytest.mark.parametrize("halting", ["act", "sact"])
def test_compute_fractions_are_those_counted_by_hand(halting):
    model = halting_network(halting)
    routes = routes_of(model)
    active = routes[0]["active"]
    unit, convolution, head = 2 * 9 * 4 * 4 * 64, 9 * 4 * 64, 16
    scores = 2 * (4 + (9 * 4 * 64 if halting == "sact" else 0))
    expected = (convolution + head + scores + active.sum(axis=1) * unit) / (convolution + head + 3 * unit)
    np.testing.assert_allclose(rk.inference.compute_fractions(model, routes), expected, rtol=1e-6)
    counted = rk.models.operations.count_operations(model.network, model.routed_modules)
    np.testing.assert_allclose(counted.expected_fractions(routes), expected, rtol=1e-5)
    assert np.std(expected) > 0


def compiled(model, weight, rate=0.05, **options):
    model.compile(keras.optimizers.SGD(rate), LOSS, ponder_cost=rk.PonderCost(weight), **options)
    return model


def test_the_ponder_cost_is_a_term_of_the_loss():
    model = compiled(halting_network(), 0.3, **EAGERLY_ON_TENSORFLOW)
    logs = model.evaluate(INPUTS, LABELS, batch_size=32, verbose=0, return_dict=True)
    routes = routes_of(model)
    np.testing.assert_allclose(logs["ponder_cost"], routes[0]["ponder"].sum(axis=1).mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["iterations"], routes[0]["active"].sum(axis=1).mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], logs["task_loss"] + 0.3 * logs["ponder_cost"], rtol=1e-5)
    model.ponder_cost.weight.assign(1.0)
    logs = model.evaluate(INPUTS, LABELS, batch_size=32, verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["loss"], logs["task_loss"] + logs["ponder_cost"], rtol=1e-5)
    twice = [{name: keras.ops.convert_to_tensor(part) for name, part in route.items()} for route in routes * 2]
    del routes[0]["ponder"]
    without = {name: keras.ops.convert_to_tensor(part) for name, part in routes[0].items()}
    np.testing.assert_allclose(halting_sum([*twice, without], "ponder"), 2 * logs["ponder_cost"], rtol=1e-5)


def test_a_large_ponder_cost_leaves_one_iteration_and_none_all():
    inputs = keras.Input((8, 8, 1))
    x, routes = keras.layers.Conv2D(4, 3, padding="same")(inputs), []
    for halting in ("act", "sact"):
        x, route = rk.ReSet(2, 2, **in_order(2), halting=halting, return_routes=True)(x)
        routes.append(route)
    outputs = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x))
    model = compiled(rk.RoutedModel(inputs, outputs, routes=routes), 0.0, 0.3)
    iterations = []
    for weight in (0.0, 30.0):
        model.ponder_cost.weight.assign(weight)
        model.fit(INPUTS, LABELS, epochs=8, verbose=0)
        iterations.append([float(module["active"].sum(axis=1).mean()) for module in routes_of(model)])
    assert iterations[0] == [2.0, 2.0]
    assert max(iterations[1]) < 1.1


def test_it_is_trained_saved_loaded_and_given_another_scorer(tmp_path):
    reset = randomize(one_module_reset("gumbel_st", halting=rk.ACT(0.05, -1.0)))
    model = compiled(reset, 0.25, **EAGERLY_ON_TENSORFLOW)
    model.fit(INPUTS, LABELS, verbose=0)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    halting = loaded.routed_modules[0].halting
    assert (type(halting), halting.epsilon, halting.bias, halting.num_iterations) == (rk.ACT, 0.05, -1.0, 2)
    assert float(loaded.ponder_cost.weight) == 0.25
    before, after = (routes_of(network) for network in (model, loaded))
    for name in before[0]:
        np.testing.assert_allclose(after[0][name], before[0][name], atol=1e-5)
    loaded.fit(INPUTS, LABELS, verbose=0)
    soft = rk.with_scorer(loaded, "softmax")
    np.testing.assert_array_equal(
        soft.routed_modules[0].halting.kernels[0], loaded.routed_modules[0].halting.kernels[0]
    )
    assert "active" in soft(INPUTS[:2], return_routes=True).routes[0]


def test_routes_are_found_in_a_users_model_and_kept_in_files(tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = rk.ReSet(2, 2, halting="act", return_routes=True)(keras.layers.Conv2D(4, 3)(inputs))[0]
    model = rk.RoutedModel(inputs, keras.layers.Flatten()(x))
    routes = rk.analysis.collect_routes(model, INPUTS)
    routes.save(tmp_path / "routes.npz")
    again = rk.analysis.Routes.load(tmp_path / "routes.npz")
    assert set(again.modules[0]) == {"scores", "active", "ponder"}
    np.testing.assert_allclose(again.modules[0]["ponder"], routes.modules[0]["ponder"], atol=1e-3)


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


def test_a_module_whose_routes_are_not_known_cannot_pay():
    inputs = keras.Input((8, 8, 4))
    x = rk.ReSet(2, 2, halting="act", name="unknown")(inputs)
    x, routes = rk.ReSet(2, 2, halting="act", name="known", return_routes=True)(x)
    model = rk.RoutedModel(inputs, keras.layers.Flatten()(x), routes=[routes])
    with pytest.raises(ValueError, match=r"\['unknown'\] have halting, and pay"):
        model.compile("sgd", LOSS, ponder_cost=rk.PonderCost(0.1))


def test_features_without_positions_halt_by_act():
    features = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    module = rk.ReSet([keras.layers.Dense(6), keras.layers.Dense(6)], 3, halting="act", return_routes=True)
    output, routes = module(features)
    assert output.shape == (5, 6)
    np.testing.assert_array_equal(routes["active"], np.ones((5, 3)))


def test_halting_scores_are_trained_with_the_controllers():
    model = user_model(halting="act")
    rk.training.train_all_but_controllers(model)
    assert not [weight.path for weight in model.trainable_variables if "halting" in weight.path]
    rk.training.train_only_controllers(model)
    groups = {weight.path.split("/")[1] for weight in model.trainable_variables}
    assert groups == {"controller", "halting"}


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
