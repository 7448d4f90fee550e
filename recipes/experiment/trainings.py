"""What recipes have in common: how networks are pretrained, how controllers and whole networks are trained."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from experiment import rk
from experiment.network_config import (
    ControllerConfig,
    GumbelConfig,
    NetworkConfig,
    RoutedConfig,
    StartConfig,
    load_pretrained,
    new_reset,
    new_resnet,
)

RATES = {"sgd": 0.1, "nesterov": 0.2, "adam": 0.001}
"""Learning rates of trainings from scratch."""

Options = Callable[[], dict[str, Any]]
"""Function that returns arguments of `compile`: their variables are made anew for each compilation."""
Callbacks = Callable[[int], dict[str, Any]]
"""Function of the number of epochs that returns callbacks by name."""


def whole_network(
    config: NetworkConfig,
    steps: int,
    rate: float | None = None,
    options: Options = dict,
    callbacks: Callbacks = lambda _: {},
    teacher: str | None = None,
    schedule: str | None = None,
) -> rk.training.Training:
    """The training of all weights that are trainable.

    Args:
        config: The recipe's settings.
        steps: Integer, length in batches, before the config's scale.
        rate: Float, learning rate at the start, or `None` for that of a training from scratch. Default `None`.
        options: Further arguments of `compile`. Default: none.
        callbacks: As in `Training`. Default: none.
        teacher: As in `Training`. Default: none.
        schedule: As in `make_optimizer`, or `None` for the config's. Default `None`.
    """
    rate = RATES[config.optimizer] if rate is None else rate
    optimizer = (config.optimizer, rate, config.scaled(steps), config.epochs_scale, schedule or config.schedule)
    return rk.training.Training(
        steps=config.scaled(steps),
        compile_options=lambda: {
            "optimizer": rk.training.make_optimizer(*optimizer),
            "loss": rk.SmoothedCrossentropy(config.label_smoothing),
            **options(),
        },
        callbacks=callbacks,
        teacher=teacher,
    )


def controllers(
    config: RoutedConfig, steps: int, rate: float, options: Options = dict, callbacks: Callbacks = lambda _: {}
) -> rk.training.Training:
    """The training of the controllers, where only they are trainable: Adam, as in section 5.1. Arguments as above."""
    with_adam = dataclasses.replace(config, optimizer="adam")
    return whole_network(with_adam, steps, rate, lambda: routing(config) | options(), callbacks)


def routing(config: RoutedConfig) -> dict[str, Any]:
    """Arguments of `compile` that all trainings of a routed network share."""
    entropy = rk.Entropy(config.entropy_across, config.entropy_within)
    return {"entropy": entropy, "gradient_clip_norm": config.clip_norm}


def cooling(config: GumbelConfig) -> Callbacks:
    """Callbacks that lower the temperature of the scorers along a training."""
    first, last = config.temperature, config.final_temperature
    return lambda epochs: {"temperature": rk.callbacks.TemperatureSchedule(first, last, epochs)}


def pretraining(config: StartConfig, dataset: rk.data.ImageDataset, scorer: str | None = None) -> rk.training.Stage:
    """The first stage of many recipes: a network from scratch, or that of the given file.

    Args:
        config: The recipe's settings; with a scorer, a `ControllerConfig` too.
        dataset: What the network is for.
        scorer: Name of the scorer of a ReSet, or `None` for a ResNet. Default `None`.

    Raises:
        ValueError: the given file is missing, damaged, or holds another network.
    """
    routed = config if scorer and isinstance(config, ControllerConfig) else None
    options = functools.partial(routing, routed) if routed else dict
    training = whole_network(config, config.pretrain_steps, config.pretrain_rate, options)

    def new() -> Any:
        if routed is None:
            return new_resnet(config, dataset, config.units)
        return new_reset(routed, dataset, config.units, scorer=str(scorer))

    # Loaded here for its errors, before anything is trained, and again in the stage, in the scope of its strategy.
    given = load_pretrained(config, dataset) is not None
    kind = f"ReSet with {scorer} scores" if scorer else "ResNet"
    return rk.training.Stage(
        name="pretrain",
        paper_steps="0",
        title=f"from {config.pretrained}" if given else f"{kind} from scratch",
        prepare=lambda _: load_pretrained(config, dataset) if given else new(),
        training=None if given else training,
        start=None,
    )
