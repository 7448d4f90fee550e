"""Puts a trained ResNet's blocks into pools and trains only controllers (section 5.1).

    python recipes/controller_only.py                   # digits: five minutes at most on two CPU cores
    python recipes/controller_only.py --preset paper    # CIFAR-10, ResNet-38, the paper's numbers: needs a GPU
    python recipes/controller_only.py --preset paper --pretrained resnet38_cifar10

A good controller finds the ResNet's order of its blocks. The paper saw that in the recurrent controller, and nearly
uniform policies in the convolutional one; the last table says how near each policy is. The recurrent controller is then
trained with the other scorers. Its rows of table 2 are 8 to 11 (91.8, 91.8, 66.5 and 70.1 %).

On digits, the ResNet's next block is the likeliest unit in 56 % of the iterations with the recurrent controller and in
46 % with the convolutional one; these have 96.67 and 96.94 %, where the ResNet has 98.33 %; rows 9 to 11 have 97.22,
96.67 and 97.50 %. On CIFAR-10, with `--preset fast`, it is in 75.7 and 33.9 % (results/fast_preset.md).
"""

from __future__ import annotations

from typing import Any

from experiment import rk
from experiment.config import flag, parse
from experiment.network_config import (
    GumbelConfig,
    PretrainedConfig,
    check_starts_from_resnet,
    only_controllers,
    to_reset,
)
from experiment.runner import run
from experiment.trainings import Callbacks, controllers, cooling, pretraining

KINDS = ("rnn", "cnn")


class ControllerOnlyConfig(GumbelConfig, PretrainedConfig):
    """Settings of the experiment."""

    controller: str = flag("rnn", "kind of controller that goes on to the other scorers", choices=KINDS)
    controller_steps: int = flag(200, "length of each training", paper=5_000, unit="batches", least=1)
    controller_rate: float = flag(0.001, "Adam's learning rate for the controllers", above=0)


def stages(config: ControllerOnlyConfig, dataset: rk.data.ImageDataset) -> list[rk.training.Stage]:
    """A training with softmax scores for each kind of controller, and rows 9 to 11 for one of them.

    Raises:
        ValueError: the given network is no ResNet.
    """
    check_starts_from_resnet(config, dataset)

    def softmax(kind: str) -> rk.training.Stage:
        return rk.training.Stage(
            name=f"{kind}_softmax",
            paper_steps="row 8" if kind == config.controller else "5.1",
            title=f"{kind} controllers, softmax scores",
            prepare=lambda model: only_controllers(to_reset(model, kind)),
            training=training(config),
            start="pretrain",
        )

    def straight_through(name: str, row: str, origin: str, start: str) -> rk.training.Stage:
        return rk.training.Stage(
            name=name,
            paper_steps=row,
            title=f"straight-through scores, {origin}",
            prepare=lambda model: only_controllers(model, rk.GumbelSTScorer(config.final_temperature)),
            training=training(config),
            start=start,
        )

    return [
        pretraining(config, dataset),
        *map(softmax, KINDS),
        rk.training.Stage(
            name="gumbel_softmax",
            paper_steps="row 9",
            title="Gumbel-softmax scores, from softmax",
            prepare=lambda model: only_controllers(model, rk.GumbelSoftmaxScorer(config.temperature)),
            training=training(config, cooling(config)),
            start=f"{config.controller}_softmax",
        ),
        straight_through("gumbel_st", "row 10", "from softmax", f"{config.controller}_softmax"),
        straight_through("gumbel_st_relaxed", "row 11", "from Gumbel-softmax", "gumbel_softmax"),
    ]


def training(config: ControllerOnlyConfig, callbacks: Callbacks = lambda _: {}) -> rk.training.Training:
    """The training that all stages have in common."""
    return controllers(config, config.controller_steps, config.controller_rate, callbacks=callbacks)


def print_policies(rows: list[dict[str, Any]]) -> None:
    """Prints how near each stage's policy is to the ResNet's own order of its blocks."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        caption="Mean probability of unit k at iteration k, and share of the iterations in which it is the likeliest.",
        caption_justify="left",
    )
    for heading in ("Stage", "Sequential unit's probability", "Likeliest %", "Entropy"):
        table.add_column(heading, justify="left" if heading == "Stage" else "right")
    for row in rows:
        if row["sequential_probability"] is not None:
            probability, choice = row["sequential_probability"], row["sequential_choice"]
            table.add_row(row["stage"], f"{probability:.3f}", f"{100 * choice:.1f}", f"{row['policy_entropy']:.3f}")
    Console().print(table)


if __name__ == "__main__":
    rows = run(parse(ControllerOnlyConfig, __doc__), stages)
    if rk.training.is_first_process():
        print_policies(rows)
