"""Trains a pretrained network from its last layers backwards (section 5.4.2).

    python recipes/incremental.py                   # digits
    python recipes/incremental.py --preset paper    # CIFAR-10, ResNet-38: needs a GPU

The paper saw about the same as with two-phase learning and gives no numbers. A trained ResNet's blocks go into pools;
then the classifier is trained, then the last module with it, then the last two, and at the end everything. For
comparison, everything is trained at once from the same start for as many batches. On digits both end at 98.33 %.
"""

from __future__ import annotations

import functools
from typing import Any

from experiment import rk
from experiment.config import flag, parse
from experiment.network_config import ControllerConfig, PretrainedConfig, to_reset
from experiment.runner import run
from experiment.trainings import pretraining, routing, whole_network


class IncrementalConfig(ControllerConfig, PretrainedConfig):
    """Settings of the experiment."""

    unfreeze_steps: int = flag(100, "length of each training", paper=5_000, unit="batches", least=1)
    finetune_rate: float = flag(0.01, "learning rate at the start of each training", above=0)


def stages(config: IncrementalConfig, dataset: rk.data.ImageDataset) -> list[rk.training.Stage]:
    """Pools, then a training for each number of modules that are trainable; and one of everything."""
    modules = len(config.units)

    def training(steps: int) -> rk.training.Training:
        return whole_network(config, steps, config.finetune_rate, lambda: routing(config))

    return [
        pretraining(config, dataset),
        rk.training.Stage(
            "convert", "1", "blocks in pools, new controllers", lambda model: to_reset(model, config.controller)
        ),
        *(
            rk.training.Stage(
                name=f"last_{count}",
                paper_steps="5.4.2",
                title=f"classifier and the last {count} of {modules} modules" if count else "only the classifier",
                prepare=functools.partial(trained_from_the_end, count=count),
                training=training(config.unfreeze_steps),
            )
            for count in range(modules + 1)
        ),
        rk.training.Stage(
            name="at_once",
            title="everything from the start",
            training=training(config.unfreeze_steps * (modules + 1)),
            start="convert",
        ),
    ]


def trained_from_the_end(model: Any, count: int) -> Any:
    """The model, of which the classifier and the last modules are trainable."""
    rk.training.train_last_modules(model, count)
    return model


if __name__ == "__main__":
    run(parse(IncrementalConfig, __doc__), stages)
