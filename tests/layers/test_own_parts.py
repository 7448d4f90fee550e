"""Controllers, pools and units of one's own, whose layers their module builds."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import expected_of
from networks import EAGERLY_ON_TENSORFLOW, slow_on_jax
from reset_keras.layers.unit_pool import weighted

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 6)).astype("float32")


@keras.saving.register_keras_serializable("tests")
class ScaledController(rk.Controller):
    """A `build` for a weight of its own; the layer from `__init__` is left to its module."""

    def __init__(self, num_scores, **kwargs):
        super().__init__(num_scores, **kwargs)
        self.dense = keras.layers.Dense(num_scores)

    def build(self, inputs_shape, state_shape=None):
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, inputs, state, iteration=0):
        return self.scale * self.dense(keras.ops.mean(inputs, axis=(1, 2))), state


@keras.saving.register_keras_serializable("tests")
class ConvolutionPool(rk.layers.Pool):
    """No `build`: a convolution for each unit and iteration."""

    def __init__(self, num_units, **kwargs):
        super().__init__(**kwargs)
        self.num_units = num_units
        self.convolutions = [[keras.layers.Conv2D(6, 3, padding="same") for _ in range(2)] for _ in range(num_units)]

    def call(self, inputs, scores, iteration=0):
        self.check_scores(scores)
        return sum(weighted(unit[iteration](inputs), scores, index) for index, unit in enumerate(self.convolutions))

    def get_config(self):
        return {**super().get_config(), "num_units": self.num_units}


@keras.saving.register_keras_serializable("tests")
class Gain(keras.layers.Layer):
    """It cannot do without the iteration."""

    def build(self, input_shape):
        self.gains = self.add_weight(shape=(2,), initializer="ones", name="gains")

    def call(self, inputs, iteration):
        return self.gains[iteration] * inputs


@slow_on_jax
@pytest.mark.parametrize(
    ("make", "part", "shapes"),
    [
        (lambda: rk.ReSet(2, 2, ScaledController(3), return_routes=True), "controller", [(), (6, 3), (3,)]),
        (lambda: rk.ReSet(ConvolutionPool(2), 2, return_routes=True), "pool", [(3, 3, 6, 6), (6,)] * 4),
        (lambda: rk.ReSet([Gain(), Gain()], 2, return_routes=True), "pool", [(2,), (2,)]),
    ],
    ids=["controller", "pool", "unit"],
)
def test_they_are_built_trained_and_saved(make, part, shapes, tmp_path):
    inputs = keras.Input(IMAGES.shape[1:])
    x, routes = make()(inputs)
    model = rk.RoutedModel(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)), routes=[routes])
    own = getattr(model.routed_modules[0], part)
    before = own.get_weights()
    assert [weight.shape for weight in before] == shapes
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), **EAGERLY_ON_TENSORFLOW)
    model.fit(IMAGES, np.arange(4) % 2, epochs=2, verbose=0)
    assert not any(np.array_equal(*pair) for pair in zip(before, own.get_weights(), strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(expected_of(loaded, IMAGES), expected_of(model, IMAGES))


def test_a_pool_that_runs_no_single_units_serves_a_controller_that_runs_them_in_order():
    class InOrder(rk.FixedController):
        runs_in_order = True

    pool = ConvolutionPool(2)
    output = rk.ReSet(pool, 2, InOrder(3, [0, 2]), "hard")(IMAGES)
    np.testing.assert_allclose(output, np.maximum(IMAGES + pool.convolutions[0][0](IMAGES), 0.0), atol=1e-5)


@pytest.mark.parametrize("own", [ConvolutionPool, ScaledController])
def test_operations_of_ones_own_parts_cannot_be_counted(own):
    parts = {"units": ConvolutionPool(2)} if own is ConvolutionPool else {"units": 2, "controller": ScaledController(3)}
    inputs = keras.Input(IMAGES.shape[1:])
    x, routes = rk.ReSet(**parts, num_iterations=2, return_routes=True)(inputs)
    model = rk.RoutedModel(inputs, x, routes=[routes])
    with pytest.raises(ValueError, match=f"of the type {own.__name__}, only those of"):
        rk.inference.compute_fractions(model, [])
