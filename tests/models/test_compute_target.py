"""`SkipReward(target=...)`: rewards that find themselves."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import EAGERLY_ON_TENSORFLOW, LOSS, images_and_labels
from reset_keras.inference import compute_fractions
from reset_keras.models.operations import count_operations
from reset_keras.models.routed_loss import TARGET_TERMS

LONG_ELSEWHERE = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compiles for long on JAX")
IMAGES, LABELS = images_and_labels()
CONV, UNIT, DENSE_UNIT, HEAD = 9 * 4 * 64, 2 * 9 * 4 * 4 * 64, 4 * 4 * 64, 4 * 4
CONTROLLER = 4 * 64 * (4 + 64) + 64 * 3
UNITS = np.array([UNIT] * 2 + [DENSE_UNIT])
STATIC = CONV + UNITS.sum() + HEAD
WEIGHTS = UNITS / UNITS.mean()


def two_modules(scorer="gumbel_st", zero_units=(True, True), units=None):
    """Two iterations of convolutional units, and one of dense ones, which cost less."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    x, first = rk.ReSet(2, 2, scorer=scorer, zero_unit=zero_units[0], return_routes=True)(x)
    units = units or [keras.layers.Dense(4), keras.layers.Dense(4)]
    x, second = rk.ReSet(units, 1, scorer=scorer, zero_unit=zero_units[1], return_routes=True)(x)
    return rk.RoutedModel(
        inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)), routes=[first, second]
    )


def one_module(scorer):
    """The least that can be taught to skip: two convolutions, two iterations."""
    inputs = keras.Input((8, 8, 1))
    units = [keras.layers.Conv2D(4, 3, padding="same") for _ in range(2)]
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    x, _ = rk.ReSet(units, 2, scorer=scorer, return_routes=True)(x)
    return rk.RoutedModel(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)))


def compiled(model, reward, **options):
    jit_compile = keras.backend.backend() == "jax"  # elsewhere it takes longer than these few steps
    model.compile(keras.optimizers.Adam(0.003), LOSS, skip_reward=reward, jit_compile=jit_compile, **options)
    return model


def skips_of_the_next_step(model):
    """The zero units' scores that a training step on all images is about to draw, (images, 3)."""
    generators = [module.scorer.seed_generator.state for module in model.routed_modules]
    states = [np.array(state) for state in generators]
    routes = model(IMAGES, training=True, return_routes=True).routes
    for generator, state in zip(generators, states, strict=True):
        generator.assign(state)
    return np.concatenate([np.array(route["scores"])[..., -1] for route in routes], axis=1)


@pytest.mark.parametrize(
    ("scorer", "estimator", "target", "rate"),
    [
        pytest.param("softmax", "straight_through", 1.7, 0.25, marks=LONG_ELSEWHERE),
        ("gumbel_st", "straight_through", 1.7, 0.25),
        pytest.param("hard", "reinforce", 2.3, 5.0, marks=LONG_ELSEWHERE),
    ],
)
def test_dual_ascent_by_hand(scorer, estimator, target, rate):
    reward = rk.SkipReward(0.3, estimator, target=target, target_rate=rate)
    model = compiled(two_modules(scorer), reward, **EAGERLY_ON_TENSORFLOW)
    price = 0.3
    for _ in range(2):
        skips = skips_of_the_next_step(model)
        logs = model.train_on_batch(IMAGES, LABELS, return_dict=True)
        spent = CONV + HEAD + 3 * CONTROLLER + (1 - skips) @ UNITS
        fraction = spent.mean() / STATIC
        assert logs["expected_compute"] == pytest.approx(fraction, rel=1e-4)
        assert logs["skip_price"] == pytest.approx(price, abs=1e-5)
        assert logs["skip_reward"] == pytest.approx((skips @ (price * WEIGHTS)).mean(), abs=1e-4)
        price = max(0.0, price + rate * (fraction - target))
        assert float(model.skip_reward.price) == pytest.approx(price, abs=1e-5)
        model.reset_metrics()
    assert (price == 0.0) == (target == 2.3)


