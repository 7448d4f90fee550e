"""What `RoutedModel` and its `compile` refuse."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, get_args

import keras

from reset_keras.argument_checks import check_integer, check_real
from reset_keras.keras_internals import all_layers
from reset_keras.layers import HaltingController, ReSet, TopKScorer
from reset_keras.layers.lost_routes import halting_learns, learns_only_by_reinforce
from reset_keras.layers.reset import SEEN
from reset_keras.losses import Distillation, EarlyExits, PonderCost, SkipReward, TargetRate
from reset_keras.models.classifier import classifier_of
from reset_keras.models.operations import Operations, count_operations
from reset_keras.models.optimizer_clip import check_clip, clips_by_itself
from reset_keras.models.per_image_loss import loss_of_one_output
from reset_keras.models.routed_loss import Terms
from reset_keras.models.routed_outputs import in_order_of_modules


def check_parts(network: keras.Model) -> None:
    """No part with weights may be in two modules: Keras would save it once, and could not load the file."""
    owners: dict[int, ReSet] = {}
    for module in (layer for layer in network.layers if isinstance(layer, ReSet)):
        for part in _parts(module):
            owner = owners.setdefault(id(part), module)
            if owner is not module and part.variables:
                raise ValueError(
                    f"The modules '{owner.name}' and '{module.name}' share '{part.name}', one {type(part).__name__}; "
                    "such a model could be saved and not loaded. Give each module another one."
                )


def _parts(module: ReSet) -> list[keras.layers.Layer]:
    parts = [module.controller, module.pool, module.scorer, module.halting, *getattr(module.pool, "units", ())]
    return [part for part in parts if part is not None]


def check_loss(loss: Any, model: keras.Model, skip_reward: Any, shares: Any) -> None:
    """Terms that look at the loss of each image need one, of one output; without a loss, only `fit` needs it.

    Args:
        loss: The loss of the outputs that `compile` was given.
        model: The `RoutedModel`.
        skip_reward: The reward that it was given, or `None`.
        shares: The teacher or the early exits that have a share of the loss, or `None`.
    """
    if loss is not None and (shares is not None or getattr(skip_reward, "estimator", None) == "reinforce"):
        loss_of_one_output(loss, model.output)


def check_log_names(outputs: Sequence[str], logged: Iterable[str]) -> None:
    """Warns where the loss of one of several outputs has a name that is logged already."""
    taken = [name for name in outputs if f"{name}_loss" in set(logged)] if len(outputs) > 1 else []
    if taken:
        warnings.warn(
            f"The logs of outputs {taken} are lost: what a RoutedModel logs of its loss has the same names, such as "
            f"'{taken[0]}_loss'. Name these outputs otherwise",
            stacklevel=3,
        )


def check_terms(terms: Terms, model: keras.Model, modules: list[ReSet]) -> Operations | None:
    """The terms of the loss must fit the modules and each other.

    Args:
        terms: What `compile` was given.
        model: The `RoutedModel`.
        modules: Its modules.

    Returns:
        The model's operations where the reward has a compute target, else `None`.
    """
    _check_kinds(terms)
    _check_routes_are_known(model, modules)
    _check_skip_reward(terms.skip_reward, modules)
    operations = _operations_under_target(terms.skip_reward, model.network, modules)
    _check_target_rate(terms.target_rate, modules)
    _check_distillation(terms.distillation, model)
    _check_ponder_cost(terms.ponder_cost, modules)
    _check_early_exits(terms.early_exits, model)
    return operations


def _check_kinds(terms: Terms) -> None:
    for name, kind in Terms.__annotations__.items():
        term = getattr(terms, name)
        if not isinstance(term, kind):
            expected = get_args(kind)[0].__name__
            raise ValueError(f"`{name}` must be an rk.{expected} or None. Received: {name}={term!r}")


def _check_routes_are_known(model: keras.Model, modules: list[ReSet]) -> None:
    """Modules at any depth that learn by their routes must have given them to the model."""
    known = set(map(id, modules))
    unknown = [layer for layer in all_layers(model) if isinstance(layer, ReSet) and id(layer) not in known]
    reasons = {
        learns_only_by_reinforce: "have controllers that sample units without a gradient, and learn nothing unless",
        halting_learns: "have halting, and pay for their iterations only if",
    }
    for learns, reason in reasons.items():
        left_out = [module.name for module in unknown if learns(module)]
        if left_out:
            raise ValueError(
                f"The modules {left_out} {reason} the model knows their routes: build them with return_routes=True, "
                "and give their routes to the model too."
            )


def _check_skip_reward(skip_reward: SkipReward | None, modules: list[ReSet]) -> None:
    """The reward's estimator must fit the modules' scorers, and there must be something to skip."""
    if skip_reward is None:
        return
    scorers = sorted({type(module.scorer).__name__ for module in modules})
    if skip_reward.estimator == "reinforce":
        if not all(module.scorer.samples_units for module in modules):
            raise ValueError(
                "estimator='reinforce' needs scorers that sample one unit: scorer='hard' or 'gumbel_st'. "
                f"Received: {scorers}"
            )
    elif not all(module.scorer.has_gradient for module in modules):
        raise ValueError(
            f"estimator='straight_through' gets no gradient through these scorers: {scorers}. "
            "Use SkipReward(..., estimator='reinforce')."
        )
    if skip_reward.needs_zero_unit:
        _check_that_some_skip("A skip reward", modules)
    skip_reward.check_iterations(sum(module.num_iterations for module in modules))


def _check_target_rate(target_rate: TargetRate | None, modules: list[ReSet]) -> None:
    if target_rate is None:
        return
    rated = [module for module in modules if module.zero_unit]
    _check_that_some_skip("A target rate", modules)
    without = sorted({type(module.scorer).__name__ for module in rated if not module.scorer.has_gradient})
    if without:
        raise ValueError(
            f"`target_rate` gets no gradient through these scorers: {without}. Use scorer='gumbel_st' or a soft one."
        )
    target_rate.check_iterations(sum(module.num_iterations for module in rated))


def _check_that_some_skip(what: str, modules: list[ReSet]) -> None:
    if not any(module.zero_unit for module in modules):
        raise ValueError(f"{what} needs modules with a zero unit. Received: modules with zero_unit=False only")
    able = [module for module in modules if module.zero_unit]
    if not any(module.halting is not None or module.allowed.mask[:, -1].any() for module in able):
        raise ValueError(f"{what} needs an iteration that may be skipped. Received: `allowed` that forbids them all")


def _operations_under_target(
    skip_reward: SkipReward | None, network: keras.Model, modules: list[ReSet]
) -> Operations | None:
    """The network's operations where the reward has a compute target, which must be one that can be reached."""
    if skip_reward is None or skip_reward.target is None:
        return None
    if any(isinstance(module.scorer, TopKScorer) for module in modules):
        raise ValueError(
            "`target` needs scores that sum to 1, so that they say what is computed. Received: scorer='top_k'. Use "
            "scorer='gumbel_st' or 'hard'."
        )
    try:
        operations = count_operations(network, modules)
    except ValueError as error:
        raise ValueError(
            f"`target` needs a model whose operations can be counted. {error}. Else use constant rewards."
        ) from error
    operations.check_fraction("target", skip_reward.target)
    return operations


