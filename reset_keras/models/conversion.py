"""Networks made of other networks: a ReSet of a ResNet, a model of the same weights under another scorer."""

import dataclasses
import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from reset_keras.keras_internals import all_layers
from reset_keras.layers import Controller, Halting, ReSet, ResidualPool, Scorer
from reset_keras.layers.scorers import new_scorer
from reset_keras.models.backbone import block_name, check_counts, under_policy
from reset_keras.models.reset_net import ReSetNet, module_name
from reset_keras.models.resnet import ResNet


def resnet_to_reset(
    resnet: ResNet,
    controller: "str | Controller | Sequence[Controller]" = "rnn",
    scorer: "str | Scorer" = "softmax",
    zero_unit: bool = True,
    allowed: Any = "any",
    halting: "str | Halting | None" = None,
) -> ReSetNet:
    """A ReSet whose pools hold the blocks of a trained ResNet (section 5.1 and 5.3 of the paper).

    The first block of each stage stays where it is; the others become the units of the stage's pool, which has as many
    iterations; a stage of one block stays as it is. On the route 0, 1, 2, ... the ReSet computes the ResNet's logits.
    The controllers are new.

    Args:
        resnet: A `ResNet`, at least one of whose stages has two blocks or more.
        controller: `"rnn"`, `"cnn"`, `"gate"`, `"policy"`, a `Controller`, or a list of a `Controller` for each module,
            as in `ReSetNet`. Default `"rnn"`.
        scorer: Name of a scorer, or a `Scorer`. Default `"softmax"`.
        zero_unit: Boolean, whether pools also have a zero unit. Default `True`.
        allowed: What an iteration may choose, `"any"`, `"sequential"`, a mask, or a list of one for each module, as in
            `ReSetNet`. Default `"any"`.
        halting: `"act"`, `"sact"`, or an `ACT` or `SACT`, as in `ReSet`. Default `None`.

    Returns:
        A `ReSetNet` that is not compiled, under the dtype policy of `resnet`.

    Raises:
        ValueError: `resnet` is no `ResNet`, or all its stages have a single block.

    Examples:
        >>> reset = resnet_to_reset(ResNet((2, 2, 2)), scorer="gumbel_softmax")
        >>> reset.units
        (1, 1, 1)
    """
    if not isinstance(resnet, ResNet) or max(resnet.stage_blocks) < 2:
        raise ValueError(
            "`resnet` must be a ResNet with at least two blocks in a stage: the first one is fixed, the others form "
            f"the pool. Received: {getattr(resnet, 'stage_blocks', resnet)}"
        )
    units = tuple(blocks - 1 for blocks in resnet.stage_blocks)
    with under_policy(resnet.dtype_policy):
        reset = ReSetNet(
            units,
            controller=controller,
            scorer=scorer,
            zero_unit=zero_unit,
            allowed=allowed,
            halting=halting,
            **dataclasses.asdict(resnet.backbone),
        )
    # Pools get their weights below; controllers and a policy network have no counterpart in the ResNet.
    for layer in reset.layers:
        if layer.weights and not layer.name.endswith("_reset") and layer.name != "policy_network":
            layer.set_weights(resnet.get_layer(layer.name).get_weights())
    for stage, num_units in enumerate(units):
        for index in range(num_units):
            pool = reset.get_layer(module_name(stage)).pool
            pool.load_unit(index, resnet.get_layer(block_name(stage, index + 1)))
    return reset


def first_blocks(resnet: ResNet, stage_blocks: Sequence[int]) -> ResNet:
    """A shorter ResNet, with the weights of a trained one's first blocks of each stage.

    Args:
        resnet: A `ResNet`.
        stage_blocks: Sequence of integers, blocks of each stage, no more than `resnet` has.

    Returns:
        A new `ResNet` that is not compiled, under the dtype policy of `resnet`.

    Raises:
        ValueError: `resnet` is no `ResNet`, or a stage has fewer blocks, or there are other stages.

    Examples:
        >>> first_blocks(ResNet((3, 3)), (1, 2)).stage_blocks
        (1, 2)
    """
    if not isinstance(resnet, ResNet):
        raise ValueError(f"`resnet` must be a ResNet. Received: a {type(resnet).__name__}")
    blocks = check_counts("stage_blocks", stage_blocks)
    if len(blocks) != len(resnet.stage_blocks) or any(map(operator.gt, blocks, resnet.stage_blocks)):
        raise ValueError(
            f"`stage_blocks` must be at most those of `resnet`, {resnet.stage_blocks}. Received: stage_blocks={blocks}"
        )
    with under_policy(resnet.dtype_policy):
        shorter = ResNet(blocks, **dataclasses.asdict(resnet.backbone))
    for layer in shorter.layers:
        layer.set_weights(resnet.get_layer(layer.name).get_weights())
    return shorter


