"""Frozen networks in which masks leave iterations a single choice."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import assert_equal_at_every_batch_size
from networks import ONE_BACKEND, randomize, user_model
from reset_keras.inference import freeze

ONE_DECISION = [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
NO_DECISION = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
FIRST_AND_LAST = [[1, 0, 1], [0, 1, 0], [1, 1, 1]]


class RecurrentThatCounts(rk.RNNController):
    def call(self, inputs, state, iteration=0):
        ASKED.append(iteration)
        return super().call(inputs, state, iteration=iteration)


class GateThatCounts(rk.GateController):
    def call(self, inputs, state, iteration=0):
        ASKED.append(iteration)
        return super().call(inputs, state, iteration=iteration)


ASKED = []
"""Iterations in which a controller of these classes was called."""


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
def test_with_halting_every_later_iteration_has_a_decision():
    model = masked_model(GateThatCounts(3, 3), "gumbel_st", [[1, 0, 0], [1, 0, 0], [0, 0, 1]], halting="act")
    network = freeze(model)
    ASKED.clear()
    network.graph(np.zeros((2, 8, 8, 1), "float32"))
    assert ASKED == [1]  # to run a unit or none; in the last, which runs none, all is settled
    assert_equal_at_every_batch_size(network, model)