def test_evaluation_leaves_the_price_alone():
    model = compiled(two_modules(), rk.SkipReward(0.3, target=1.7), **EAGERLY_ON_TENSORFLOW)
    logs = model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    executed = compute_fractions(model, model.predict_routes(IMAGES, verbose=0))
    assert logs["expected_compute"] == pytest.approx(executed.mean(), rel=1e-5)
    assert logs["skip_price"] == pytest.approx(0.3)
    assert float(model.skip_reward.price) == pytest.approx(0.3)


def test_units_that_differ_in_cost_are_counted_one_by_one():
    model = two_modules(units=[keras.layers.Dense(4), keras.layers.Conv2D(4, 3, padding="same")])
    rng = np.random.default_rng(0)
    scores = [np.eye(3, dtype="float32")[rng.integers(0, 3, (7, k))] for k in (2, 1)]
    convolution = 9 * 4 * 4 * 64
    chosen = [part.sum(axis=1) for part in scores]
    spent = CONV + HEAD + 3 * CONTROLLER + chosen[0] @ [UNIT, UNIT, 0] + chosen[1] @ [DENSE_UNIT, convolution, 0]
    expected = spent / (CONV + HEAD + 2 * UNIT + (DENSE_UNIT + convolution) / 2)
    counted = count_operations(model.network, model.routed_modules)
    np.testing.assert_allclose(counted.expected_fractions([{"scores": part} for part in scores]), expected, rtol=1e-5)
    np.testing.assert_allclose(compute_fractions(model, [{"scores": part} for part in scores]), expected, rtol=1e-9)
    assert np.std(expected) > 0


@pytest.mark.slow
@LONG_ELSEWHERE
def test_a_target_is_reached():
    keras.utils.set_random_seed(0)
    images, labels = images_and_labels(256)
    model = one_module("gumbel_st")
    reward = rk.SkipReward(target=2.05, target_rate=0.3)
    model.compile(keras.optimizers.Adam(0.01), LOSS, skip_reward=reward, entropy=rk.Entropy(0.2))
    fractions = model.fit(images, labels, batch_size=16, epochs=16, verbose=0).history["expected_compute"]
    assert fractions[0] > 2.15
    assert np.mean(fractions[-5:]) == pytest.approx(2.05, abs=0.05)


@LONG_ELSEWHERE
def test_a_saved_model_goes_on_with_its_price(tmp_path):
    reward = rk.SkipReward(0.1, target=2.0, target_rate=0.5)
    model = compiled(one_module("softmax"), reward, **EAGERLY_ON_TENSORFLOW)
    model.train_on_batch(IMAGES, LABELS)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert float(loaded.skip_reward.price) == float(model.skip_reward.price) > 0.2
    for step in (model, loaded):
        step.train_on_batch(IMAGES, LABELS)
    assert float(loaded.skip_reward.price) == pytest.approx(float(model.skip_reward.price), abs=1e-6)
    assert any(variable is model.skip_reward.price for variable in model.non_trainable_variables)  # for checkpoints


def test_its_terms_are_logged_with_a_target_alone():
    model = two_modules()
    for reward, terms in ((rk.SkipReward(0.1), set()), (rk.SkipReward(target=1.7), set(TARGET_TERMS)), (None, set())):
        compiled(model, reward)
        assert {metric.name for metric in model.metrics} & set(TARGET_TERMS) == terms


class Unknown(keras.layers.Layer):
    """Has a kernel that nobody knows how to count."""

    def build(self, shape):
        self.kernel = self.add_weight(name="kernel", shape=(4, 4))

    def call(self, x):
        return keras.ops.matmul(x, self.kernel)

    def compute_output_shape(self, shape):
        return shape


def called_twice():
    """A convolution on images of 8 by 8 pixels and again on those of 4 by 4, and so a module."""
    inputs = keras.Input((8, 8, 4))
    conv = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)
    module = rk.ReSet([keras.layers.Dense(4), keras.layers.Dense(4)], 2, scorer="gumbel_st", return_routes=True)
    x, first = module(conv(inputs))
    x, second = module(conv(keras.layers.AveragePooling2D(2)(x)))
    return inputs, keras.layers.GlobalAveragePooling2D()(x), first, second


