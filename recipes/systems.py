"""Trains one of the systems that ReSet is compared with: each is a pool, a mask, a controller and a loss.

    python recipes/systems.py --system skipnet                                        # digits
    python recipes/systems.py --system act --strengths 0.003 0.01 --workdir runs/act
    python recipes/systems.py --system aig --preset fast --pretrained resnet38_cifar10 --workdir runs/aig

Systems that share weights between blocks are trained from scratch, as long as the ResNet and what follows it together.
The others begin with one ResNet, whose blocks become their units. Each strength makes one network: for `static` it is
the share of blocks that are left, for others a reward, a price of an iteration, a share of the images that a block is
run for, a penalty for wrong answers (`blockdrop`), or a compute fraction (`reset`). Where gates or a controller choose
units, what hardly any training image chooses is forbidden at last, so that it takes no time. `docs/guides/systems.md`
shows each system in ten lines of code.

On digits a strength takes up to two and a half minutes after the ResNet's training, on two cores of an AMD EPYC
(`wall_time_s` in `results/systems_digits.csv`).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from experiment import rk
from experiment.config import distinct, flag, parse
from experiment.network_config import StartConfig, check_starts_from_resnet, starting_resnet, to_reset
from experiment.runner import run
from experiment.systems import HELD_IMAGES, ROUTE_IMAGES, SYSTEMS, System, along_routes, last_stage
from experiment.trainings import Callbacks, pretraining, whole_network

if TYPE_CHECKING:
    import numpy as np

STRENGTHS = "; ".join(
    f"{name} {' '.join(map(str, system.strengths))}" for name, system in SYSTEMS.items() if system.strengths != (0.0,)
)


class SystemsConfig(StartConfig):
    """Settings of the experiment."""

    system: str = flag("skipnet", "which one", choices=tuple(SYSTEMS))
    strengths: tuple[float, ...] = flag(
        (),
        f"how strongly it is pressed to compute less, one network for each; all: {STRENGTHS}",
        least=0,
    )
    clip_norm: float = flag(1.0, "largest norm of the gradient once the network is routed", above=0)
    system_steps: int = flag(450, "length of the training after the ResNet's", paper=64_000, unit="batches", least=2)
    system_rate: float = flag(0.05, "learning rate of that training at the start", above=0)
    imitation_smoothing: float = flag(
        0.05,
        "share of the policy spread over all choices, where controllers of reset learn the ResNet's order",
        least=0,
        below=1,
    )


def stages(config: SystemsConfig, dataset: rk.data.ImageDataset) -> list[rk.training.Stage]:
    """The ResNet, and the system's network at each strength.

    Raises:
        ValueError: the given network is no ResNet, or a strength is out of its range, or two are too near to each
            other.
    """
    check_starts_from_resnet(config, dataset)
    system = SYSTEMS[config.system]
    if config.strengths and system.strengths == (0.0,):
        raise ValueError(f"--system {config.system} has no strengths; received --strengths {config.strengths}")
    if system.most is not None and max(config.strengths, default=0.0) > system.most:
        raise ValueError(
            f"--strengths of --system {config.system} are at most {system.most:g}; received {config.strengths}"
        )
    strengths = distinct("--strengths", config.strengths or system.strengths)
    if config.system == "reset":  # whose strengths are compute fractions
        reset = to_reset(starting_resnet(config, dataset), "rnn")
        try:
            for strength in strengths:
                rk.training.check_compute_target(reset, strength)
        except ValueError as error:
            raise ValueError(f"--strengths: {error}") from error
    images = dataset.normalize(dataset.train.images[:ROUTE_IMAGES])
    found = [pretraining(config, dataset)]
    if system.then is not None:
        found.append(first_half(config, system, images))
    for strength in strengths:
        found += at_strength(config, system, strength, images)
    if system.settled:
        found += [settled(config, strength, images) for strength in strengths]
    return found


def first_half(config: SystemsConfig, system: System, images: np.ndarray) -> rk.training.Stage:
    """The training before another scorer takes over; it does not depend on the strength."""
    return rk.training.Stage(
        name=f"{config.system}_first",
        title=f"{system.name}, {system.title}: its first half",
        prepare=functools.partial(system.network, strength=0.0, images=images),
        training=training(config, system, config.system_steps // 2),
        start="pretrain",
        baseline="pretrain",
    )


def at_strength(config: SystemsConfig, system: System, strength: float, images: np.ndarray) -> list[rk.training.Stage]:
    """The system's network at a strength, in one stage or two."""
    first, second = config.system_steps // 2, config.system_steps - config.system_steps // 2
    name, title = f"{config.system}_{strength:g}", f"{system.name}, {system.title}: {strength:g}"
    stage = functools.partial(rk.training.Stage, name, title=title, baseline="pretrain")
    new = functools.partial(system.network, strength=strength, images=images, smoothing=config.imitation_smoothing)
    if system.then is not None:
        hard = functools.partial(rk.with_scorer, scorer=system.then)
        start = f"{config.system}_first"
        return [stage(prepare=hard, training=training(config, system, second, strength), start=start)]
    if not system.held:
        return [stage(prepare=new, training=training(config, system, config.system_steps, strength), start="pretrain")]

    def hold(_: int) -> dict[str, rk.callbacks.HoldCompute]:
        return {"hold_compute": rk.callbacks.HoldCompute(images[:HELD_IMAGES], strength)}

    drawn = rk.training.Stage(
        name=f"{name}_drawn",
        title=f"{title}: its first half, in which units are drawn",
        prepare=new,
        training=training(config, system, first, strength),
        start="pretrain",
        baseline="pretrain",
    )
    held = functools.partial(along_routes, compute=strength, images=images[:HELD_IMAGES])
    return [drawn, stage(prepare=held, training=training(config, system, second, callbacks=hold), start=drawn.name)]


def settled(config: SystemsConfig, strength: float, images: np.ndarray) -> rk.training.Stage:
    """The system's network at a strength, without choices that hardly any training image makes."""
    name, start = last_stage(config.system, strength), f"{config.system}_{strength:g}"
    return rk.training.Stage(
        name=name,
        title=f"{start}, only with choices that one training image in a thousand makes, or more",
        prepare=functools.partial(rk.models.with_settled_routes, images=images),
        start=start,
        baseline="pretrain",
    )


def training(
    config: SystemsConfig,
    system: System,
    steps: int,
    strength: float | None = None,
    callbacks: Callbacks | None = None,
) -> rk.training.Training:
    """That of all weights, with the system's terms at a strength, or without them; with its callbacks, or others."""

    def options() -> dict[str, Any]:
        if system.is_static:
            return {}
        return {"gradient_clip_norm": config.clip_norm, **({} if strength is None else system.terms(strength))}

    callbacks = callbacks or system.callbacks
    if system.from_resnet:
        return whole_network(config, steps, config.system_rate, options, callbacks)
    return whole_network(config, config.pretrain_steps + steps, config.pretrain_rate, options, callbacks)


if __name__ == "__main__":
    run(parse(SystemsConfig, __doc__), stages)
