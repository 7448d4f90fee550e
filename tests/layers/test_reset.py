import warnings

import keras
import numpy as np
import pytest

import numpy_reference as reference
import reset_keras as rk
from networks import EAGERLY_ON_TENSORFLOW, LOSS, NormedUnit

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 6)).astype("float32")


@keras.saving.register_keras_serializable("tests")
class TwoLayers(rk.Controller):
    """No `build`: a dense layer for each of two iterations. The state is the largest feature so far, smoothed.

    Of the largest itself JAX's gradient is not a number where XLA computes features a second time, rounded otherwise.
    """

    def __init__(self, num_scores, **kwargs):
        super().__init__(num_scores, **kwargs)
        self.layers = [keras.layers.Dense(num_scores) for _ in range(2)]

    def initial_state(self, batch_size):
        return [keras.ops.zeros((batch_size, 1))]

    def call(self, inputs, state, iteration=0):
        largest = keras.ops.maximum(state[0], keras.ops.logsumexp(inputs, axis=(1, 2, 3))[:, None])
        return self.layers[iteration](keras.ops.mean(inputs, axis=(1, 2))) + largest, [largest]


class Returns(rk.Controller):
    """Returns what it was made with."""

    def __init__(self, decide):
        super().__init__(3)
        self.decide = decide

    def call(self, inputs, state, iteration=0):
        return self.decide(inputs, state)


