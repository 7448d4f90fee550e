"""What is folded, kept and copied when a functional network is frozen."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import assert_frozen_equals, expected_of, outputs_of, plain_convolution
from networks import randomize, slow_on_jax
from reset_keras.inference import freeze
from reset_keras.keras_internals import all_layers


def test_a_convolution_that_an_operation_reads_too_is_kept():
    inputs = keras.Input((6, 6, 3))
    features = plain_convolution()(inputs)
    assert_frozen_equals(inputs, rk.IterationBatchNormalization()(features) + features)


@pytest.mark.parametrize("iterations", [(0,), (1,), (0, 1), (1, 1, 0)], ids=str)
def test_iterations_that_are_named_in_the_network(iterations):
    """A recurrence that is written out: the same convolution and batch norm, and the same unit, again and again."""
    inputs = keras.Input((6, 6, 3))
    conv, norm, unit = plain_convolution(), rk.IterationBatchNormalization(2), rk.ResidualUnit(3, num_iterations=2)
    x = inputs
    for iteration in iterations:
        x = norm(conv(x), iteration=iteration)
        x = x + unit(x, iteration=iteration)
    assert_frozen_equals(inputs, x)


def test_layers_that_another_network_calls_too_are_folded():
    inputs = keras.Input((6, 6, 3))
    conv, norm = plain_convolution(), rk.IterationBatchNormalization()
    norm(norm(conv(keras.Input((4, 4, 3)))))
    assert_frozen_equals(inputs, norm(conv(inputs)))
    network = freeze(keras.Model(inputs, norm(conv(inputs))))
    assert not any(isinstance(layer, rk.IterationBatchNormalization) for layer in network.graph.layers)


@pytest.mark.parametrize("nested", [False, True], ids=["layer", "in a model"])
def test_statistics_of_a_normalization_are_kept(nested):
    inputs = keras.Input((6, 6, 3))
    normalization = keras.layers.Normalization()
    normalization.adapt(np.random.default_rng(1).normal(3, 2, size=(5, 6, 6, 3)))
    layer = keras.Sequential([keras.layers.Rescaling(2), normalization]) if nested else normalization
    model = keras.Model(inputs, layer(inputs))
    images = np.random.default_rng(0).normal(size=(3, 6, 6, 3)).astype("float32")
    np.testing.assert_allclose(outputs_of(freeze(model), images), expected_of(model, images), atol=1e-5)


@keras.saving.register_keras_serializable("tests")
class NormalizingController(rk.CNNController):
    """Looks at normalized features."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.normalization = keras.layers.Normalization()

    def build(self, inputs_shape, state_shape=None):
        super().build(inputs_shape, state_shape)
        self.normalization.build(inputs_shape)

    def call(self, inputs, state, iteration=0):
        return super().call(self.normalization(inputs), state, iteration)


@pytest.mark.parametrize("part", ["unit", "controller"])
def test_statistics_of_a_normalization_in_a_module_are_kept(part):
    inputs = keras.Input((6, 6, 3))
    normalization = keras.layers.Normalization()
    units, controller = (
        ([normalization, plain_convolution()], "cnn") if part == "unit" else (2, NormalizingController(3, 2))
    )
    x, routes = rk.ReSet(units, 2, controller, "softmax", return_routes=True)(inputs)
    model = randomize(rk.RoutedModel(inputs, x, routes=[routes]))
    adapted = normalization if part == "unit" else controller.normalization
    adapted.adapt(np.random.default_rng(1).normal(3, 2, size=(5, 6, 6, 3)))
    images = np.random.default_rng(0).normal(size=(3, 6, 6, 3)).astype("float32")
    np.testing.assert_allclose(outputs_of(freeze(model), images), expected_of(model, images), atol=1e-4)


@keras.saving.register_keras_serializable("tests")
class BrightConvolution(keras.layers.Conv2D):
    def call(self, inputs):
        return 2 * super().call(inputs) + 1


