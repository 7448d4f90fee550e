"""Trains controllers and all other weights in turns, by three rules, and together (section 5.4.1).

    python recipes/two_phase.py                   # digits
    python recipes/two_phase.py --preset paper    # CIFAR-10: needs a GPU

The paper saw no gain over training together and gives no numbers. The rules: `steps`, a phase has a number of batches;
`convergence`, a phase ends when its loss no longer falls; `growing`, the controllers' phases get longer. All start from
the same new network and have the same number of batches. On digits: 98.89, 98.89 and 98.33 %, and 99.17 % together.
"""

from __future__ import annotations

from typing import Any

from experiment import rk
from experiment.config import flag, parse
from experiment.network_config import ControllerConfig, ScratchConfig, UnitsConfig, new_reset
from experiment.runner import run
from experiment.trainings import routing, whole_network

RULES = ("together", "steps", "convergence", "growing")


class TwoPhaseConfig(ControllerConfig, UnitsConfig, ScratchConfig):
    """Settings of the experiment."""

    clip_norm: float = flag(5.0, "largest norm of the gradient", above=0)
    rules: tuple[str, ...] = flag(RULES, "what is compared", choices=RULES)
    phase_steps: int = flag(50, "length of a phase that is counted", paper=2_000, unit="batches", least=1)
    growth: float = flag(
        1.5, "by which each phase of the controllers is longer than the last, under 'growing'", least=1
    )
    tolerance: float = flag(
        0.01, "relative fall of an epoch's loss that lets a phase go on, under 'convergence'", least=0, below=1
    )


def stages(config: TwoPhaseConfig, dataset: rk.data.ImageDataset) -> list[rk.training.Stage]:
    """A new network, then a training from it for each rule."""
    if config.strategy == "multihost":
        raise ValueError("taking turns needs TensorFlow, multihost is on JAX: take --strategy mirrored")
    new = rk.training.Stage(
        "new", "-", "ReSet, not trained", lambda _: new_reset(config, dataset, config.units), start=None
    )
    return [new, *(in_turns(config, rule) for rule in dict.fromkeys(config.rules))]


def in_turns(config: TwoPhaseConfig, rule: str) -> rk.training.Stage:
    """A training from the new network by a rule."""

    def callbacks(_: int) -> dict[str, Any]:
        if rule == "together":
            return {}
        steps = config.scaled(config.phase_steps)
        return {"two_phase": rk.callbacks.TwoPhase(rule, steps, config.growth, config.tolerance)}

    return rk.training.Stage(
        name=rule,
        paper_steps="5.4.1",
        title="all weights at once" if rule == "together" else f"in turns, rule {rule}",
        training=whole_network(config, config.train_steps, config.rate, lambda: routing(config), callbacks),
        start="new",
    )


if __name__ == "__main__":
    run(parse(TwoPhaseConfig, __doc__), stages)