def randomize(layer, seed=1):
    """Weights away from their initial values, so that no two units or iterations agree by chance."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        if "variance" in weight.name or "gamma" in weight.name:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif "temperature" not in weight.name:
            weight.assign(np.array(weight) + rng.normal(0, 0.1, weight.shape))


def module_with_units(scorer, num_units=3, num_iterations=3):
    """A module, and the single units that its pool holds."""
    module = rk.ReSet(num_units, num_iterations, scorer=scorer, return_routes=True)
    module(IMAGES)
    units = [rk.ResidualUnit(6, num_iterations=num_iterations) for _ in range(num_units)]
    for index, unit in enumerate(units):
        unit.build(IMAGES.shape)
        randomize(unit, seed=index)
        module.pool.load_unit(index, unit)
    randomize(module.controller)
    return module, units


@pytest.mark.parametrize(
    ("scorer", "score"),
    [
        ("softmax", reference.softmax),
        ("gumbel_softmax", reference.softmax),
        ("gumbel_st", reference.one_hot_of_largest),
        ("hard", reference.one_hot_of_largest),
        (lambda: rk.TopKScorer(2), reference.top_k(2)),
        (lambda: rk.SoftmaxScorer(0.5), lambda logits: reference.softmax(logits / 0.5)),
    ],
)
def test_is_algorithm_1(scorer, score):
    module, units = module_with_units(scorer if isinstance(scorer, str) else scorer())
    output, routes = module(IMAGES, training=False)
    expected, logits, scores = reference.reset(units, module.controller, score, IMAGES.astype("float64"), 3)
    np.testing.assert_allclose(routes["logits"], logits, atol=1e-4)
    np.testing.assert_allclose(routes["scores"], scores, atol=1e-4)
    np.testing.assert_allclose(output, expected, atol=1e-3, rtol=1e-4)


def test_the_state_starts_anew_with_every_call():
    module, _ = module_with_units("softmax")
    np.testing.assert_array_equal(module(IMAGES)[1]["logits"], module(IMAGES)[1]["logits"])


@pytest.mark.parametrize("zero_unit", [True, False])
def test_the_zero_unit_does_nothing(zero_unit):
    module = rk.ReSet(2, 3, rk.FixedController(2 + zero_unit, [1 + zero_unit] * 3), "hard", zero_unit)
    output = keras.ops.convert_to_numpy(module(IMAGES, training=False))
    unchanged = np.array_equal(output, np.maximum(IMAGES, 0))
    assert unchanged == zero_unit


def test_on_the_sequential_route_it_is_the_stage_of_a_resnet():
    module, units = module_with_units(rk.SoftmaxScorer())
    sequential = rk.ReSet(module.pool, 3, rk.FixedController(4, [0, 1, 2]))
    x = IMAGES
    for iteration, unit in enumerate(units):
        x = keras.ops.relu(x + unit(x, iteration=iteration))
    np.testing.assert_allclose(sequential(IMAGES, training=False), x, atol=1e-5)


def test_a_list_of_units_computes_what_the_stacked_pool_does():
    module, units = module_with_units("softmax")
    listed = rk.ReSet(units, 3, module.controller, "softmax", return_routes=True)
    stacked_output, stacked_routes = module(IMAGES, training=True)
    listed_output, listed_routes = listed(IMAGES, training=True)
    np.testing.assert_allclose(stacked_output, listed_output, atol=1e-4)
    np.testing.assert_allclose(stacked_routes["scores"], listed_routes["scores"], atol=1e-5)
    for index, unit in enumerate(units):
        own = slice(6 * index, 6 * index + 6)
        for k in range(3):
            np.testing.assert_allclose(
                np.array(module.pool.norm2.moving_variances[k])[own], unit.norm2.moving_variances[k], atol=1e-5
            )


def test_other_units_than_convolutions():
    tokens = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    module = rk.ReSet([keras.layers.Dense(8), keras.layers.EinsumDense("abc,cd->abd", (5, 8))], 2, activation=None)
    assert module(tokens).shape == (2, 5, 8)
    first, second = (keras.ops.convert_to_numpy(unit(tokens)) for unit in module.pool.units)
    scores = np.array([[0.25, 0.5, 0.25], [0.0, 1.0, 0.0]], "float32")
    expected = scores[:, 0, None, None] * first + scores[:, 1, None, None] * second
    np.testing.assert_allclose(module.pool(tokens, scores), expected, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_an_update_outside_of_a_call_is_told_whether_it_is_training(training):
    module, _ = module_with_units("softmax")
    means, kernel = module.pool.norm1.moving_means[1], module.pool.kernel1
    batch = keras.ops.conv(IMAGES, kernel, padding="same", data_format="channels_last")
    expected = 0.9 * np.array(means) + 0.1 * np.mean(batch, axis=(0, 1, 2)) if training else np.array(means)
    module.update(IMAGES, np.ones((4, 4), "float32"), 1, training=training)
    np.testing.assert_allclose(means, expected, atol=1e-6)


@pytest.mark.parametrize("controller", ["rnn", "policy"])
def test_a_new_controller_has_the_weights_shapes_where_the_module_was_called_on_arrays(controller):
    module = rk.ReSet(2, 2, controller)
    with pytest.raises(ValueError, match=f"Received: '{module.name}', which is not built"):
        module.new_controller()
    module(IMAGES, *([IMAGES[:, 0, 0]] if controller == "policy" else []))
    old, new = module.controller, module.new_controller()
    assert [weight.shape for weight in new.weights] == [weight.shape for weight in old.weights]
    assert not np.array_equal(old.dense.kernel, new.dense.kernel)


def test_noise_at_training_only():
    module, _ = module_with_units("gumbel_softmax")
    scores = [np.array(module(IMAGES, training=training)[1]["scores"]) for training in (True, True, False, False)]
    assert not np.allclose(scores[0], scores[1])
    np.testing.assert_array_equal(scores[2], scores[3])


@pytest.mark.slow
def test_a_controller_without_build_is_trained_and_saved(tmp_path):
    inputs = keras.Input(IMAGES.shape[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, routes = rk.ReSet(2, 2, TwoLayers(3), return_routes=True)(inputs)
    model = rk.RoutedModel(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)), routes=[routes])
    (module,) = model.routed_modules
    before = module.controller.get_weights()
    assert [weight.shape for weight in before] == [(6, 3), (3,)] * 2
    model.compile("sgd", LOSS, **EAGERLY_ON_TENSORFLOW)
    losses = model.fit(IMAGES, np.arange(4) % 2, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert not any(np.array_equal(*pair) for pair in zip(before, module.controller.get_weights(), strict=True))

    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(IMAGES, training=False), model(IMAGES, training=False))
    kernel, bias = module.controller.get_weights()[:2]
    expected = IMAGES.mean(axis=(1, 2)) @ kernel + bias + np.log(np.exp(IMAGES).sum(axis=(1, 2, 3)))[:, None]
    routes = loaded(IMAGES, training=False, return_routes=True).routes[0]
    np.testing.assert_allclose(np.array(routes["logits"])[:, 0], expected, atol=1e-5)
    loaded.fit(IMAGES, np.arange(4) % 2, verbose=0)


@pytest.mark.filterwarnings(r"ignore:`build\(\)` was called on layer 'normed_unit")
def test_units_with_layers_for_each_iteration_are_trained_and_saved(tmp_path):
    inputs = keras.Input(IMAGES.shape[1:])
    x, routes = rk.ReSet([NormedUnit(), NormedUnit()], 2, return_routes=True)(inputs)
    model = rk.RoutedModel(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)), routes=[routes])
    pool = model.routed_modules[0].pool
    before = pool.get_weights()
    assert len(before) == 2 * 2 * 4
    model.compile("sgd", LOSS, **EAGERLY_ON_TENSORFLOW)
    model.fit(IMAGES, np.arange(4) % 2, verbose=0)
    assert not any(np.array_equal(*pair) for pair in zip(before, pool.get_weights(), strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(IMAGES, training=False), model(IMAGES, training=False))


@pytest.mark.parametrize(
    ("decide", "message"),
    [
        (
            lambda x, state: (x[:, 0, 0, :2], state),
            r"shape \(batch, 3\), its `num_scores`. Received: .*shape \(batch, 2\)",
        ),
        (lambda x, state: (x[..., :3], state), r"shape \(batch, 3\)"),
        (lambda x, state: x[:, 0, 0, :3], "must return a pair: logits and the next state"),
    ],
)
def test_what_a_controller_returns_is_checked_when_it_is_built(decide, message):
    with pytest.raises(ValueError, match=message):
        rk.ReSet(2, 2, Returns(decide))(keras.Input(IMAGES.shape[1:]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: rk.ReSet(keras.layers.Dense(4)),
            r"an integer, a list of Keras layers, or a Pool. Received: units=<Dense",
        ),
        (lambda: rk.ReSet(iter([])), r"an integer, a list of Keras layers, or a Pool. Received: units=<list_iter"),
        (lambda: rk.ReSet(2, zero_unit=2), "`zero_unit` must be True or False. Received: zero_unit=2"),
        (lambda: rk.ReSetNet(zero_unit=None), "`zero_unit` must be True or False. Received: zero_unit=None"),
    ],
)
def test_arguments_of_another_kind_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("zero_unit", [1, 0, np.True_])
def test_a_zero_unit_that_was_given_as_a_number_is_kept_as_a_boolean(zero_unit):
    module = rk.ReSet.from_config({**rk.ReSet(2, 1, zero_unit=bool(zero_unit)).get_config(), "zero_unit": zero_unit})
    assert module.get_config()["zero_unit"] is bool(zero_unit)
    assert module.num_scores == 2 + zero_unit


def test_it_can_be_distributed_over_time():
    module, _ = module_with_units("softmax")
    module.return_routes = False
    videos = np.stack([IMAGES, IMAGES[::-1]], axis=1)
    distributed = keras.layers.TimeDistributed(module)
    assert distributed(keras.Input(videos.shape[1:])).shape == (None, *videos.shape[1:])
    expected = keras.ops.convert_to_numpy(module(IMAGES))
    np.testing.assert_allclose(distributed(videos), np.stack([expected, expected[::-1]], axis=1), atol=1e-5)


def test_the_output_shape_with_routes():
    module = rk.ReSet(2, 5, zero_unit=False, return_routes=True)
    shapes = module.compute_output_shape((None, 8, 8, 6))
    assert shapes == ((None, 8, 8, 6), {"logits": (None, 5, 2), "scores": (None, 5, 2)})


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("policy", ["float64", "bfloat16", "mixed_float16"][keras.backend.backend() == "jax" :])
def test_other_precisions(policy, training):
    modules = [rk.ReSet(2, 2, "cnn", return_routes=True, dtype=dtype) for dtype in ("float32", policy)]
    for module in modules:
        module(IMAGES)
    randomize(modules[0])
    modules[1].set_weights(modules[0].get_weights())
    (expected, _), (output, routes) = (module(IMAGES, training=training) for module in modules)
    assert keras.backend.standardize_dtype(output.dtype) == modules[1].compute_dtype
    assert {keras.backend.standardize_dtype(part.dtype) for part in routes.values()} == {"float32"}
    expected, output = (np.array(keras.ops.cast(x, "float32")) for x in (expected, output))
    np.testing.assert_allclose(output, expected, atol=(1e-5 if policy == "float64" else 0.05) * np.abs(expected).max())
