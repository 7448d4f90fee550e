"""Trains one network for every budget: beyond the paper.

    python recipes/any_budget.py                                        # digits
    python recipes/any_budget.py --preset fast --pretrained resnet38_cifar10

A ResNet's blocks become the units of a ReSet, which runs them in their order until an image halts. In training each
image is given how many units of each module it runs; what it does not run is not computed, so that a step costs less
than the ResNet's. The ResNet teaches all of them.
"""

from __future__ import annotations

import dataclasses

from experiment import rk
from experiment.config import flag, parse
from experiment.network_config import PretrainedConfig, check_starts_from_resnet
from experiment.runner import run
from experiment.trainings import pretraining, whole_network


@dataclasses.dataclass(frozen=True)
class AnyBudgetConfig(PretrainedConfig):
    """Settings of the experiment."""

    calibration: int = flag(
        300, "training images that are held out to choose depths and thresholds by", paper=5_000, unit="images", least=1
    )
    budget_steps: int = flag(900, "length of the training for all budgets", paper=64_000, unit="batches", least=1)
    budget_rate: float = flag(0.05, "learning rate of that training at the start", above=0)


def stages(config: AnyBudgetConfig, dataset: rk.data.ImageDataset) -> list[rk.training.Stage]:
    """The ResNet, and the ReSet of its blocks, trained for all budgets.

    Raises:
        ValueError: the given network is no ResNet.
    """
    check_starts_from_resnet(config, dataset)

    def halting(resnet: rk.ResNet) -> rk.ReSetNet:
        controller = rk.HaltingController(1, dataset.num_classes)
        return rk.resnet_to_reset(resnet, controller, rk.HardScorer(sampled=False))

    return [
        pretraining(config, dataset),
        rk.training.Stage(
            name="any_budget",
            paper_steps="-",
            title="all weights, each image with as many units as it is given, with a teacher",
            prepare=halting,
            training=whole_network(
                config,
                config.budget_steps,
                config.budget_rate,
                teacher="pretrain",
            ),
        ),
    ]


if __name__ == "__main__":
    run(parse(AnyBudgetConfig, __doc__), stages)
