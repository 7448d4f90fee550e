"""What recipes have in common: how networks are pretrained, how controllers and whole networks are trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from experiment.network_config import GumbelConfig, NetworkConfig, PretrainedConfig, RoutedConfig, load_pretrained

if TYPE_CHECKING:
    import keras

    from reset_keras.data import ImageDataset
    from reset_keras.training import Stage, Training

RATES = {"sgd": 0.1, "nesterov": 0.2, "adam": 0.001}
"""Learning rates of trainings from scratch."""

Options = Callable[[], dict[str, Any]]
Callbacks = Callable[[int], "dict[str, keras.callbacks.Callback]"]


def whole_network(
    config: NetworkConfig,
    steps: int,
    rate: float | None = None,
    options: Options = dict,
    callbacks: Callbacks | None = None,
    teacher: str | None = None,
    schedule: str | None = None,
) -> Training:
    """The training of all weights that are not frozen.

    Args:
        config: The recipe's settings.
        steps: Integer, length in batches, before the config's scale.
        rate: Float, learning rate at the start, or `None` for that of a training from scratch. Default `None`.
        options: Function that returns further arguments of `compile`. Default: none.
        callbacks: As in `Training`. Default: none.
        teacher: As in `Training`. Default: none.
        schedule: As in `make_optimizer`, or `None` for the config's. Default `None`.
    """
    rate = RATES[config.optimizer] if rate is None else rate
    if schedule is not None:
        config = dataclasses.replace(config, schedule=schedule)
    training = _training(config, config.optimizer, rate, steps, options, callbacks)
    return dataclasses.replace(training, teacher=teacher)


def controllers(
    config: RoutedConfig, steps: int, rate: float, options: Options = dict, callbacks: Callbacks | None = None
) -> Training:
    """The training of the controllers while all else is frozen: Adam, as in section 5.1. Arguments as above."""
    return _training(config, "adam", rate, steps, lambda: routing(config) | options(), callbacks)


def routing(config: RoutedConfig) -> dict[str, Any]:
    """Arguments of `compile` that all trainings of a routed network share."""
    import reset_keras as rk

    entropy = rk.Entropy(config.entropy_across, config.entropy_within)
    return {"entropy": entropy, "gradient_clip_norm": config.clip_norm}


def cooling(config: GumbelConfig) -> Callbacks:
    """Callbacks that lower the temperature of the scorers along a training."""

    def callbacks(epochs: int) -> dict[str, keras.callbacks.Callback]:
        from reset_keras.callbacks import TemperatureSchedule

        return {"temperature": TemperatureSchedule(config.temperature, config.final_temperature, epochs)}

    return callbacks


def pretraining(
    config: PretrainedConfig, dataset: ImageDataset, new: Callable[[], keras.Model], kind: str, options: Options = dict
) -> Stage:
    """The first stage of many recipes: a network from scratch, or that of the given file.

    Args:
        config: The recipe's settings.
        dataset: What the network is for.
        new: Function that returns a new network.
        kind: String, what it is, for the table.
        options: As in `whole_network`.

    Raises:
        ValueError: the given file is missing, damaged, or holds another network.
    """
    from reset_keras.training import Stage

    given = load_pretrained(config, dataset) is not None
    return Stage(
        name="pretrain",
        paper_steps="0",
        title=f"from {config.pretrained}" if given else f"{kind} from scratch",
        prepare=lambda _: load_pretrained(config, dataset) if given else new(),
        training=None if given else whole_network(config, config.pretrain_steps, config.pretrain_rate, options),
        start=None,
    )


def _training(
    config: NetworkConfig, optimizer: str, rate: float, steps: int, options: Options, callbacks: Callbacks | None
) -> Training:
    from reset_keras.training import Training, make_optimizer

    length = config.scaled(steps)

    def compile_options() -> dict[str, Any]:
        optimizer_with_rates = make_optimizer(optimizer, rate, length, config.epochs_scale, config.schedule)
        return {"optimizer": optimizer_with_rates, **options()}

    return Training(length, compile_options, callbacks or (lambda epochs: {}))
