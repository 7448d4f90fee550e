"""Frozen networks against the Keras models that they were made of."""

import copy
import functools
import pickle

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import IMAGES, ON_TENSORFLOW, assert_equal_at_every_batch_size, expected_of, outputs_of
from networks import ONE_BACKEND, one_module_reset, randomize, small_reset, small_resnet, user_model
from reset_keras.inference import FrozenNetwork, approximation_error, freeze
from reset_keras.inference.frozen.frozen_reset import FrozenReSet

needs_tensorflow = pytest.mark.skipif(not ON_TENSORFLOW, reason="sparse execution needs TensorFlow")


@functools.cache
def random_reset(scorer):
    """A network that no test changes."""
    keras.utils.set_random_seed(0)
    return randomize(one_module_reset(scorer))


@pytest.mark.parametrize(
    ("scorer", "execution"),
    [
        ("softmax", "dense"),
        ("hard", "dense"),
        pytest.param("softmax", "sparse", marks=needs_tensorflow),
        pytest.param("gumbel_st", "sparse", marks=needs_tensorflow),
        pytest.param("top_k", "sparse", marks=needs_tensorflow),
    ],
)
def test_a_frozen_network_computes_what_its_model_does(scorer, execution):
    model = random_reset(scorer)
    assert_equal_at_every_batch_size(freeze(model, execution), model)


@pytest.mark.slow
@ONE_BACKEND
@pytest.mark.parametrize(
    ("units", "options"),
    [((1, 1), {"shortcut": "projection"}), ((2,), {"controller": "cnn"}), ((1,), {"stem_pooling": True})],
    ids=["projection", "cnn", "stem_pooling"],
)
def test_other_networks_can_be_frozen(units, options):
    model = randomize(rk.ReSetNet(units, None, 4, (8, 8, 1), scorer="gumbel_st", width=4, **options))
    assert_equal_at_every_batch_size(freeze(model), model)


def test_several_of_the_best_units():
    model = randomize(rk.ReSetNet((2,), (1,), 4, (8, 8, 1), scorer=rk.TopKScorer(2), width=4))
    assert_equal_at_every_batch_size(freeze(model), model)


def test_a_resnet_keeps_its_outputs_when_its_batch_norms_are_folded():
    model = randomize(rk.ResNet((2, 1), 4, (8, 8, 1), width=4))
    network = freeze(model)
    assert not any(isinstance(layer, rk.IterationBatchNormalization) for layer in network.graph.layers)
    assert_equal_at_every_batch_size(network, model)


@keras.saving.register_keras_serializable("tests")
class HalfPool(rk.layers.ResidualPool):
    def call(self, inputs, scores, iteration=0, training=None):
        return 0.5 * super().call(inputs, scores, iteration, training)


def model_of_an_own_pool():
    inputs = keras.Input((6, 6, 3))
    return keras.Model(inputs, rk.ReSet(HalfPool(2, 2), 2)(inputs))


def test_inputs_of_unknown_size():
    images, sequences = keras.Input((None, None, 3)), keras.Input((None,), dtype="int32")
    module = rk.ReSet(2, 1, scorer="gumbel_st")
    model = randomize(keras.Model(images, keras.layers.GlobalAveragePooling2D()(module(images))))
    network = freeze(model)
    for size in (4, 7):
        batch = np.random.default_rng(0).normal(size=(3, size, 8, 3)).astype("float32")
        np.testing.assert_allclose(outputs_of(network, batch), expected_of(model, batch), atol=1e-4)
    assert outputs_of(network, batch[:0]).shape == (0, 3)
    with pytest.raises(ValueError, match=r"built for inputs of shape \('batch', None, None, 3\)"):
        network(np.zeros((3, 8, 8, 1)))
    model = keras.Model(sequences, keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 4)(sequences)))
    tokens = np.arange(6, dtype="int32").reshape(2, 3)
    np.testing.assert_allclose(outputs_of(freeze(model), tokens), expected_of(model, tokens), atol=1e-6)
    with pytest.raises(ValueError, match="built for inputs of shape"):
        freeze(model)(tokens[:, :, None])


