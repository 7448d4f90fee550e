"""One network of every depth: what a module computes in training, where images run different numbers of units."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import expected_of
from networks import EAGERLY_ON_TENSORFLOW, LOSS, images_and_labels, randomize, slow_on_jax
from reset_keras.layers.halting_controller import doubt

X, Y = images_and_labels(32)


def module(units=3, **controller):
    pool = rk.ResidualPool(units, units)
    halting = rk.HaltingController(units + 1, 4, **controller)
    layer = rk.ReSet(pool, units, halting, rk.HardScorer(sampled=False), return_routes=True)
    layer.build((None, 6, 6, 4))
    return layer


def features(count=16, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 6, 6, 4)).astype("float32")


def unit(layer, index, x):
    """Unit `index` of a pool on its own, with batch statistics, by numpy's moments and Keras's convolutions."""
    pool, width = layer.pool, slice(4 * index, 4 * index + 4)
    for kernel, norm in ((pool.kernel1, pool.norm1), (pool.kernel2, pool.norm2)):
        x = np.maximum(x, 0.0) if kernel is pool.kernel2 else x
        x = np.array(keras.ops.conv(x, kernel[..., width], padding="same", data_format="channels_last"))
        mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
        scale, offset = (np.array(part[0][width]) for part in (norm.gammas, norm.betas))
        x = (x - mean) / np.sqrt(variance + norm.epsilon) * scale + offset
    return x


def test_without_noise_the_first_images_run_the_most_units():
    layer = randomize(module(shares=(0.75, 0.25), noise=0.0))
    x = features()
    outputs, routes = layer(x, training=True)
    expected, counts = np.maximum(x, 0.0), (12, 8, 4)
    expected[:12] = np.maximum(x[:12] + unit(layer, 0, x[:12]), 0.0)
    for k in (1, 2):
        head = expected[: counts[k]]
        expected[: counts[k]] = np.maximum(head + unit(layer, k, head), 0.0)
    np.testing.assert_allclose(outputs, expected, atol=1e-4)
    depths = np.array(routes["scores"])[..., :3].sum(axis=(1, 2))
    np.testing.assert_array_equal(depths, [3] * 4 + [2] * 4 + [1] * 4 + [0] * 4)


def test_even_the_smallest_share_of_a_batch_is_an_image():
    layer = module(shares=(0.5, 1e-4))
    _, routes = layer(features(), training=True)
    np.testing.assert_array_equal(np.array(routes["scores"])[..., :3].sum(axis=(0, 2)), [8, 4, 1])
    assert all(np.isfinite(np.array(weight)).all() for weight in layer.pool.weights)


def test_its_arithmetic_is_float32_whatever_keras_takes_by_default():
    layer = module(shares=(0.75, 0.25))
    keras.config.set_floatx("float16")
    try:
        _, routes = layer(features(), training=True)
        (state,) = layer.controller.initial_state(2)
    finally:
        keras.config.set_floatx("float32")
    np.testing.assert_array_equal(np.array(routes["scores"])[..., :3].sum(axis=(0, 2)), [12, 8, 4])
    assert keras.backend.standardize_dtype(state.dtype) == "float32"


def test_an_order_by_noise_keeps_images_in_their_places():
    layer = randomize(module(noise=1.0))
    x = features()
    outputs, routes = layer(x, training=True)
    scores = np.array(routes["scores"])
    assert scores[:, :, :3].sum() == 14 + 10 + 6
    depths = scores[..., :3].sum(axis=(1, 2))
    assert (depths != np.sort(depths)[::-1]).any()
    expected = x.copy()
    for k in range(3):
        runs = depths > k
        expected[runs] = np.maximum(expected[runs] + unit(layer, k, expected[runs]), 0.0)
    np.testing.assert_allclose(outputs, np.maximum(expected, 0.0), atol=1e-4)


def test_noise_moves_images_by_shares_of_the_batch(monkeypatch):
    draw = np.random.default_rng(0).normal(size=16).astype("float32")
    monkeypatch.setattr(keras.random, "normal", lambda shape, dtype, seed: keras.ops.convert_to_tensor(draw))
    order, counts = rk.HaltingController(4, 4).depths_of_batch(16)
    np.testing.assert_array_equal(order, np.argsort(np.arange(16) / 16 + 0.2 * draw))
    assert counts == [14, 10, 6]


@slow_on_jax
def test_gradients_are_those_of_a_mask():
    """Where batch statistics are fixed, leaving images out is the same as weighting them with zero."""
    layer = randomize(module(noise=0.5))
    x = keras.ops.convert_to_tensor(features())
    layer.pool.fixed_statistics = True
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            outputs, routes = layer(x, training=True)
            loss = tf.reduce_sum(outputs**2)
            masked = x
            for k in range(3):
                masked = layer.activation(masked + layer.pool(masked, routes["scores"][:, k], iteration=k))
            masked_loss = tf.reduce_sum(masked**2)
        kernel = layer.pool.kernel1.value
        pairs = [tape.gradient(each, [x, kernel]) for each in (loss, masked_loss)]
    else:
        import jax

        variables = [*layer.trainable_variables, *layer.non_trainable_variables]

        def run(trainable, inputs, masked):
            values = [*trainable, *(variable.value for variable in layer.non_trainable_variables)]
            with keras.StatelessScope(zip(variables, values, strict=True)):
                outputs, routes = layer(inputs, training=True)
                if masked:
                    outputs = inputs
                    for k in range(3):
                        scores = routes["scores"][:, k]
                        outputs = layer.activation(outputs + layer.pool(outputs, scores, iteration=k))
            return (outputs**2).sum()

        weights = [variable.value for variable in layer.trainable_variables]
        pairs = []
        for masked in (False, True):
            by_weights, by_inputs = jax.grad(run, argnums=(0, 1))(weights, x, masked)
            pairs.append([by_inputs, by_weights[0]])
    for ours, expected in zip(*pairs, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-3, rtol=1e-4)


def test_only_the_statistics_of_a_units_own_iteration_move():
    layer = module(shares=(0.75, 0.25), noise=0.0)
    x = features() + 1.0
    layer(x, training=True)
    for k, means in enumerate(layer.pool.norm1.moving_means):
        moved = np.abs(np.array(means).reshape(3, 4)).max(axis=1) > 1e-3
        np.testing.assert_array_equal(moved, np.arange(3) == k)


def test_an_image_halts_when_its_head_is_sure():
    layer = module()
    x = features()
    controller = layer.controller
    kernel = np.random.default_rng(1).normal(size=(4, 4))
    controller.head_kernel.assign(kernel)
    sure = np.array(keras.ops.softmax(np.maximum(x, 0.0).mean(axis=(1, 2)) @ kernel)).max(axis=1)
    controller.threshold.assign(np.median(sure))
    _, routes = layer(x)
    at_first = sure >= np.median(sure)
    scores = np.array(routes["scores"])
    np.testing.assert_array_equal(scores[:, 0, -1] == 1, at_first)
    halted = scores[..., -1]
    assert (np.diff(halted, axis=1) >= 0).all()
    np.testing.assert_array_equal(scores[..., :3], (1 - halted)[..., None] * np.eye(3))
    controller.depth.assign(1)
    np.testing.assert_array_equal(np.array(layer(x)[1]["scores"])[:, 1:, -1], 1.0)


def test_doubt_is_exact_where_the_classifier_is_very_sure():
    logits = np.array([[20.0, 2.0, 1.0], [0.0, 0.0, -50.0], [1.0, 3.0, 2.0]], "float32")
    probabilities = np.exp(logits.astype("float64"))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    expected = np.sort(probabilities, axis=1)[:, :-1].sum(axis=1)
    np.testing.assert_allclose(doubt(keras.ops.convert_to_tensor(logits)), expected, rtol=1e-5)


def whole_model():
    resnet = randomize(rk.ResNet((2, 3), 4, (8, 8, 1), width=4))
    return resnet, rk.resnet_to_reset(resnet, rk.HaltingController(1, 4), rk.HardScorer(sampled=False))


@slow_on_jax
def test_whole_it_is_the_resnet():
    resnet, model = whole_model()
    np.testing.assert_allclose(expected_of(model, X), expected_of(resnet, X), atol=1e-4)


@pytest.mark.slow
def test_it_learns_and_its_file_keeps_all(tmp_path):
    _, model = whole_model()
    model.compile(keras.optimizers.SGD(0.05, 0.9), LOSS, metrics=["accuracy"])
    history = model.fit(X, Y, batch_size=16, epochs=8, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert history["skip_fraction"][-1] == pytest.approx(1 - (14 + 14 + 6) / 48)
    for place, controlled in enumerate(model.routed_modules):
        controlled.controller.depth.assign(place + 1)
        controlled.controller.budgets.assign(np.full((64, 3), place + 1.0))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(expected_of(loaded, X), expected_of(model, X))
    assert [float(part.controller.depth.value) for part in loaded.routed_modules] == [1.0, 2.0]
    assert loaded.routed_modules[1].controller.get_config() == model.routed_modules[1].controller.get_config()


def test_units_of_any_kind():
    units = [keras.layers.Dense(4, activation="tanh") for _ in range(2)]
    inputs = keras.Input((4,))
    halting = rk.HaltingController(3, 4, noise=0.0, shares=(0.5, 0.25))
    x, routes = rk.ReSet(units, 2, halting, rk.HardScorer(sampled=False), return_routes=True)(inputs)
    model = rk.RoutedModel(inputs, keras.layers.Dense(4)(x), routes=[routes])
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    _, routes = model(x, training=True, return_routes=True)
    np.testing.assert_array_equal(np.array(routes[0]["scores"])[..., -1].sum(axis=1), [0] * 2 + [1] * 2 + [2] * 4)
    model.compile("sgd", LOSS, **EAGERLY_ON_TENSORFLOW)
    assert np.isfinite(model.fit(x, np.arange(8) % 4, batch_size=5, verbose=0).history["loss"][0])


@pytest.mark.parametrize("count", [1, 2])
def test_of_a_users_pool_single_units_are_run_in_training_and_at_inference(count):
    class Tenfold(rk.UnitPool):
        def call(self, inputs, scores, iteration=0):
            return 10.0 * super().call(inputs, scores, iteration)

    units = [keras.layers.Dense(4, kernel_initializer="identity") for _ in range(count)]
    halting = rk.HaltingController(count + 1, 4, shares=(1.0, 1.0))
    layer = rk.ReSet(Tenfold(units), count, halting, rk.HardScorer(sampled=False), activation=None)
    for training in (True, False):
        np.testing.assert_allclose(layer(features(), training=training), 2.0**count * features(), rtol=1e-5)


def test_one_controller_serves_only_modules_of_one_activation():
    halting, scorer = rk.HaltingController(3), rk.HardScorer(sampled=False)
    for _ in range(2):
        rk.ReSet(2, 2, halting, scorer, activation="relu")
    with pytest.raises(ValueError, match=r"modules of one activation. Received: .*'relu' already, .*'linear'\. Give"):
        rk.ReSet(2, 2, halting, scorer, activation=None)


@pytest.mark.parametrize(
    "options",
    [{"num_iterations": 3}, {"zero_unit": False}, {"activation": "tanh"}, {"scorer": "softmax"}, {"scorer": "hard"}],
)
def test_mistakes_in_its_module(options):
    options = {"num_iterations": 2, "scorer": rk.HardScorer(sampled=False), **options}
    halting = rk.HaltingController(2 + options.get("zero_unit", True))
    with pytest.raises(ValueError, match="needs a zero unit, as many iterations as units"):
        rk.ReSet(2, controller=halting, **options)
