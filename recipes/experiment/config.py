"""Settings of a recipe: a dataclass whose fields are the flags of its command line.

This module imports nothing heavy, so that `--help` and mistakes in a flag are answered at once.
"""

import argparse
import dataclasses
import functools
import math
import operator
import pathlib
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

PRESETS = ("quick", "fast", "paper")
FAST: dict[str, Any] = {
    "preset": "fast",
    "epochs_scale": 0.122,
    "precision": "auto",
    "optimizer": "nesterov",
    "schedule": "warmup_cosine",
    "weight_decay": 2.5e-4,
    "label_smoothing": 0.1,
}
"""Settings of `--preset fast` that are not the paper's: all trainings are shorter by one factor, 20 passes over
CIFAR-10's training images for the paper's 64,000 batches, with one schedule of the learning rate for all. Rate, weight
decay and label smoothing were chosen on held-out training images (results/fast_preset.md)."""
Config = TypeVar("Config", bound="Flags")


LIMITS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "above": ("above", operator.gt),
    "least": ("at least", operator.ge),
    "below": ("below", operator.lt),
    "most": ("at most", operator.le),
}
"""What a value must be to a limit, in words and as a function of both."""


def flag(
    quick: Any, text: str, *, paper: Any = None, unit: str = "", choices: Sequence[str] = (), **limits: float
) -> Any:
    """A field of a config.

    Args:
        quick: Value under `--preset quick`.
        text: What the setting is, for `--help`.
        paper: Value under `--preset paper`; `None`: the same.
        unit: String, the unit of a number.
        choices: All values there are, where they can be listed.
        **limits: `above`, `least`, `below` or `most`: numbers that the value must be above, at least, below or at most.
    """
    values = {"quick": quick, "paper": quick if paper is None else paper}
    meta = {"text": text, "values": values, "unit": unit, "choices": choices, "limits": limits}
    return dataclasses.field(default=quick, metadata=meta)


@typing.dataclass_transform(frozen_default=True, field_specifiers=(flag,))
@dataclasses.dataclass(frozen=True)
class Flags:
    """Base class of configs: each is a frozen dataclass, whose fields are the flags of a command."""

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(frozen=True)(cls)


class Settings(Flags):
    """Settings that every command has."""

    preset: str = flag(
        "quick",
        "size of the run: quick, minutes on two CPU cores; fast, CIFAR-10 in hours on them; paper, the paper's numbers",
        paper="paper",
        choices=PRESETS,
    )
    workdir: str = flag("", "folder of the run; empty: runs/NAME-OF-THE-RECIPE")


class RecipeConfig(Settings):
    """Settings that all recipes have."""

    dataset: str = flag("digits", "'digits', or a dataset's name in TensorFlow Datasets", paper="cifar10")
    image_size: int | None = flag(None, "height and width images are resized to", unit="pixels", least=8)
    seed: int = flag(0, "start of all random numbers", least=0, below=2**32 - 1)
    strategy: str = flag(
        "auto",
        "mirrored trains on all devices of this machine, auto does where there are several GPUs, multihost trains on "
        "those of several processes and needs KERAS_BACKEND=jax",
        choices=("auto", "none", "mirrored", "multihost"),
    )
    epochs_scale: float = flag(1.0, "factor on the length of every training", above=0, below=1e6)
    precision: str = flag(
        "float32",
        "type that networks compute in; auto: bfloat16 where the machine has instructions for it, else float32",
        choices=("auto", "float32", "bfloat16"),
    )
    batch_size: int = flag(64, "size of a training batch, over all devices", paper=128, unit="images", least=1)

    REPLACEABLE: typing.ClassVar[tuple[str, ...]] = ("workdir", "strategy")
    """Settings in which a run may differ from the one that it resumes."""

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def scaled(self, steps: int) -> int:
        """A number of training steps times `epochs_scale`, at least 1."""
        return max(1, round(steps * self.epochs_scale))


def parse(config: type[Config], description: str, arguments: Sequence[str] | None = None) -> Config:
    """Settings from a command line; mistakes end the process with one line and exit code 2.

    Args:
        config: The recipe's config class.
        description: What the recipe does, for `--help`.
        arguments: Words of the command line. Default: this process's.
    """
    # The defaults of all other flags depend on the preset, so it is read first, by a parser that knows only this flag.
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=PRESETS, default="quick")
    preset = first.parse_known_args(arguments)[0].preset
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        parser.add_argument(f"--{field.name.replace('_', '-')}", **_options(field, hints[field.name], preset))
    values = vars(parser.parse_args(arguments))
    if values.get("workdir") == "":
        values["workdir"] = str(pathlib.Path("runs", pathlib.Path(parser.prog).stem))
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return config(**settings)


def distinct(name: str, values: Sequence[float]) -> list[float]:
    """Values of a flag by which stages are named, each once.

    Args:
        name: The flag.
        values: Its values.

    Raises:
        ValueError: two values are too near to each other to be told apart by their names.
    """
    found = list(dict.fromkeys(values))
    if len({f"{value:g}" for value in found}) < len(found):
        raise ValueError(
            f"{name}: stages are named by six digits of each value, which must differ. Received: "
            + " ".join(map(str, values))
        )
    return found


def fail(message: str) -> NoReturn:
    """Ends the process with one line and exit code 2."""
    print(f"{pathlib.Path(sys.argv[0]).name}: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes end the process with one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message} (--help lists all flags)")


def _options(field: dataclasses.Field, hint: Any, preset: str) -> dict[str, Any]:
    """Arguments of argparse for a field: its type is `int`, `int | None` or `tuple[int, ...]`, or likewise another."""
    meta = field.metadata
    values = {"fast": FAST.get(field.name, meta["values"]["paper"]), **meta["values"]}
    options = {"default": values[preset], "help": _help(meta, values)}
    if hint is bool:
        return options | {"action": argparse.BooleanOptionalAction}
    # The first argument of `int | None` and of `tuple[int, ...]` is the number's type; `int` has no arguments.
    kind = (*typing.get_args(hint), hint)[0]
    options |= {"type": functools.partial(_convert, kind, meta["limits"]), "metavar": kind.__name__.upper()}
    if meta["choices"]:
        options |= {"choices": meta["choices"], "metavar": "|".join(meta["choices"])}
    return options | {"nargs": "+"} if typing.get_origin(hint) is tuple else options


def _help(meta: Any, values: dict[str, Any]) -> str:
    quick, fast, paper = (_shown(values[preset]) for preset in PRESETS)
    default = f"default {quick}"
    if (quick, fast, paper) == PRESETS:  # the preset itself
        pass
    elif fast == paper != quick:
        default += f", fast and paper {paper}"
    else:
        default += f", fast {fast}" * (fast != quick) + f", paper {paper}" * (paper != quick)
    details = f"{meta['unit']}; {default}" if meta["unit"] else default
    # argparse formats help texts with %.
    return f"{meta['text']} ({details})".replace("%", "%%")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "all"
    return {None: "none", "": "empty"}.get(value, str(value))


def _convert(kind: type, limits: dict[str, float], text: str) -> Any:
    try:
        value = kind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a value of type {kind.__name__}, received {text!r}") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, received {text}")
    for name, limit in limits.items():
        words, holds = LIMITS[name]
        if not holds(value, limit):
            raise argparse.ArgumentTypeError(f"must be {words} {limit}, received {text}")
    return value