def static_twin(model: ResNet | ReSetNet) -> ResNet:
    """A new ResNet of the same blocks, width and dtype policy, with which a network's time and MACs are compared.

    Args:
        model: A `ResNet` or a `ReSetNet`.

    Returns:
        A `ResNet` with new weights that is not compiled.

    Raises:
        ValueError: `model` is neither a `ResNet` nor a `ReSetNet`.

    Examples:
        >>> static_twin(ReSetNet((2, 2), num_iterations=(3, 3), input_shape=(8, 8, 1))).stage_blocks
        (4, 4)
    """
    _check_network(model)
    blocks = model.stage_blocks if isinstance(model, ResNet) else [k + 1 for k in model.num_iterations]
    with under_policy(model.dtype_policy):
        return ResNet(blocks, **dataclasses.asdict(model.backbone))


def with_dtype_policy(model: ResNet | ReSetNet, policy: Any) -> ResNet | ReSetNet:
    """A network of the same weights that computes in the types of another Keras dtype policy.

    Args:
        model: A `ResNet` or a `ReSetNet`.
        policy: A Keras dtype policy, or its name, such as `"mixed_bfloat16"`.

    Returns:
        `model` itself where that is its policy. Else a new network that is not compiled.

    Raises:
        ValueError: `model` is neither a `ResNet` nor a `ReSetNet`, or the policy is unknown.

    Examples:
        >>> with_dtype_policy(ResNet((1, 1), input_shape=(8, 8, 1)), "mixed_bfloat16").compute_dtype
        'bfloat16'
    """
    _check_network(model)
    policy = keras.dtype_policies.get(policy)
    if policy == model.dtype_policy:
        return model
    network = type(model).from_config({**model.get_config(), "dtype": keras.dtype_policies.serialize(policy)})
    network.set_weights(model.get_weights())
    return network


def with_scorer(model: keras.Model, scorer: "str | Scorer") -> Any:
    """A model of the same weights in which every module has another scorer.

    Args:
        model: A `RoutedModel`, or another model with `ReSet` layers.
        scorer: Name of a scorer, or a `Scorer` of which each module gets a new one, with another seed.

    Returns:
        A new model of the same class that is not compiled and shares no variable with `model`. What is not trainable in
        `model` is not trainable in it. Its pools have no fixed statistics, and `execution="auto"` where `model` has
        `"chosen"`, which has no gradient for scores.

    Raises:
        ValueError: `model` has no `ReSet`, or its config does not hold it, or the scorer is unknown.

    Examples:
        >>> soft = ReSetNet((2, 2), input_shape=(8, 8, 1))
        >>> hard = with_scorer(soft, "gumbel_st")
    """
    if not isinstance(model, keras.Model) or not any(isinstance(layer, ReSet) for layer in all_layers(model)):
        raise ValueError(
            "`model` must be a RoutedModel, or another that has a ReSet. Received: "
            f"a {type(model).__name__}, that has none"
        )
    serialized = (keras.saving.serialize_keras_object(new_scorer(scorer, index)) for index in itertools.count())
    # `given` counts how many scorers the config took: `serialized` is endless and cannot tell.
    given = itertools.count()
    counted = (new for new, _ in zip(serialized, given, strict=False))
    config = _with_scorers(model.get_config(), counted)
    if next(given) == 0:
        raise ValueError(
            f"The config of `model` must hold its modules, as that of a RoutedModel does. Received: a "
            f"{type(model).__name__}, whose `get_config` has no scorer. Make it with the other scorer, and give it the "
            "weights: other.set_weights(model.get_weights())"
        )
    clone = type(model).from_config(config)
    for old, new in zip(_weights_without_scorers(model), _weights_without_scorers(clone), strict=True):
        new.assign(keras.ops.convert_to_numpy(old))  # a copy: on JAX, training frees the buffers it was given
    for module in (layer for layer in all_layers(clone) if isinstance(layer, ReSet)):
        if isinstance(module.pool, ResidualPool):
            module.pool.fixed_statistics = False
            if module.pool.execution == "chosen":
                module.pool.execution = "auto"  # scores may need a gradient now
    return clone


def _check_network(model: Any) -> None:
    """Of these networks all parts are in the config, with their dtype policy."""
    if not isinstance(model, ResNet | ReSetNet):
        raise ValueError(f"`model` must be a ResNet or a ReSetNet. Received: a {type(model).__name__}")


def _with_scorers(config: Any, scorers: Iterator[dict[str, Any]]) -> Any:
    """A copy of a nested config in which the scorers of modules, and of a `ReSetNet`, are the given ones."""
    if isinstance(config, dict):
        return {
            key: next(scorers) if key == "scorer" and _is_scorer(value, config) else _with_scorers(value, scorers)
            for key, value in config.items()
        }
    if isinstance(config, list):
        return [_with_scorers(value, scorers) for value in config]
    return config


def _is_scorer(value: Any, config: dict[str, Any]) -> bool:
    """Whether the entry of a config holds a scorer, and is not what another layer calls so."""
    if not isinstance(value, dict):
        return {"units", "controller"} <= set(config)  # a `ReSetNet` may have it by its name
    found = keras.saving.get_registered_object(value.get("registered_name"))
    return "controller" in config or (isinstance(found, type) and issubclass(found, Scorer))


def _weights_without_scorers(model: keras.Model) -> list[Any]:
    modules = [layer for layer in all_layers(model) if isinstance(layer, ReSet)]
    scorers = {id(weight) for module in modules for weight in module.scorer.weights}
    return [weight for weight in model.weights if id(weight) not in scorers]