def model_of_two_inputs():
    inputs = [keras.Input((2,), name=name) for name in ("left", "right")]
    return keras.Model(inputs, inputs[0] + inputs[1])


def test_later_training_does_not_reach_a_frozen_network():
    model = randomize(one_module_reset("gumbel_st"))
    network, before = freeze(model), expected_of(model)
    randomize(model, seed=1)
    assert np.abs(expected_of(model) - before).max() > 0.1
    np.testing.assert_allclose(outputs_of(network, IMAGES), before, atol=1e-4, rtol=1e-4)


@needs_tensorflow
@pytest.mark.parametrize("route", [0, 2], ids=["first unit", "zero unit"])
@pytest.mark.parametrize("scorer", ["gumbel_st", "top_k"])
def test_units_that_are_not_chosen_are_not_run(scorer, route):
    """All images take one route; the units that are not on it would spoil whatever runs them."""
    inputs = keras.Input((4, 4, 2))
    x, routes = rk.ReSet(2, 1, scorer=scorer, return_routes=True)(inputs)
    model = randomize(rk.RoutedModel(inputs, x, routes=[routes]))
    (module,) = model.routed_modules
    module.controller.dense.bias.assign(np.eye(3)[route] * 100)
    images = np.random.default_rng(0).normal(size=(7, 4, 4, 2)).astype("float32")
    expected = expected_of(model, images)
    kernel = keras.ops.convert_to_numpy(module.pool.kernel2).copy()
    kernel[..., kernel.shape[-1] // 2 if route == 0 else 0 :] = np.nan
    module.pool.kernel2.assign(kernel)
    dense = outputs_of(freeze(model, "dense"), images)
    assert not np.allclose(dense, expected, atol=0.1)
    network = freeze(model)
    for size in (1, 7):
        np.testing.assert_allclose(outputs_of(network, images[:size]), expected[:size], atol=1e-4, rtol=1e-4)


@keras.saving.register_keras_serializable("tests")
class LargeScores(rk.SoftmaxScorer):
    def call(self, logits, training=None):
        scores = super().call(logits)
        return keras.ops.where(scores > 0.3, scores, 0.0)


@needs_tensorflow
def test_soft_scores_under_a_threshold_are_left_out():
    model = randomize(one_module_reset("softmax"))
    dense = model.routed_modules[0].controller.dense
    dense.kernel.assign(0.1 * dense.kernel)  # large scores on both sides of the threshold
    model.layers[-1].bias.assign_sub(expected_of(model).mean(axis=0))  # several classes are named
    network = freeze(model, threshold=0.3)
    expected, exact = expected_of(rk.with_scorer(model, LargeScores())), expected_of(model)
    assert network.forms(32) == ["sparse"]
    for frozen, size in ((network, 1), (network, 32), (freeze(model, "dense", threshold=0.3), 32)):
        np.testing.assert_allclose(outputs_of(frozen, IMAGES[:size]), expected[:size], atol=1e-4)
    error = approximation_error(network, model, IMAGES)
    assert error["max_difference"] == pytest.approx(np.abs(expected - exact).max(), rel=1e-4)
    assert error["mean_difference"] == pytest.approx(np.abs(expected - exact).mean(), rel=1e-4)
    assert error["agreement"] == pytest.approx(np.mean(expected.argmax(axis=-1) == exact.argmax(axis=-1)))
    assert error["max_difference"] > error["mean_difference"] > 1e-3
    assert 0 < error["agreement"] < 1


def test_a_threshold_of_zero_makes_no_error():
    model = random_reset("softmax")
    error = approximation_error(freeze(model), model, IMAGES)
    assert error["max_difference"] < 1e-4
    assert error["agreement"] == 1


def test_the_error_of_many_images_is_found_in_batches(monkeypatch):
    call, sizes = FrozenNetwork.__call__, []
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])
    network = freeze(model)
    monkeypatch.setattr(FrozenNetwork, "__call__", lambda self, batch: sizes.append(len(batch)) or call(self, batch))
    for weight in model.layers[-1].weights:
        weight.assign(weight + 0.1)
    images = np.random.default_rng(0).normal(size=(300, 8, 8, 1)).astype("float32")
    error = approximation_error(network, model, images)
    assert max(sizes) < sum(sizes) == 300
    differences = np.abs(outputs_of(network, images) - expected_of(model, images))
    assert error["max_difference"] == pytest.approx(differences.max(), rel=1e-4)
    assert error["mean_difference"] == pytest.approx(differences.mean(), rel=1e-4)