@keras.saving.register_keras_serializable("tests")
class StrongUnit(rk.ResidualUnit):
    def call(self, inputs, iteration=0, training=None):
        return 3 * super().call(inputs, iteration, training)


@keras.saving.register_keras_serializable("tests")
class DoubledReSet(rk.ReSet):
    def call(self, inputs, context=None, training=None):
        return 2 * super().call(inputs, context, training)


@keras.saving.register_keras_serializable("tests")
class DoubledUpdate(rk.ReSet):
    def update(self, x, scores, iteration, training=None):
        return 2 * super().update(x, scores, iteration, training)


@keras.saving.register_keras_serializable("tests")
class OppositeDecision(rk.ReSet):
    def _decide(self, x, state, iteration):
        logits, state = super()._decide(x, state, iteration)
        return -logits, state


@keras.saving.register_keras_serializable("tests")
class HalfScorer(rk.GumbelSTScorer):
    def call(self, logits, training=None):
        return 0.5 * super().call(logits, training)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: StrongUnit(3),
        lambda: DoubledReSet(2, 2, scorer="gumbel_st"),
        lambda: DoubledUpdate(2, 2, scorer="gumbel_st"),
        lambda: OppositeDecision(2, 2, scorer="softmax"),
        lambda: rk.ReSet(2, 2, scorer=HalfScorer()),
    ],
    ids=["unit", "module", "update", "decision", "scorer"],
)
def test_classes_of_ones_own_compute_what_they_did(layer):
    inputs = keras.Input((6, 6, 3))
    features = BrightConvolution(3, 3, padding="same")(inputs)
    assert_frozen_equals(inputs, layer()(rk.IterationBatchNormalization()(features)))


@pytest.mark.parametrize("after", [rk.IterationBatchNormalization, keras.layers.ReLU])
@pytest.mark.parametrize("layer", [plain_convolution, lambda: keras.layers.Dense(3)], ids=["convolution", "dense"])
def test_low_rank_updates_are_kept(layer, after):
    inputs, layer = keras.Input((6, 6, 3)), layer()
    outputs = after()(layer(inputs))
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))  # at first they are 0
    assert_frozen_equals(inputs, outputs)


@pytest.mark.parametrize("names", [("first", "second"), ("outputs", "second")], ids=str)
def test_outputs_by_name(names):
    inputs = keras.Input((6, 6, 3))
    model = keras.Model(inputs, {name: plain_convolution()(inputs) for name in names})
    images = np.random.default_rng(0).normal(size=(3, 6, 6, 3)).astype("float32")
    outputs, expected = freeze(model)(images), model(images, training=False)
    assert set(outputs) == set(names)
    for name in names:
        np.testing.assert_allclose(outputs[name], expected[name], atol=1e-6)


@pytest.mark.parametrize("inputs_as", [lambda x: [x], lambda x: {"images": x}], ids=["list", "dict"])
def test_one_input_in_a_nest(inputs_as):
    inputs = keras.Input((6, 6, 3), name="images")
    model = keras.Model(inputs_as(inputs), plain_convolution()(inputs))
    images = np.random.default_rng(0).normal(size=(3, 6, 6, 3)).astype("float32")
    expected = expected_of(model, inputs_as(images))
    np.testing.assert_allclose(outputs_of(freeze(model), images), expected, atol=1e-6)


@keras.saving.register_keras_serializable("tests")
class UnbuiltController(rk.Controller):
    """A controller without a `build` of its own: its layers make their weights when they are first called."""

    def __init__(self, num_scores, **kwargs):
        super().__init__(num_scores, **kwargs)
        self.cell = keras.layers.GRUCell(4)
        self.heads = [keras.layers.Dense(num_scores) for _ in range(2)]

    def initial_state(self, batch_size):
        return [keras.ops.zeros((batch_size, 4))]

    def call(self, inputs, state, iteration=0):
        output, next_state = self.cell(
            keras.ops.concatenate([keras.ops.mean(inputs, axis=(1, 2)), state[0]], axis=-1), state
        )
        return self.heads[iteration](output), list(next_state)


