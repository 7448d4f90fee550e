"""Trains a static network for each of some compute fractions: what any_budget.py must beat.

    python recipes/static_control.py                                    # digits, after any_budget.py
    python recipes/static_control.py --workdir runs/static_control-fast --budgets runs/any_budget-fast \\
        --preset fast --pretrained resnet38_cifar10 --compute 0.5

How many blocks each stage has is taken from a run of any_budget.py: the units that its static network runs at that
compute fraction, chosen on held-out training images. Such a ResNet begins with the trained ResNet's first blocks, and
is trained like the network of every budget: on the same images, by the same teacher, as long, at the same rate.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from experiment import rk
from experiment.config import flag, parse
from experiment.network_config import BudgetConfig, check_starts_from_resnet
from experiment.runner import run
from experiment.trainings import pretraining, whole_network


@dataclasses.dataclass(frozen=True)
class StaticControlConfig(BudgetConfig):
    """Settings of the experiment."""

    budgets: str = flag("runs/any_budget", "work directory of the run of any_budget.py")


def stages(config: StaticControlConfig, dataset: rk.data.ImageDataset) -> list[rk.training.Stage]:
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
            paper_steps="-",
            title=f"a ResNet of {'-'.join(map(str, blocks))} blocks, with a teacher",
            prepare=functools.partial(static, blocks=blocks),
            training=whole_network(config, config.budget_steps, config.budget_rate, teacher="pretrain"),
            start="pretrain",
            baseline="pretrain",
        )
        for compute, blocks in blocks_of_budgets(config, dataset).items()
    ]
    return [pretraining(config, dataset), *shorter]


def blocks_of_budgets(config: StaticControlConfig, dataset: rk.data.ImageDataset) -> dict[float, tuple[int, ...]]:
    """Blocks of each stage by compute fraction: the fixed one, and as many as the static network runs units."""
    found = sorted(Path(config.budgets, "stages").glob("*-static/model.keras"))
    if not found:
        raise ValueError(
            f"--budgets must be the work directory of a finished run of any_budget.py; received {config.budgets}, "
            "which has no stages/*-static/model.keras. Run any_budget.py with the same settings first"
        )
    network = rk.training.load_network(str(found[0]), config.units, dataset.image_shape, dataset.num_classes)
    blocks = {}
    for compute in config.compute:
        rk.inference.set_compute(network.routed_modules, compute)
        depths = [int(module.controller.depth.value) for module in network.routed_modules]
        blocks[compute] = tuple(depth + 1 for depth in depths)
    return blocks


if __name__ == "__main__":
    run(parse(StaticControlConfig, __doc__), stages)
