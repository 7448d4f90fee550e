"""Batch norm in training and by given statistics: each path, and the layer, against numpy."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from gradient import layer_gradients
from reset_keras.layers import batch_normalize as paths

EPSILON = 1e-5
TOLERANCE = {"float32": 2e-5, "bfloat16": 2e-2}
"""Largest error, as a share of the largest value: bfloat16 has eight bits."""
NEEDS_TENSORFLOW = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="its operation is TensorFlow's")
PATHS = [pytest.param("_fused", marks=NEEDS_TENSORFLOW), "_by_moments"]


def features(case):
    x = np.random.default_rng(1).normal(
        3, 2, {"one image": (1, 6, 6, 4), "one pixel": (1, 1, 1, 4)}.get(case, (5, 6, 6, 4))
    )
    if case == "constant channel":
        x[..., 1] = 7.0
    return x.astype("float32")


CASES = ("batch", "one image", "one pixel", "constant channel")


class Normalize(keras.layers.Layer):
    """One path as a layer with a scale and an offset."""

    def __init__(self, path, dtype):
        super().__init__(dtype=f"mixed_{dtype}" if dtype != "float32" else dtype)
        self.normalize = getattr(paths, path)
        rng = np.random.default_rng(2)
        self.scale, self.offset = (
            self.add_weight(name=name, shape=(4,), initializer="zeros", autocast=False) for name in ("scale", "offset")
        )
        self.scale.assign(rng.uniform(0.5, 2, 4))
        self.offset.assign(rng.normal(0, 1, 4))

    def call(self, x):
        outputs, _, _ = self.normalize(x, self.scale.value, self.offset.value, EPSILON)
        return keras.ops.cast(outputs, "float32")


def rounded(x, dtype):
    return np.array(keras.ops.cast(keras.ops.cast(x, dtype), "float32"), "float64")


def reference(x, upstream, scale, offset, dtype):
    """Outputs, and gradients of their sum weighted by `upstream` by input, scale and offset, in float64."""
    x, by_output = rounded(x, dtype), rounded(upstream, dtype)
    axes, count = (0, 1, 2), x[..., 0].size
    mean, variance = x.mean(axes), ((x - x.mean(axes)) ** 2).mean(axes)
    deviation = np.sqrt(variance + EPSILON)
    normal = (x - mean) / deviation
    outputs = normal * scale + offset
    by_scale, by_offset = (by_output * normal).sum(axes), by_output.sum(axes)
    by_x = scale / deviation * (by_output - by_offset / count - normal * by_scale / count)
    return outputs, by_x, by_scale, by_offset, mean, variance


def assert_near(ours, expected, dtype, scale=1.0):
    np.testing.assert_allclose(ours, expected, atol=TOLERANCE[dtype] * max(scale, np.abs(expected).max()))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("path", PATHS)
def test_outputs_gradients_and_statistics_are_those_of_numpy(path, case, dtype):
    layer = Normalize(path, dtype)
    x = features(case)
    scale, offset = (np.array(weight, "float64") for weight in (layer.scale, layer.offset))
    upstream = np.random.default_rng(3).normal(size=x.shape).astype("float32")
    outputs, by_x, by_scale, by_offset, mean, variance = reference(x, upstream, scale, offset, dtype)
    layer(x)  # builds it
    ours = layer_gradients(layer, x, upstream)
    assert_near(ours[0], outputs, dtype)
    steepest = np.abs(upstream).max() * (scale / np.sqrt(variance + EPSILON))  # terms that cancel are as large
    assert np.abs(by_x / steepest).max() > 0.1 or x[..., 0].size == 1
    assert_near(ours[1] / steepest, by_x / steepest, dtype)
    total = np.abs(upstream).max() * x[..., 0].size
    assert_near(ours[2][0], by_scale, dtype, total)
    assert_near(ours[2][1], by_offset, dtype, total)
    _, our_mean, our_variance = layer.normalize(
        keras.ops.cast(x, dtype), layer.scale.value, layer.offset.value, EPSILON
    )
    assert keras.backend.standardize_dtype(our_variance.dtype) == "float32"
    np.testing.assert_allclose(our_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(our_variance, variance, rtol=1e-4, atol=1e-5)


@NEEDS_TENSORFLOW
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_fused_path_is_equal_to_the_other_in_a_compiled_step(jit_compile, dtype):
    """Outputs, statistics, and gradients by input, scale and offset."""
    import tensorflow as tf

    x, upstream = (tf.cast(array, dtype) for array in (features("batch"), features("batch")[::-1]))
    scale, offset = tf.constant([2.0, 1, -1, 0.5]), tf.ones(4)

    def step(path):
        with tf.GradientTape() as tape:
            tape.watch([x, scale, offset])
            outputs, mean, variance = path(x, scale, offset, EPSILON)
        gradients = tape.gradient(outputs, [x, scale, offset], upstream)
        return [outputs, mean, variance, *gradients]

    fused, moments = (
        tf.function(lambda path=path: step(path), jit_compile=jit_compile)()
        for path in (paths._fused, paths._by_moments)
    )
    for index, pair in enumerate(zip(fused, moments, strict=True)):
        ours, theirs = (np.array(array, "float64") for array in pair)
        if dtype == "float32" and index < 3:
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
        else:
            assert_near(ours, theirs, dtype)


@pytest.mark.parametrize("case", CASES)
def test_the_statistics_of_an_iteration_follow_those_of_the_batch(case):
    layer = rk.IterationBatchNormalization(2, momentum=0.75)
    x = features(case)
    outputs = layer(x, iteration=1, training=True)
    mean, variance = x.mean((0, 1, 2), dtype="float64"), x.var((0, 1, 2), dtype="float64")
    assert_near(outputs, (x - mean) / np.sqrt(variance + EPSILON), "float32")
    np.testing.assert_allclose(layer.moving_means[1], 0.25 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variances[1], 0.75 + 0.25 * variance, rtol=1e-5)
    np.testing.assert_array_equal(layer.moving_means[0], 0)
    np.testing.assert_array_equal(layer.moving_variances[0], 1)


def test_at_inference_an_iteration_is_an_affine_map():
    layer = rk.IterationBatchNormalization(2, per_iteration_affine=True)
    x = features("batch")
    layer.build(x.shape)
    scale, offset, mean, variance = np.array([[0.5, 2, -1, 3], [1, 0, -2, 5], [3, -1, 0, 5], [4, 0.25, 1, 1e-6]])
    for part, values in ((layer.gammas, scale), (layer.betas, offset)):
        part[1].assign(values)
    for part, values in ((layer.moving_means, mean), (layer.moving_variances, variance)):
        part[1].assign(values)
    by_scale = scale / np.sqrt(variance + EPSILON)
    by_hand = by_scale, offset - mean * by_scale
    for ours, expected in zip(layer.affine_map(1), by_hand, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


@NEEDS_TENSORFLOW
def test_images_on_one_replica_take_the_fused_path(monkeypatch):
    taken = []
    for path in ("_fused", "_by_moments"):
        function = getattr(paths, path)
        monkeypatch.setattr(paths, path, lambda *a, f=function, name=path: taken.append(name) or f(*a))
    paths.batch_normalize(features("batch"), [1.0] * 4, [0.0] * 4, EPSILON)
    paths.batch_normalize(features("batch")[:, 0], [1.0] * 4, [0.0] * 4, EPSILON)
    monkeypatch.setattr(paths, "num_replicas", lambda: 2)
    monkeypatch.setattr(paths.ops, "moments", lambda x, axes, synchronized: (synchronized, None))
    monkeypatch.setattr(paths.ops, "batch_normalization", lambda x, *a, **k: x)
    _, synchronized, _ = paths.batch_normalize(features("batch"), [1.0] * 4, [0.0] * 4, EPSILON)
    assert taken == ["_fused", "_by_moments", "_by_moments"]
    assert synchronized


GIVEN_PATHS = [pytest.param("_fused_by", marks=NEEDS_TENSORFLOW), "_affine_by"]


class NormalizeByGiven(Normalize):
    """The same with statistics that are given."""

    mean, variance = np.array([3.0, -1, 0, 5], "float32"), np.array([4.0, 0.25, 1, 1e-7], "float32")

    def call(self, x):
        given = (self.mean, self.variance, self.scale.value, self.offset.value)
        return keras.ops.cast(self.normalize(x, *given, EPSILON), "float32")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("path", GIVEN_PATHS)
def test_given_statistics_normalize_as_numpy_does(path, case, dtype):
    layer = NormalizeByGiven(path, dtype)
    x = features(case)
    scale, offset = (np.array(weight, "float64") for weight in (layer.scale, layer.offset))
    upstream = np.random.default_rng(3).normal(size=x.shape).astype("float32")
    normal = (rounded(x, dtype) - layer.mean) / np.sqrt(layer.variance.astype("float64") + EPSILON)
    by_output = rounded(upstream, dtype)
    layer(x)  # builds it
    outputs, by_x, (by_scale, by_offset) = layer_gradients(layer, x, upstream)
    for channel in range(4):  # whose values are of very different sizes
        assert_near(outputs[..., channel], (normal * scale + offset)[..., channel], dtype)
        slope = scale[channel] / np.sqrt(layer.variance[channel].astype("float64") + EPSILON)
        assert_near(by_x[..., channel], (by_output * slope)[..., channel], dtype)
        assert_near(
            by_scale[channel], (by_output * normal)[..., channel].sum(), dtype, np.abs(normal[..., channel]).sum()
        )
        assert_near(by_offset[channel], by_output[..., channel].sum(), dtype, np.abs(by_output).sum())


@pytest.mark.parametrize("path", GIVEN_PATHS)
def test_given_statistics_normalize_an_empty_batch(path):
    outputs = getattr(paths, path)(keras.ops.zeros((0, 6, 6, 4)), *[keras.ops.ones(4)] * 4, EPSILON)
    assert tuple(outputs.shape) == (0, 6, 6, 4)


@NEEDS_TENSORFLOW
def test_images_take_the_fused_path_by_given_statistics_too(monkeypatch):
    taken = []
    for path in ("_fused_by", "_affine_by"):
        function = getattr(paths, path)
        monkeypatch.setattr(paths, path, lambda *a, f=function, name=path: taken.append(name) or f(*a))
    for x in (features("batch"), features("batch")[:, 0], features("batch").astype("float64")):
        paths.normalize_by(x, *[np.ones(4, "float32")] * 4, EPSILON)
    assert taken == ["_fused_by", "_affine_by", "_affine_by"]
