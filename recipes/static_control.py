"""Trains a static network for each of some compute fractions: what any_budget.py must beat.

    python recipes/static_control.py                                    # digits, after any_budget.py
    python recipes/static_control.py --workdir runs/static_control-fast --budgets runs/any_budget-fast \\
        --preset fast --pretrained resnet38_cifar10 --compute 0.5

How many blocks each stage has is taken from a run of any_budget.py: the units that its static network runs at that
compute fraction, chosen on held-out training images. Such a ResNet begins with the trained ResNet's first blocks, and
is trained like the network for every budget: on the same images, by the same teacher, as long, at the same rate.
"""

from __future__ import annotations

import functools

from experiment import rk
from experiment.budgets import AfterAnyBudgetConfig, blocks_of_budgets, taught
from experiment.config import parse
from experiment.network_config import check_starts_from_resnet
from experiment.runner import run
from experiment.trainings import pretraining


def stages(config: AfterAnyBudgetConfig, dataset: rk.data.ImageDataset) -> list[rk.training.Stage]:
    """The ResNet, and a shorter one for each compute fraction.

    Raises:
        ValueError: the given network is no ResNet, or there is no such run, or it has no budget of that fraction.
    """
    check_starts_from_resnet(config, dataset)

    def static(resnet: rk.ResNet, blocks: tuple[int, ...]) -> rk.ReSetNet:
        """As a ReSet whose images all run all units: the same network, which may have a teacher."""
        shorter = rk.models.first_blocks(resnet, blocks)
        controller = rk.HaltingController(1, dataset.num_classes, shares=(1.0, 1.0), noise=0.0)
        return rk.resnet_to_reset(shorter, controller, rk.HardScorer(sampled=False))

    shorter = [
        rk.training.Stage(
            name=f"static_control_{compute:g}",
            title=f"a ResNet of {'-'.join(map(str, blocks))} blocks, with a teacher",
            prepare=functools.partial(static, blocks=blocks),
            training=taught(config),
            start="pretrain",
            baseline="pretrain",
        )
        for compute, blocks in blocks_of_budgets(config, dataset, "static").items()
    ]
    return [pretraining(config, dataset), *shorter]


if __name__ == "__main__":
    run(parse(AfterAnyBudgetConfig, __doc__), stages)
