"""What recipes of networks with budgets have in common: their settings, calibration, and the run they come after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiment import rk
from experiment.config import distinct, flag
from experiment.network_config import StartConfig
from experiment.trainings import whole_network


class BudgetConfig(StartConfig):
    """Settings of networks that a ResNet teaches, and that are compared at some compute fractions."""

    calibration: int = flag(
        300,
        "training images that are held out to choose depths and thresholds by; a network that is given may have been "
        "trained on them",
        paper=5_000,
        unit="images",
        least=1,
    )
    budget_steps: int = flag(900, "length of the training after the ResNet's", paper=64_000, unit="batches", least=1)
    budget_rate: float = flag(0.05, "learning rate of that training at the start", above=0)
    compute: tuple[float, ...] = flag(
        (1.0, 0.7, 0.5, 0.35), "compute fractions that networks are compared at", above=0, most=1
    )


def taught(config: BudgetConfig, early_exits: float = 0.0) -> rk.training.Training:
    """The training of all weights with the ResNet as teacher, and with early exits of that share of the loss."""

    def options() -> dict[str, Any]:
        return {"early_exits": rk.EarlyExits(early_exits)} if early_exits else {}

    return whole_network(config, config.budget_steps, config.budget_rate, options, teacher="pretrain")


class AfterAnyBudgetConfig(BudgetConfig):
    """Settings of networks whose blocks are those of a network for every budget at a compute fraction."""

    budgets: str = flag("runs/any_budget", "work directory of the run of any_budget.py")


def calibrated(model: rk.ReSetNet, dataset: rk.data.ImageDataset, halting: bool = True) -> rk.ReSetNet:
    """The network with the best settings for each cost, chosen on the held-out images."""
    held_out = dataset.tests["calibration"]
    rk.inference.calibrate(model, dataset.normalize(held_out.images), held_out.labels, halting)
    return model


def at(model: rk.ReSetNet, compute: float) -> rk.ReSetNet:
    """The calibrated network, set to a compute fraction."""
    rk.inference.set_compute(model.routed_modules, compute)
    return model


def blocks_of_budgets(
    config: AfterAnyBudgetConfig, dataset: rk.data.ImageDataset, kind: str
) -> dict[float, tuple[int, ...]]:
    """Blocks of each stage by compute fraction, from a run of any_budget.py.

    Args:
        config: The recipe's settings.
        dataset: What the network is for.
        kind: `"static"` or `"halting"`: which of that run's networks. Each stage has the fixed block, and as many
            others as images of that network run units at most.

    Raises:
        ValueError: there is no such run, or it has no budget of that fraction, or no unit there, or two fractions are
            too near to each other, or this run was begun with other blocks.
    """
    found = sorted(Path(config.budgets, "stages").glob(f"*-{kind}/model.keras"))
    if not found:
        raise ValueError(
            f"--budgets must be the work directory of a finished run of any_budget.py; received {config.budgets}, "
            f"which has no stages/*-{kind}/model.keras. Run any_budget.py with the same settings first"
        )
    network = rk.training.load_network(str(found[0]), config.units, dataset.image_shape, dataset.num_classes)
    blocks = {}
    for compute in distinct("--compute", config.compute):
        at(network, compute)
        depths = [int(module.controller.depth.value) for module in network.routed_modules]
        if not any(depths):
            raise ValueError(
                f"--compute must leave units to run; received {compute:g}, at which the network of --budgets "
                f"{config.budgets} runs none. Ask for more"
            )
        blocks[compute] = tuple(depth + 1 for depth in depths)
    _note(config, {f"{compute:g}": list(counts) for compute, counts in blocks.items()})
    return blocks


def _note(config: AfterAnyBudgetConfig, blocks: dict[str, list[int]]) -> None:
    """Writes down what a run is begun with: the run that it is taken from may be made again in the same place."""
    from reset_keras.atomic_write import write_json  # here, as `--help` must load nothing heavy

    folder = Path(config.workdir)
    noted, is_begun = folder / "blocks.json", (folder / "config.json").exists()
    if is_begun and noted.exists() and (earlier := json.loads(noted.read_text())) != blocks:
        raise ValueError(
            f"the run in {folder} was begun with other blocks than --budgets {config.budgets} has now, by compute "
            f"fraction: {earlier}, now {blocks}. Give another --workdir, or --budgets that has those blocks"
        )
    if folder.is_dir() and rk.training.is_first_process():
        write_json(noted, blocks)
