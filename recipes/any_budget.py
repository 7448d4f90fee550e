"""Trains one network for every budget: beyond the paper.

    python recipes/any_budget.py                                                # digits
    python recipes/any_budget.py --workdir runs/two_budgets --compute 0.8 0.3
    python recipes/any_budget.py --workdir runs/any_budget-fast --preset fast --pretrained resnet38_cifar10

A ResNet's blocks become the units of a ReSet, which runs them in their order until an image halts. In training each
image is given a number of units of each module but the last; the others are not computed. All images run all units of
the last one, and the classifier learns to tell what they are after each of these (`rk.EarlyExits`). The ResNet is the
teacher. Then the best settings for each cost are chosen on held-out training images: how many units of each module an
image runs at most, and how sure the classifier must be to stop sooner. The table has the network at each requested
compute fraction, with images that halt when the classifier is sure, and static, with the same units for all images.
A network that is given by `--pretrained` may have been trained on the held-out images, as those of the package were.
`--early-exits 0 --last-unit 0.1 0.3 0.5` is cheaper to train, and worse (results/any_budget.md).

On digits, in two minutes on two cores of an AMD EPYC, beside other work: 98.33 % at a compute fraction of 0.36, as with
all units. On CIFAR-10, with `--preset fast --budget-steps 128000`: 93.10 % at 0.66, 92.63 % at 0.42, 92.64 % at 0.35,
where ResNet-38 has 92.42 % (results/any_budget.md).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from experiment import rk
from experiment.budgets import BudgetConfig, at, calibrated, taught
from experiment.config import distinct, flag, parse
from experiment.network_config import starting_resnet
from experiment.runner import run
from experiment.trainings import pretraining


class AnyBudgetConfig(BudgetConfig):
    """Settings of the experiment."""

    first_unit: tuple[float, ...] = flag(
        (0.6, 0.9, 1.0),
        "share of each training batch that runs the first unit of a module, from the first module to the last",
        above=0,
    )
    last_unit: tuple[float, ...] = flag(
        (0.1, 0.3, 1.0), "the same of its last unit; the shares of those between are evenly spaced", above=0
    )
    early_exits: float = flag(
        0.7, "share of the loss that is of the classifier after the last module's earlier units", least=0, below=1
    )


def stages(config: AnyBudgetConfig, dataset: rk.data.ImageDataset) -> list[rk.training.Stage]:
    """The ResNet, the ReSet of its blocks, trained for all budgets, and that one at each of those requested.

    Raises:
        ValueError: the given network is no ResNet, or a share is out of its range, or a compute fraction out of reach.
    """
    starting = starting_resnet(config, dataset)
    count = len(config.units)
    shares = zip(spread(config.first_unit, count), spread(config.last_unit, count), strict=True)
    try:
        controllers = [rk.HaltingController(1, dataset.num_classes, pair) for pair in shares]
    except ValueError as error:
        raise ValueError(f"--first-unit and --last-unit: {error}") from error

    def halting(resnet: rk.ResNet) -> rk.ReSetNet:
        return rk.resnet_to_reset(resnet, controllers, rk.HardScorer(sampled=False))

    budgets = distinct("--compute", config.compute)
    try:
        rk.training.check_compute_target(halting(starting), min(budgets))
    except ValueError as error:
        raise ValueError(f"--compute: {error}") from error

    def at_budgets(name: str, title: str, halting: bool) -> list[rk.training.Stage]:
        prepare = functools.partial(calibrated, dataset=dataset, halting=halting)
        whole = rk.training.Stage(name, "-", f"{title}, whole", prepare, start="any_budget")
        at_each = (
            rk.training.Stage(
                f"{name}_{compute:g}",
                "-",
                f"{title}, at a compute fraction of {compute:g}",
                functools.partial(at, compute=compute),
                start=name,
            )
            for compute in budgets
        )
        return [whole, *at_each]

    return [
        pretraining(config, dataset),
        rk.training.Stage(
            name="any_budget",
            title="all weights, each image with as many units as it is given, with a teacher",
            prepare=halting,
            training=taught(config, config.early_exits),
        ),
        *at_budgets("halting", "images halt when the classifier is sure", halting=True),
        *at_budgets("static", "the same units for all images", halting=False),
    ]


def spread(shares: Sequence[float], count: int) -> list[float]:
    """Shares for so many modules: those given, or between them where there are more or fewer, the last for the last."""
    import numpy as np

    # Downwards, then reversed: with one module, `linspace(0, 1, 1)` would be the first module's place, not the last's.
    places = np.linspace(1, 0, count)[::-1]
    return [float(share) for share in np.interp(places, np.linspace(0, 1, len(shares)), shares)]


if __name__ == "__main__":
    run(parse(AnyBudgetConfig, __doc__), stages)