def test_whether_one_number_names_the_same_class_is_not_told():
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    assert set(approximation_error(freeze(model), model, IMAGES)) == {"max_difference", "mean_difference"}


def test_the_error_of_several_outputs_is_refused():
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, {name: keras.layers.Flatten(name=name)(inputs) for name in ("a", "b")})
    with pytest.raises(ValueError, match=r"one output can be compared.* Received: 2 outputs"):
        approximation_error(freeze(model), model, IMAGES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scorer", ["softmax", *(pytest.param(name, marks=ONE_BACKEND) for name in ("gumbel_st", "top_k"))]
)
def test_a_pool_of_layers_of_ones_own(scorer):
    """Attention, dense and convolution units on short sequences; most groups of a small batch are empty."""
    inputs = keras.Input((6, 8))
    units = [
        SelfAttention(),
        keras.layers.Dense(8, activation="relu"),
        keras.Sequential([keras.layers.Conv1D(8, 3, padding="same"), keras.layers.LayerNormalization()]),
    ]
    x, routes = rk.ReSet(units, 1, scorer=scorer, activation=None, return_routes=True)(inputs)
    model = randomize(rk.RoutedModel(inputs, keras.layers.Dense(3)(x), routes=[routes]))
    sequences = np.random.default_rng(0).normal(size=(5, 6, 8)).astype("float32")
    expected = expected_of(model, sequences)
    network = freeze(model)
    for size in (1, 2, 5):
        np.testing.assert_allclose(outputs_of(network, sequences[:size]), expected[:size], atol=1e-4)


@keras.saving.register_keras_serializable("tests")
class SelfAttention(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = keras.layers.MultiHeadAttention(2, 4)

    def build(self, input_shape):
        self.attention.build(input_shape, input_shape)

    def call(self, inputs):
        return self.attention(inputs, inputs)


def test_mixed_precision_is_kept():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = randomize(one_module_reset("gumbel_st"))
    finally:
        keras.config.set_dtype_policy("float32")
    network = freeze(model)
    assert {layer.compute_dtype for layer in network.modules} == {"bfloat16"}
    expected = expected_of(model)
    assert np.abs(outputs_of(network, IMAGES) - expected).mean() < 0.05 * np.abs(expected).mean()


def test_the_form_is_named():
    network = freeze(small_reset("gumbel_st"))
    assert network.forms(1) == ["branch", "branch"]
    assert freeze(random_reset("top_k")).forms(1) == ["branches"]
    assert "batch of 1 branch" in repr(network)
    assert "static" in repr(freeze(rk.ResNet((1,), 4, (8, 8, 1), width=4)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: freeze(random_reset("softmax"), "fast"), "`execution` must be one of"),
        (lambda: freeze(keras.Sequential([keras.layers.Dense(1)])), "Only a functional or a built sequential model"),
        (lambda: FrozenNetwork(keras.Sequential([keras.layers.Dense(1)])), "Only a functional or a built sequential"),
        (
            lambda: FrozenNetwork(model_of_two_inputs()),
            r"one input can be frozen. Received: inputs \['left', 'right'\]",
        ),
        (lambda: freeze(model_of_an_own_pool()), "overrides how it is computed. Received: a HalfPool"),
        (lambda: freeze(random_reset("softmax"))(np.zeros((2, 9, 9, 1))), "built for inputs of shape"),
    ],
)
def test_mistakes_are_explained(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_sparse_execution_needs_tensorflow(monkeypatch):
    model = random_reset("gumbel_st")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"Received: the jax backend\. Use execution='auto' or 'dense'"):
        freeze(model, "sparse")


