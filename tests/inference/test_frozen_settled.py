"""Frozen networks in which masks leave iterations a single choice."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import assert_equal_at_every_batch_size
from networks import ONE_BACKEND, randomize, spread_scores, user_model
from reset_keras.inference import freeze

ONE_DECISION = [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
NO_DECISION = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
FIRST_AND_LAST = [[1, 0, 1], [0, 1, 0], [1, 1, 1]]


ASKED = []
"""Iterations in which a controller of the classes below was called."""


class Counts:
    def __call__(self, *args, **kwargs):
        ASKED.append(kwargs["iteration"])
        return super().__call__(*args, **kwargs)


class RecurrentThatCounts(Counts, rk.RNNController):
    pass


class GateThatCounts(Counts, rk.GateController):
    pass


class ConvolutionalThatCounts(Counts, rk.CNNController):
    pass


class GateThatRemembers(Counts, rk.GateController):
    """What it said before counts."""

    def initial_state(self, batch_size):
        return [keras.ops.zeros((batch_size, self.num_scores))]

    def call(self, inputs, state, iteration=0):
        logits, _ = super().call(inputs, [], iteration=iteration)
        return logits + state[0], [logits + state[0]]


def masked_model(controller, scorer, allowed, **options):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    x, routes = rk.ReSet(2, 3, controller, scorer, allowed=allowed, return_routes=True, **options)(x)
    outputs = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x))
    return randomize(rk.RoutedModel(inputs, outputs, routes=[routes]))


@pytest.mark.parametrize("scorer", ["gumbel_st", pytest.param("softmax", marks=ONE_BACKEND)])
@pytest.mark.parametrize(
    ("controller", "allowed", "expected"),
    [
        (RecurrentThatCounts, ONE_DECISION, [0, 1]),
        pytest.param(RecurrentThatCounts, NO_DECISION, [], marks=ONE_BACKEND),
        pytest.param(RecurrentThatCounts, FIRST_AND_LAST, [0, 1, 2], marks=ONE_BACKEND),
        (GateThatCounts, ONE_DECISION, [1]),
        pytest.param(GateThatCounts, FIRST_AND_LAST, [0, 2], marks=ONE_BACKEND),
        pytest.param(ConvolutionalThatCounts, FIRST_AND_LAST, [0, 2], marks=ONE_BACKEND),
        pytest.param(GateThatRemembers, ONE_DECISION, [0, 1], marks=ONE_BACKEND),
    ],
)
def test_the_controller_is_asked_up_to_the_last_decision(scorer, controller, allowed, expected):
    sizes = {} if controller is RecurrentThatCounts else {"num_iterations": 3}
    model = masked_model(controller(3, **sizes), scorer, allowed)
    network = freeze(model)
    ASKED.clear()
    outputs = network.graph(np.zeros((2, 8, 8, 1), "float32"))
    assert expected == ASKED
    scores = np.array(next(iter(outputs["routes"].values()))["scores"])
    assert not scores[:, ~np.array(allowed, bool)].any()
    assert_equal_at_every_batch_size(network, model)


@ONE_BACKEND
def test_a_policy_is_asked_where_there_is_a_choice():
    class Policy(Counts, rk.PolicyController):
        pass

    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    context = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 3)(inputs))
    x, routes = rk.ReSet(2, 3, Policy(3, 3), "hard", allowed=ONE_DECISION, return_routes=True)(x, context)
    model = randomize(rk.RoutedModel(inputs, keras.layers.Flatten()(x), routes=[routes]))
    network = freeze(model)
    ASKED.clear()
    network.graph(np.zeros((2, 8, 8, 1), "float32"))
    assert ASKED == [1]
    assert_equal_at_every_batch_size(network, model)


def operations_of(network, batch_size):
    """Names of the operations of a compiled network, in all of its functions."""
    import tensorflow as tf

    signature = tf.TensorSpec((batch_size, *network.input_shape[1:]))
    graph = tf.function(network.run).get_concrete_function(signature).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return {node.op for node in nodes}


@ONE_BACKEND
@pytest.mark.parametrize("scorer", ["hard", rk.TopKScorer(1)])
def test_iterations_with_one_choice_have_neither_branches_nor_groups(scorer):
    choosing = {"Case", "StatelessCase", "If", "StatelessIf", "DynamicPartition", "Where"}
    for batch_size in (1, None):
        settled, open_ = (
            operations_of(freeze(masked_model("rnn", scorer, mask)), batch_size) for mask in (NO_DECISION, "any")
        )
        assert not settled & choosing
        assert open_ & choosing
    model = masked_model("rnn", scorer, ONE_DECISION)
    assert_equal_at_every_batch_size(freeze(model), model)


@ONE_BACKEND
def test_logits_that_a_layer_reads_are_the_models():
    inputs = keras.Input((8, 8, 3))
    x, routes = rk.ReSet(2, 3, scorer="hard", allowed=ONE_DECISION, return_routes=True)(inputs)
    largest = keras.ops.max(routes["logits"], axis=-1)
    features = keras.layers.GlobalAveragePooling2D()(x)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    for outputs in (keras.layers.Concatenate()([features, largest]), {"features": features, **routes}):
        model = randomize(keras.Model(inputs, outputs))
        expected, found = model(images, training=False), freeze(model)(images)
        for ours, theirs in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)


@ONE_BACKEND
def test_a_module_without_decisions_is_static():
    settled, open_ = (freeze(user_model(scorer="hard", allowed=mask)) for mask in ([[0, 1, 0], [0, 0, 1]], "any"))
    assert (settled.forms(1), settled.forms(7)) == (["static"], ["static"])
    assert "static" not in open_.forms(1) + open_.forms(7)


@ONE_BACKEND
@pytest.mark.parametrize("execution", ["dense", "sparse"])
def test_in_other_forms_it_computes_the_same(execution):
    model = masked_model("rnn", "gumbel_st", ONE_DECISION)
    assert_equal_at_every_batch_size(freeze(model, execution), model)


class SigmoidScorer(rk.Scorer):
    """Weighs the only choice too, by its logit."""

    def call(self, logits, training=None):
        return keras.ops.sigmoid(logits)


@ONE_BACKEND
def test_a_scorer_that_weighs_the_only_choice_needs_its_logit():
    model = masked_model(RecurrentThatCounts(3), SigmoidScorer(), NO_DECISION)
    network = freeze(model)
    ASKED.clear()
    network.graph(np.zeros((2, 8, 8, 1), "float32"))
    assert ASKED == [0, 1, 2]
    assert_equal_at_every_batch_size(network, model)


@ONE_BACKEND
@pytest.mark.parametrize("halting", ["act", "sact"])
def test_whether_an_image_has_halted_the_controller_is_not_asked(halting):
    model = masked_model(GateThatCounts(3, 3), "gumbel_st", [[1, 0, 0], [1, 0, 0], [0, 1, 1]], halting=halting)
    spread_scores(model.routed_modules[0], keras.random.normal((8, 8, 8, 4), seed=0))
    network = freeze(model)
    ASKED.clear()
    network.graph(np.zeros((2, 8, 8, 1), "float32"))
    assert ASKED == [2]
    assert_equal_at_every_batch_size(network, model)


class ClippedScorer(rk.SoftmaxScorer):
    def noisy_logits(self, logits, noisy):
        return keras.ops.clip(logits, -1.0, 1.0)


@ONE_BACKEND
def test_a_scorer_that_changes_logits_needs_them():
    model = masked_model(RecurrentThatCounts(3), ClippedScorer(), NO_DECISION)
    assert_equal_at_every_batch_size(freeze(model), model)
