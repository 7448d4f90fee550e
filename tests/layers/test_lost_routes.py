"""Warnings of modules that are trained in a plain Keras model, where nothing pays for halting or hears of samples."""

import contextlib
import warnings

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import EAGERLY_ON_TENSORFLOW, LOSS, images_and_labels, slow_on_jax
from reset_keras.callbacks import RoutingWarning

ON_JAX = keras.backend.backend() == "jax"
IMAGES, LABELS = images_and_labels(8)
INPUTS = (8, 8, 1)
FREE = r"\['halts'\] have halting, which is trained here without a ponder cost.*rk.PonderCost\(0.01\)"


def graph(return_routes=True, scorer="gumbel_st", halting="act"):
    """Inputs, outputs and routes of a small network with one module."""
    inputs = keras.Input(INPUTS)
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    module = rk.ReSet(1, 2, scorer=scorer, halting=halting, return_routes=return_routes, name="halts")
    x, routes = module(x) if return_routes else (module(x), None)
    return inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)), routes


def plain(model):
    model.compile("sgd", LOSS, run_eagerly=not ON_JAX)
    return model


@contextlib.contextmanager
def silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RoutingWarning)
        yield


def test_halting_without_a_ponder_cost_is_named_in_training_only():
    inputs, outputs, _ = graph(return_routes=False)
    model = keras.Model(inputs, outputs)
    plain(model)
    with silence():
        model.predict(IMAGES, verbose=0)
        model.evaluate(IMAGES, LABELS, verbose=0)
    model.compile("sgd", LOSS)
    with pytest.warns(RoutingWarning, match=FREE):
        model.fit(IMAGES, LABELS, verbose=0)


@pytest.mark.skipif(ON_JAX, reason="a layer does not learn there which model it is called by")
def test_routes_that_a_plain_model_does_not_use_are_lost():
    inputs, outputs, _ = graph()
    for model in (keras.Model(inputs, outputs), keras.Sequential([keras.Model(inputs, outputs)])):
        with pytest.warns(RoutingWarning, match=FREE):
            plain(model).train_on_batch(IMAGES, LABELS)


def test_a_routed_model_in_a_plain_one_gives_no_routes():
    inputs = keras.Input(INPUTS)
    model = plain(keras.Model(inputs, rk.RoutedModel(*graph()[:2])(inputs)))
    with pytest.warns(RoutingWarning, match=FREE) as found:
        model.train_on_batch(IMAGES, LABELS)
    assert len([warning for warning in found if warning.category is RoutingWarning]) == 1


@slow_on_jax
def test_who_pays_is_not_warned():
    inputs, outputs, routes = graph()
    routed = rk.RoutedModel(inputs, outputs)
    routed.compile("sgd", LOSS, ponder_cost=rk.PonderCost(0.0), **EAGERLY_ON_TENSORFLOW)
    paying = keras.Model(inputs, {"outputs": outputs, "ponder": routes["ponder"]})
    losses = {"outputs": LOSS, "ponder": lambda _, ponder: 0.01 * keras.ops.sum(ponder, axis=-1)}
    paying.compile("sgd", losses, **EAGERLY_ON_TENSORFLOW)
    with silence():
        routed.fit(IMAGES, LABELS, verbose=0)
        routed(IMAGES, training=True)
        paying.train_on_batch(IMAGES, {"outputs": LABELS, "ponder": np.zeros((8, 2))})


def test_halting_that_is_not_trained_needs_no_cost():
    inputs, outputs, _ = graph(return_routes=False)
    model = keras.Model(inputs, outputs)
    model.get_layer("halts").halting.trainable = False
    with silence():
        plain(model).train_on_batch(IMAGES, LABELS)


def test_controllers_that_learn_by_reinforce_only_are_named():
    inputs, outputs, _ = graph(return_routes=False, scorer="hard", halting=None)
    model = plain(keras.Model(inputs, outputs))
    with pytest.warns(RoutingWarning, match=r"The controllers of \['halts'\] sample units without a gradient"):
        model.train_on_batch(IMAGES, LABELS)
    model.get_layer("halts").controller.trainable = False
    with silence():
        plain(model).train_on_batch(IMAGES, LABELS)
