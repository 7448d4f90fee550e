"""Small networks and data for the tests."""

import keras
import numpy as np
import pytest

import reset_keras as rk

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
ONE_BACKEND = pytest.mark.skipif(
    not ON_TENSORFLOW, reason="what differs between backends in it is shown by another test"
)


def slow_but(quick, names):
    """Parameters of a test, of which all but a few are slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def slow_on_jax(test):
    """Marks a test that is quick on TensorFlow, as JAX compiles what it traces."""
    return test if ON_TENSORFLOW else pytest.mark.slow(test)


EAGERLY_ON_TENSORFLOW = {"run_eagerly": ON_TENSORFLOW}
"""For a step or two: TensorFlow would trace for longer than they take; JAX would compile each operation."""
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def images_and_labels(count=32, seed=0):
    """Noise around one pattern for each of four classes: something that can be learned."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    patterns = np.random.default_rng(99).normal(size=(4, 8, 8, 1))
    return (patterns[labels] + rng.normal(0, 0.5, (count, 8, 8, 1))).astype("float32"), labels


def small_reset(scorer="softmax", zero_unit=True, **options):
    """A ReSet of two stages on images of 8 by 8 pixels."""
    return rk.ReSetNet((2, 2), None, 4, (8, 8, 1), scorer=scorer, zero_unit=zero_unit, width=4, **options)


def one_module_reset(scorer="softmax", **options):
    """One of a single stage, which is traced in half the time."""
    return rk.ReSetNet((2,), None, 4, (8, 8, 1), scorer=scorer, width=4, **options)


def user_model(**reset_options):
    """A ReSet among layers of one's own, one of which is regularized."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same", kernel_regularizer=keras.regularizers.L2(0.01))(inputs)
    x, routes = rk.ReSet(2, 2, return_routes=True, **reset_options)(x)
    return rk.RoutedModel(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)), routes=[routes])


def little_to_trace():
    """A routed model whose step is traced in the least time."""
    inputs = keras.Input((8, 8, 1))
    x, _ = rk.ReSet([keras.layers.Conv2D(1, 3, padding="same")], 1, return_routes=True)(inputs)
    return rk.RoutedModel(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(x)))


def small_resnet(**options):
    """The ResNet of the same depth."""
    return rk.ResNet((3, 3), 4, (8, 8, 1), width=4, **options)


def randomize(model, seed=0):
    """Gives a network statistics, scales and offsets unlike those of the start, and routes that differ by image."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if any(part in weight.path for part in ("gamma", "variance")):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif any(part in weight.path for part in ("beta", "mean", "bias")):
            weight.assign(rng.normal(0, 0.3, weight.shape))
        elif "controller/dense" in weight.path:
            weight.assign(rng.normal(0, 3, weight.shape))
    return model


def spread_scores(module, x):
    """Halting weights by which images halt at different iterations: along what their mean features differ most in."""
    halting, features = module.halting, []

    def never(updated, _):
        features.append(keras.ops.convert_to_numpy(updated))
        return keras.ops.full_like(updated[..., :1], -20.0)

    halting.logits = never
    module(x, training=False)
    del halting.logits
    for k, (kernel, bias) in enumerate(zip(halting.kernels, halting.biases, strict=True)):
        means = features[k].mean(axis=(1, 2))
        differences = means - means.mean(axis=0)
        direction = np.linalg.svd(differences, full_matrices=False)[2][0]
        direction *= 5.0 / (differences @ direction).std()
        kernel.assign(direction[:, None])
        bias.assign([-means.mean(axis=0) @ direction])
    for k, kernel in enumerate(getattr(halting, "convolutions", ())):
        kernel.assign(np.random.default_rng(k).normal(0, 0.2, kernel.shape))


@keras.saving.register_keras_serializable("tests")
class NormedUnit(keras.layers.Layer):
    """No `build`: a batch norm for each of two iterations."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norms = [keras.layers.BatchNormalization() for _ in range(2)]

    def call(self, inputs, iteration=0, training=None):
        return self.norms[iteration](inputs, training=training)
