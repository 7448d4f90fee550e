"""What `tune.py` searches: settings of `from_scratch.py`, so that every trial is a command line of that recipe."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiment.config import RecipeConfig, parse
from from_scratch import FromScratchConfig

if TYPE_CHECKING:
    import keras_tuner

    from tuning.settings import TuneConfig

SIZES = {"rnn": [16, 32, 64, 128], "cnn": [8, 16, 32]}
"""Sizes of each kind of controller."""
RATES = {"sgd": (0.01, 0.3), "adam": (0.0003, 0.01)}
"""Smallest and largest learning rate of each optimizer."""
TEMPERATURES = {"temperature": (0.3, 3.0), "final_temperature": (0.1, 1.0)}
"""Smallest and largest temperatures; from the first to the final one they change geometrically."""
ENTROPIES = [0.0, 0.005, 0.02, 0.1]
SKIP_REWARDS = [0.0, 0.02, 0.05, 0.1]
NAMES = (
    "scorer",
    "controller",
    "controller_size",
    "optimizer",
    "rate",
    "entropy_across",
    "entropy_within",
    *TEMPERATURES,
    "skip_reward",
)
"""All hyperparameters, by their names in `FromScratchConfig`."""


def declare(hp: keras_tuner.HyperParameters, scorers: Sequence[str]) -> dict[str, Any]:
    """Declares the hyperparameters and returns the values of those that count in this trial, by their names in `NAMES`.

    Sizes depend on the controller and rates on the optimizer; they have other names there, as KerasTuner loses
    the value of a name that stands under two conditions. Only scorers with noise have a temperature, and only where
    scores are one-hot does skipping save anything.

    Args:
        hp: KerasTuner's container of the trial.
        scorers: Names of the scorers to choose from.
    """
    hp.Choice("scorer", list(scorers))
    hp.Choice("controller", list(SIZES))
    for controller, sizes in SIZES.items():
        with hp.conditional_scope("controller", [controller]):
            hp.Choice(f"{controller}_size", sizes)
    hp.Choice("optimizer", list(RATES))
    for optimizer, (least, most) in RATES.items():
        with hp.conditional_scope("optimizer", [optimizer]):
            hp.Float(f"{optimizer}_rate", least, most, sampling="log")
    hp.Choice("entropy_across", ENTROPIES)
    hp.Choice("entropy_within", ENTROPIES)
    with hp.conditional_scope("scorer", ["gumbel_softmax", "gumbel_st"]):
        for name, (least, most) in TEMPERATURES.items():
            hp.Float(name, least, most, sampling="log")
    with hp.conditional_scope("scorer", ["gumbel_st"]):
        hp.Choice("skip_reward", SKIP_REWARDS)
    declared = {"controller_size": f"{hp['controller']}_size", "rate": f"{hp['optimizer']}_rate"}
    names = {name: declared.get(name, name) for name in NAMES}
    return {name: _rounded(hp[own]) for name, own in names.items() if own in hp}


def scratch_config(config: TuneConfig, values: dict[str, Any]) -> FromScratchConfig:
    """The settings of `from_scratch.py` with these hyperparameters, at full length times the search's scale.

    Args:
        config: Settings of the search.
        values: Hyperparameters, from `declare`.
    """
    defaults = parse(FromScratchConfig, "", ["--preset", config.preset])
    shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(RecipeConfig)}
    shared |= {"units": config.units, "workdir": f"{config.workdir}/best"}
    return dataclasses.replace(defaults, **shared, **values)


def command(config: FromScratchConfig) -> str:
    """The command line with these settings: the flags that differ from the defaults of its preset."""
    defaults = parse(FromScratchConfig, "", ["--preset", config.preset])
    words = ["python", "recipes/from_scratch.py"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        # The defaults are those of this preset, beside which the preset itself would never differ.
        default = field.default if field.name == "preset" else getattr(defaults, field.name)
        if value != default:
            words += [f"--{field.name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)


def _rounded(value: Any) -> Any:
    """A number with two digits, as a command line is read by people."""
    return float(f"{value:.2g}") if isinstance(value, float) else value