def test_a_frozen_module_is_called_like_its_module():
    module = rk.ReSet(2, 2, scorer="gumbel_st", return_routes=True)
    inputs = keras.Input((8, 8, 4))
    keras.Model(inputs, module(inputs))
    frozen = FrozenReSet(module, lambda _: None, "dense", 0.0)
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 4)).astype("float32")
    (x, routes), (expected_x, expected_routes) = frozen(images), module(images)
    np.testing.assert_allclose(x, expected_x, atol=1e-5)
    for name in ("logits", "scores"):
        np.testing.assert_allclose(routes[name], expected_routes[name], atol=1e-5)


def test_an_operation_that_xla_lacks_runs_for_one_image_too():
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1)(keras.layers.Resizing(8, 8, "bicubic")(inputs)))
    network = freeze(model)
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype("float32")
    for size in (2, 1, 1):
        np.testing.assert_allclose(network(images[:size]), expected_of(model, images)[:size], atol=1e-5)


def model_of_ids(inputs, numbers):
    """A routed model of sequences of ids or words, which a layer numbers."""
    x = keras.layers.Embedding(5, 8, embeddings_initializer="random_normal")(numbers(inputs))
    units = [keras.layers.Dense(8), keras.layers.Dense(8)]
    x, routes = rk.ReSet(units, 1, return_routes=True, scorer="gumbel_st")(x)
    return rk.RoutedModel(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(x)), routes=[routes])


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="ids of 64 bits, and words, need TensorFlow")
def test_ids_that_float32_cannot_tell_apart_and_words():
    """Numbers and words of a vocabulary of three."""
    import tensorflow as tf

    ids = np.array([[2**24] * 4, [2**24 + 1] * 4, [3] * 4])
    of_ids = keras.layers.IntegerLookup(vocabulary=[3, 2**24, 2**24 + 1])
    of_words = keras.layers.StringLookup(vocabulary=["a", "b", "c"])
    for given, dtype, numbers in ((ids, "int64", of_ids), (np.array([list("abca")] * 3), "string", of_words)):
        model = model_of_ids(keras.Input((4,), dtype=dtype), numbers)
        network, batch = rk.inference.freeze(model), tf.constant(given)
        for part in (batch, batch[:1]):
            np.testing.assert_allclose(network(part), expected_of(model, part), atol=1e-5)
        assert network(batch[:0]).shape == (0, 3)
        if dtype == "int64":
            outputs = np.array(network(batch))
            assert len(np.unique(outputs.round(6), axis=0)) == 3


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_is_not_copied(copied):
    network = rk.inference.freeze(random_reset("gumbel_st"))
    with pytest.raises(TypeError, match=r"A frozen network is neither copied nor pickled. Freeze the model again"):
        copied(network)


@pytest.mark.parametrize("make", [pytest.param(small_resnet, marks=ONE_BACKEND), lambda: one_module_reset("gumbel_st")])
def test_a_network_in_bfloat16_is_nearly_its_model(make):
    model = randomize(make())
    network = freeze(model, dtype="bfloat16")
    expected = expected_of(model)
    outputs = np.array(network(IMAGES))
    assert outputs.dtype == np.float32
    difference = np.abs(outputs - expected).max(axis=1)
    assert np.median(difference) < 0.05 * np.abs(expected).max()
    assert difference.max() > 0
    convolutions = {
        layer.compute_dtype for layer in network.graph.layers if "conv" in layer.name or "reset" in layer.name
    }
    assert convolutions == {"bfloat16"}
    assert {module.controller.compute_dtype for module in network.modules} <= {"float32"}
    exact = freeze(model, dtype="float32")
    np.testing.assert_allclose(exact(IMAGES), expected, atol=1e-4)


@pytest.mark.parametrize(("make", "dtype"), [(small_resnet, "int8"), (user_model, "bfloat16")])
def test_other_types_and_models_are_refused(make, dtype):
    with pytest.raises(ValueError, match=r"`dtype` must be one of .* and the model a ResNet or a ReSetNet"):
        freeze(make(), dtype=dtype)