def _check_distillation(distillation: Distillation | None, model: keras.Model) -> None:
    if distillation is None:
        return
    teacher, outputs = distillation.teacher, model.output
    if not isinstance(outputs, keras.KerasTensor):
        shapes = [tuple(tensor.shape) for tensor in keras.tree.flatten(outputs)]
        raise ValueError(f"`distillation` needs a model with a single output. Received: outputs of shapes {shapes}")
    given = keras.tree.map_structure(lambda tensor: keras.KerasTensor(tensor.shape, tensor.dtype), model.input)
    try:
        taught = teacher.compute_output_spec(given)
    except Exception as error:
        raise ValueError(f"The teacher cannot be called with the model's inputs: {error}") from error
    found = [tuple(tensor.shape) for tensor in keras.tree.flatten(taught)]
    if not isinstance(taught, keras.KerasTensor) or found != [tuple(outputs.shape)]:
        raise ValueError(
            f"The teacher must return logits of the shape of the model's outputs, {tuple(outputs.shape)}. "
            f"Received: a teacher that returns {', '.join(map(str, found))}"
        )


def _check_ponder_cost(ponder_cost: PonderCost | None, modules: list[ReSet]) -> None:
    """Modules with halting pay for their iterations, all of them, and no others do."""
    halting = [module.name for module in modules if module.halting is not None]
    if halting and ponder_cost is None:
        raise ValueError(
            f"The modules {halting} have halting and nothing that makes them halt: compile with "
            "ponder_cost=rk.PonderCost(0.01), or with PonderCost(0.0) if only the task shall decide. "
            "Received: ponder_cost=None"
        )
    if ponder_cost is not None and not halting:
        raise ValueError(
            "A ponder cost needs modules with halting: ReSet(halting='act'). Received: ponder_cost, and modules "
            "without halting"
        )


def _check_early_exits(early_exits: EarlyExits | None, model: Any) -> None:
    """The last module must halt, and the model's classifier must be one of that module's features."""
    if early_exits is None:
        return
    module = model.routed_modules[-1]
    if not isinstance(module.controller, HaltingController):
        raise ValueError(
            "`early_exits` needs a HaltingController in the last module. Received: "
            f"'{module.name}' with a {type(module.controller).__name__}"
        )
    classifier_of(model)
    if SEEN not in in_order_of_modules(model.network.output["routes"])[-1]:
        raise ValueError(
            f'`early_exits` needs "{SEEN}". This model was loaded from an older file, whose routes lack it. '
            "Make the model again in code, and give it the weights of this one: set_weights(model.get_weights())"
        )


def check_step_options(optimizer: Any, gradient_clip_norm: float | None, batch_replication: int) -> None:
    """The norm and the number must be in their range, on a backend and with an optimizer that have them."""
    if gradient_clip_norm is not None:
        check_real("gradient_clip_norm", gradient_clip_norm, above=0.0)
    check_integer("batch_replication", batch_replication, least=1)
    if clips_by_itself(optimizer):
        check_clip(optimizer, gradient_clip_norm)
    if batch_replication > 1 and keras.backend.backend() != "tensorflow":
        raise ValueError(
            "`batch_replication` needs the TensorFlow backend; on another, repeat the images in the data. "
            f"Received: batch_replication={batch_replication} on {keras.backend.backend()}"
        )
