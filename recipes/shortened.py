"""Trains shortened ReSets and the ResNets of their depths from scratch: table 1.

    python recipes/shortened.py                   # digits
    python recipes/shortened.py --preset paper    # CIFAR-10: needs a GPU

The paper's accuracies, ResNet and ReSet: 88.7 and 88.9 % for 1-1-5, 87 and 88 % for 1-5-1, 86.5 and 87.1 % for 5-1-1.
On digits: 97.78 and 99.17 %, 95.56 and 99.17 %, 97.78 and 98.61 %. An architecture a-b-c has a, b and c units, and
iterations, after the first block of each stage. Scores are softmax.
"""

from __future__ import annotations

from experiment import rk
from experiment.config import flag, parse
from experiment.network_config import ControllerConfig, ScratchConfig, new_reset, new_resnet
from experiment.runner import run
from experiment.trainings import routing, whole_network

ARCHITECTURES = {"1-1-5": (1, 1, 5), "1-5-1": (1, 5, 1), "5-1-1": (5, 1, 1)}


class ShortenedConfig(ControllerConfig, ScratchConfig):
    """Settings of the experiment."""

    architectures: tuple[str, ...] = flag(
        tuple(ARCHITECTURES), "units of the three modules", choices=tuple(ARCHITECTURES)
    )
    clip_norm: float = flag(5.0, "largest norm of the gradient of a ReSet", above=0)
    train_steps: int = flag(200, "length of each training", paper=64_000, unit="batches", least=1)


def stages(config: ShortenedConfig, dataset: rk.data.ImageDataset) -> list[rk.training.Stage]:
    """A ResNet and a ReSet for each architecture."""
    return [stage for name in dict.fromkeys(config.architectures) for stage in pair(config, dataset, name)]


def pair(config: ShortenedConfig, dataset: rk.data.ImageDataset, architecture: str) -> list[rk.training.Stage]:
    """The ResNet and the ReSet of an architecture."""
    units = ARCHITECTURES[architecture]
    return [
        rk.training.Stage(
            name=f"resnet_{architecture}",
            paper_steps="table 1",
            title=f"ResNet {architecture}",
            prepare=lambda _: new_resnet(config, dataset, units),
            training=whole_network(config, config.train_steps, config.rate),
            start=None,
        ),
        rk.training.Stage(
            name=f"reset_{architecture}",
            paper_steps="table 1",
            title=f"ReSet {architecture}",
            prepare=lambda _: new_reset(config, dataset, units),
            training=whole_network(config, config.train_steps, config.rate, lambda: routing(config)),
            start=None,
        ),
    ]


if __name__ == "__main__":
    run(parse(ShortenedConfig, __doc__), stages)