@slow_on_jax
def test_a_controller_whose_weights_are_made_by_calling_it():
    controller = UnbuiltController(3)
    for iteration in range(2):
        controller(keras.ops.zeros((5, 6, 6, 3)), controller.initial_state(5), iteration=iteration)
    inputs = keras.Input((6, 6, 3))
    assert_frozen_equals(inputs, rk.ReSet(2, 2, controller, scorer="gumbel_st")(inputs))


def routed_model():
    inputs = keras.Input((6, 6, 3))
    x = rk.IterationBatchNormalization()(plain_convolution()(inputs))
    x, routes = rk.ReSet(2, 1, scorer="gumbel_st", return_routes=True)(x)
    return rk.RoutedModel(inputs, x, routes=[routes])


def twice(model):
    inputs = keras.Input((6, 6, 3))
    return keras.Model(inputs, keras.layers.Softmax()(model(model(inputs))))


def deep(model):
    inputs = keras.Input((6, 6, 3))
    return keras.Sequential([keras.Input((6, 6, 3)), keras.Model(inputs, model(plain_convolution()(inputs)))])


@pytest.mark.parametrize("around", [twice, deep])
def test_a_routed_model_in_a_model_skips_too(around):
    model = randomize(around(routed_model()))
    network = freeze(model)
    assert network.forms(1) == ["branch"]
    assert not any(isinstance(layer, rk.IterationBatchNormalization) for layer in all_layers(network.graph))
    images = np.random.default_rng(0).normal(size=(3, 6, 6, 3)).astype("float32")
    for batch in (images, images[:1]):
        np.testing.assert_allclose(outputs_of(network, batch), expected_of(model, batch), atol=1e-4, rtol=1e-4)


def test_two_inputs_of_a_model_in_a_model():
    pair = {"a": keras.Input((6, 6, 3), name="a"), "b": keras.Input((6, 6, 3), name="b")}
    difference = keras.Model(pair, plain_convolution()(pair["a"]) - pair["b"])
    inputs = keras.Input((6, 6, 3))
    assert_frozen_equals(inputs, difference({"a": inputs, "b": plain_convolution()(inputs)}))


@keras.saving.register_keras_serializable("tests")
class Negated(keras.Model):
    def call(self, inputs, training=None):
        return -super().call(inputs, training=training)


@keras.saving.register_keras_serializable("tests")
class NegatedRoutes(rk.RoutedModel):
    def call(self, inputs, training=None, mask=None, return_routes=False):
        outputs = super().call(inputs, training, mask, return_routes)
        return outputs if return_routes else -outputs


@pytest.mark.parametrize("made", [Negated, NegatedRoutes])
def test_a_model_of_a_class_with_a_call_keeps_it_in_a_model_and_is_refused_by_itself(made):
    inner, inputs = keras.Input((6, 6, 3)), keras.Input((6, 6, 3))
    x, _ = rk.ReSet(2, 3, scorer="gumbel_st", return_routes=True)(plain_convolution()(inner))
    model = made(inner, x)
    assert_frozen_equals(inputs, model(inputs))
    with pytest.raises(ValueError, match=rf"of a class without another `call`. Received: a {made.__name__}"):
        freeze(model)


def test_a_controller_of_another_type_decides_in_float32():
    inputs = keras.Input((6, 6, 3))
    controller = rk.RNNController(3, dtype="mixed_bfloat16")
    x, routes = rk.ReSet(2, 2, controller, "softmax", return_routes=True)(inputs)
    model = randomize(rk.RoutedModel(inputs, x, routes=[routes]))
    images = np.random.default_rng(0).normal(size=(3, 6, 6, 3)).astype("float32")
    # Both op by op: compiled, XLA rounds bfloat16 at other places.
    (expected,) = model(images, return_routes=True).routes
    (found,) = freeze(model).graph(images)["routes"].values()
    for name, ours in found.items():
        assert ours.dtype == expected[name].dtype == "float32"
        np.testing.assert_allclose(ours, expected[name], atol=1e-5)
