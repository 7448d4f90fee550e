"""Parts of frozen modules that a user wrote: copied, or frozen themselves, with all that they need."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import expected_of, outputs_of
from networks import ON_TENSORFLOW, ONE_BACKEND, NormedUnit, randomize
from reset_keras.inference import export, freeze
from reset_keras.inference.frozen.frozen_reset import FrozenReSet

IMAGES = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype("float32")


def assert_equals(model, images=IMAGES):
    network, expected = freeze(model), expected_of(model, images)
    for size in (1, len(images)):
        np.testing.assert_allclose(outputs_of(network, images[:size]), expected[:size], atol=1e-4, rtol=1e-4)
    return network


def model_of(units, num_iterations=2, **options):
    inputs = keras.Input((8, 8, 3))
    x, routes = rk.ReSet(units, num_iterations, return_routes=True, **options)(inputs)
    return randomize(rk.RoutedModel(inputs, x, routes=[routes]))


@pytest.mark.parametrize("scorer", ["softmax", pytest.param("gumbel_st", marks=ONE_BACKEND)])
def test_units_with_parts_for_each_iteration(scorer):
    assert_equals(model_of([NormedUnit(), NormedUnit()], scorer=scorer))


def test_units_that_are_sequential_take_features_of_any_size():
    units = [keras.Sequential([keras.layers.Conv2D(3, 3, padding="same")]) for _ in range(2)]
    module, inputs = rk.ReSet(units, 1, scorer="gumbel_st"), keras.Input((8, 8, 3))
    pooling = keras.layers.GlobalAveragePooling2D()
    whole, smaller = module(inputs), module(keras.layers.AveragePooling2D(2)(inputs))
    assert_equals(keras.Model(inputs, pooling(whole) + pooling(smaller)))


def nested_unit():
    return keras.Sequential([keras.Input((8, 8, 3)), rk.ReSet(2, 2, scorer="gumbel_st")])


@pytest.mark.slow
def test_a_module_within_a_unit_is_copied_as_it_is(tmp_path):
    network = assert_equals(model_of([nested_unit(), keras.layers.Conv2D(3, 1)]))
    assert len(network.modules) == 1
    if ON_TENSORFLOW:
        export(network, tmp_path / "network.tflite", "litert")


@keras.saving.register_keras_serializable("tests")
class Mixing(rk.Scorer):
    """Has a layer that its call builds."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3)

    def call(self, logits, training=None):
        return keras.ops.softmax(self.dense(logits))


def test_a_scorer_with_layers():
    assert_equals(model_of(2, scorer=Mixing()))


def test_units_of_a_python_function_and_of_a_class_that_is_not_registered():
    class Doubled(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    assert_equals(model_of([Doubled(), keras.layers.Lambda(lambda x: 3 * x)], 1, scorer="gumbel_st"))


def test_a_layer_of_a_python_function_around_modules():
    inputs = keras.Input((8, 8, 3))
    assert_equals(keras.Model(inputs, keras.layers.Lambda(lambda x: 3 * x)(inputs)))


@keras.saving.register_keras_serializable("tests")
class HoldsAnother(keras.layers.Layer):
    """Gives its inner layer to its config as it is, as Keras's files take it."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner if isinstance(inner, keras.layers.Layer) else keras.saving.deserialize_keras_object(inner)

    def call(self, inputs):
        return self.inner(inputs)

    def get_config(self):
        return {**super().get_config(), "inner": self.inner}


def test_a_layer_within_a_unit_is_copied_and_stays_trainable():
    model = model_of([HoldsAnother(keras.layers.Conv2D(3, 1)), keras.layers.Conv2D(3, 1)], 1)
    network, expected = assert_equals(model), expected_of(model, IMAGES)
    inner = model.routed_modules[0].pool.units[0].inner
    assert inner.trainable
    inner.kernel.assign(inner.kernel + 1)
    np.testing.assert_allclose(outputs_of(network, IMAGES), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="words need TensorFlow")
def test_an_adapted_vocabulary_is_copied():
    import tensorflow as tf

    words = keras.layers.StringLookup()
    words.adapt(["a", "b", "c"])
    inputs = keras.Input((4,), dtype="string")
    model = keras.Model(inputs, keras.layers.Embedding(9, 4)(words(inputs)))
    sentences = tf.constant([list("abca"), list("cxba")])
    np.testing.assert_allclose(outputs_of(freeze(model), sentences), expected_of(model, sentences))


def test_a_model_of_a_fixed_batch_takes_any():
    model = keras.Sequential([keras.layers.Conv2D(4, 3), rk.ReSet(2, 1, scorer="gumbel_st"), keras.layers.Flatten()])
    model(IMAGES[:1])
    network = freeze(model)
    for size in (1, 4):
        one_by_one = [expected_of(model, IMAGES[index : index + 1])[0] for index in range(size)]
        np.testing.assert_allclose(outputs_of(network, IMAGES[:size]), one_by_one, atol=1e-4, rtol=1e-4)


def test_modules_of_a_model_within_a_model_are_in_order():
    inner = rk.ReSetNet((1, 2), None, 4, (8, 8, 1), scorer="gumbel_st", width=4)
    network = freeze(keras.Sequential([keras.Input((8, 8, 1)), inner]))
    assert [module.num_iterations for module in network.modules] == [1, 2]
    assert all(isinstance(module, FrozenReSet) for module in network.modules)


@keras.saving.register_keras_serializable("tests")
class HaltsByBrightness(rk.HaltingController):
    def halts(self, features, iteration):
        return features[:, 0] > 0


def test_a_halting_controller_may_halt_by_rules_of_its_own():
    options = {"scorer": rk.HardScorer(sampled=False), "controller": HaltsByBrightness(3)}
    model = model_of(2, activation=None, **options)
    runs = np.concatenate([route["scores"] for route in model.predict_routes(IMAGES, verbose=0)], axis=1)
    assert 0 < runs[..., -1].mean() < 1
    assert_equals(model)


@keras.saving.register_keras_serializable("tests")
class HasAttributes(keras.layers.Layer):
    """Has attributes with the names that frozen layers use."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.folded = False
        self.pool = np.zeros(3)

    def call(self, inputs):
        return inputs + 1


@pytest.mark.skipif(not ON_TENSORFLOW, reason="exporting needs TensorFlow")
def test_attributes_of_ones_own_layers_are_not_taken_for_weights(tmp_path):
    inputs = keras.Input((8, 8, 3))
    export(freeze(keras.Model(inputs, HasAttributes()(inputs))), tmp_path / "network")
    assert (tmp_path / "network" / "saved_model.pb").exists()


def test_an_activation_that_is_a_layer_is_copied():
    model = model_of(1, 1, activation=keras.layers.PReLU(alpha_initializer="ones"))
    network = assert_equals(model)
    before = outputs_of(network, IMAGES)
    model.routed_modules[0].activation.alpha.assign(np.full((8, 8, 3), 2.0))
    np.testing.assert_array_equal(outputs_of(network, IMAGES), before)
    assert_equals(model)