def test_each_call_of_a_layer_is_counted_with_its_own_size():
    inputs, x, first, second = called_twice()
    for routes, pixels in (([first, second], (64, 16)), ([second, first], (16, 64))):
        counted = count_operations((model := rk.RoutedModel(inputs, x, routes=routes)).network, model.routed_modules)
        assert counted.fixed == 9 * 4 * 4 * (64 + 16)
        assert [units.tolist() for units in counted.units] == [[4 * 4 * size] * 2 for size in pixels]


def without_the_second_routes():
    inputs, x, first, _ = called_twice()
    return rk.RoutedModel(inputs, x, routes=[first])


def with_a_module_that_returns_no_routes():
    inputs = keras.Input((8, 8, 4))
    x, routes = rk.ReSet(2, 2, scorer="gumbel_st", return_routes=True)(inputs)
    x = rk.ReSet(2, 2, name="silent")(x)
    return rk.RoutedModel(inputs, keras.layers.GlobalAveragePooling2D()(x), routes=[routes])


def with_attention():
    inputs = keras.Input((8, 8, 4))
    x, routes = rk.ReSet(2, 2, scorer="gumbel_st", return_routes=True)(inputs)
    x = keras.layers.MultiHeadAttention(1, 4, name="attention")(x, x)
    return rk.RoutedModel(inputs, keras.layers.GlobalAveragePooling2D()(x), routes=[routes])


def with_masks(*, skips):
    inputs = keras.Input((8, 8, 4))
    allowed = [[True, True, False], [True, True, skips]]
    x, routes = rk.ReSet(2, 2, scorer="gumbel_st", allowed=allowed, return_routes=True)(inputs)
    outputs = keras.layers.Dense(4, use_bias=False)(keras.layers.GlobalAveragePooling2D()(x))
    return rk.RoutedModel(inputs, outputs, routes=[routes])


LEAST_WITH_MASKS = (HEAD + CONTROLLER * 2 + UNIT) / (HEAD + UNIT * 2)


def of_any_size():
    inputs = keras.Input((None, None, 4))
    x, routes = rk.ReSet(2, 2, scorer="gumbel_st", return_routes=True)(inputs)
    return rk.RoutedModel(inputs, keras.layers.GlobalAveragePooling2D()(x), routes=[routes])


@pytest.mark.parametrize(
    ("make", "target", "message"),
    [
        (two_modules, 1.37, r"`target` must be above 1\.371, the compute fraction .* Received: target=1.37"),
        (two_modules, 2.314, r"`target` must be .* and at most 2\.313: it is a share .*, 0\.7 for 70 %"),
        (two_modules, 70, r"at most 2\.313: .* Received: target=70"),
        (lambda: two_modules(zero_units=(False, True)), 2.28, r"`target` must be above 2\.285"),
        (lambda: two_modules(zero_units=(False, False)), 3.0, "modules with a zero unit"),
        (lambda: with_masks(skips=True), LEAST_WITH_MASKS, f"`target` must be above {LEAST_WITH_MASKS:.3f}"),
        (lambda: with_masks(skips=False), 9.0, "an iteration that may be skipped. Received: `allowed` that forbids"),
        (lambda: two_modules("top_k"), 3.0, "scores that sum to 1"),
        (
            lambda: two_modules(units=[Unknown()]),
            3.0,
            r"be counted\. Cannot count .* type Unknown, only those of Conv2D",
        ),
        (of_any_size, 3.0, "images of no fixed size"),
        (with_a_module_that_returns_no_routes, 3.0, "ReSet 'silent', whose routes the model does not know"),
        (without_the_second_routes, 3.0, "whose routes the model does not know"),
        (with_attention, 3.0, "Cannot count .* layer 'attention' of the type MultiHeadAttention, only those of Conv2D"),
    ],
)
def test_models_that_no_target_fits_are_refused(make, target, message):
    with pytest.raises(ValueError, match=message):
        compiled(make(), rk.SkipReward(target=target))
