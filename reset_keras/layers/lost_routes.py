"""A warning where a module is trained that learns by its routes, and these reach no loss."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras

from reset_keras.keras_internals import CALLS_OF_LAYERS, all_layers, calls_of, functional, layer_that_is_called


class RoutingWarning(UserWarning):
    """Routing does not learn as it should."""


def learns_only_by_reinforce(module: Any) -> bool:
    """Whether no gradient reaches a module's controller through its scores, and there is something to learn."""
    scorer = module.scorer
    return scorer.samples_units and not scorer.has_gradient and bool(module.controller.trainable_variables)


def halting_learns(module: Any) -> bool:
    """Whether a module has halting that is trained."""
    return module.halting is not None and bool(module.halting.trainable_variables)


def warn_of_lost_routes(modules: Sequence[Any]) -> None:
    """Warns of those modules in training that learn by their routes, which nobody gets."""
    free = [m.name for m in modules if halting_learns(m)]
    if free:
        _warn(
            f"The modules {free} have halting, which is trained here without a ponder cost: nothing makes images halt. "
            "The cost is a term of a RoutedModel",
            "halting",
            ", compiled with ponder_cost=rk.PonderCost(0.01), or with PonderCost(0.0) if only the task shall decide",
        )
    unheard = [m.name for m in modules if learns_only_by_reinforce(m)]
    if unheard:
        _warn(
            f"The controllers of {unheard} sample units without a gradient, and learn nothing here: only a RoutedModel "
            "has the loss for that",
            "controller",
        )


def _warn(what: str, part: str, options: str = "") -> None:
    warnings.warn(
        f"{what}. Build modules with return_routes=True, and the model by rk.RoutedModel(inputs, outputs){options}. "
        f"To train only other parts, set module.{part}.trainable = False before `compile`",
        RoutingWarning,
        stacklevel=3,
    )


def are_lost(module: Any) -> bool:
    """Whether nobody can look at the routes of a module's call that is going on.

    That is so where the module does not return them, and where a compiled functional model of Keras goes on without
    them. On JAX a layer does not learn which model it is called by, and only the first can be known.
    """
    if not module.return_routes:
        return True
    model = layer_that_is_called()
    if not isinstance(model, keras.Model) or not model.compiled or type(model).call not in CALLS_OF_LAYERS:
        return False
    graphs = [functional(layer) for layer in all_layers(model) if type(layer).call in CALLS_OF_LAYERS]
    return any(_goes_on_without(graph, module) for graph in graphs if graph is not None)


def _goes_on_without(graph: keras.Model, module: Any) -> bool:
    """Whether a functional model calls a module, and neither reads nor returns its routes."""
    calls = calls_of(graph)
    used = {id(tensor) for call in calls for tensor in call.input_tensors}
    used |= {id(tensor) for tensor in keras.tree.flatten(graph.output)}
    routes = [tensor for call in calls if call.operation is module for tensor in call.output_tensors[1:]]
    return bool(routes) and not any(id(tensor) in used for tensor in routes)
