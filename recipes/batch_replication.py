"""Trains a hard-routed ReSet on batches that hold every image several times, each with other noise.

    python recipes/batch_replication.py                   # digits
    python recipes/batch_replication.py --preset paper    # CIFAR-10, the paper's numbers: needs a GPU

Row 17 of table 2 (72.2 %): straight-through Gumbel scores, pretrained, batch replication x4; and row 12 (68.3 %), the
same without replication. Both train all weights, from controllers that were trained with Gumbel-softmax scores. On
digits: 98.06 and 97.78 %.
"""

from __future__ import annotations

from experiment import rk
from experiment.config import flag, parse
from experiment.network_config import (
    ControllerConfig,
    GumbelConfig,
    PretrainedConfig,
    only_controllers,
    to_reset,
)
from experiment.runner import run
from experiment.trainings import controllers, cooling, pretraining, routing, whole_network


class BatchReplicationConfig(GumbelConfig, ControllerConfig, PretrainedConfig):
    """Settings of the experiment."""

    controller_steps: int = flag(200, "length of the controllers' training", paper=5_000, unit="batches", least=1)
    controller_rate: float = flag(0.001, "Adam's learning rate for the controllers", above=0)
    replicas: int = flag(4, "how often an image stands in its batch", unit="times", least=2)
    finetune_steps: int = flag(200, "length of each training of all weights", paper=20_000, unit="batches", least=1)
    finetune_rate: float = flag(0.01, "learning rate for all weights", above=0)


def stages(config: BatchReplicationConfig, dataset: rk.data.ImageDataset) -> list[rk.training.Stage]:
    """Controllers with Gumbel-softmax scores, then all weights without and with replication."""
    if config.strategy == "multihost":
        raise ValueError("batch replication needs TensorFlow, multihost is on JAX: take --strategy mirrored")

    def finetuning(name: str, row: str, title: str, replication: int) -> rk.training.Stage:
        return rk.training.Stage(
            name=name,
            paper_steps=row,
            title=title,
            prepare=lambda model: rk.with_scorer(model, rk.GumbelSTScorer(config.final_temperature)),
            training=whole_network(
                config,
                config.finetune_steps,
                config.finetune_rate,
                lambda: routing(config) | {"batch_replication": replication},
            ),
            start="gumbel_softmax",
        )

    return [
        pretraining(config, dataset),
        rk.training.Stage(
            name="gumbel_softmax",
            paper_steps="3-4",
            title="only controllers, Gumbel-softmax scores",
            prepare=lambda model: only_controllers(
                to_reset(model, config.controller), rk.GumbelSoftmaxScorer(config.temperature)
            ),
            training=controllers(config, config.controller_steps, config.controller_rate, callbacks=cooling(config)),
        ),
        finetuning("single", "row 12", "all weights, straight-through scores", 1),
        finetuning("replicated", "row 17", f"the same, every image {config.replicas} times", config.replicas),
    ]


if __name__ == "__main__":
    run(parse(BatchReplicationConfig, __doc__), stages)
