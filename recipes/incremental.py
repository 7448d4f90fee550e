"""Freezes a pretrained network and unfreezes it from its last layers backwards (section 5.4.2).

    python recipes/incremental.py                   # digits
    python recipes/incremental.py --preset paper    # CIFAR-10, ResNet-38: needs a GPU

The paper saw about the same as with two-phase learning and gives no numbers. A trained ResNet's blocks go into pools;
then the classifier is trained, then the last module with it, then the last two, and at the end everything. Beside it,
from the same start and for as many batches, everything at once. On digits both end at 98.33 %.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from experiment.config import flag, parse
from experiment.network_config import ControllerConfig, PretrainedConfig, new_resnet, to_reset
from experiment.runner import run
from experiment.trainings import pretraining, routing, whole_network

if TYPE_CHECKING:
    from reset_keras.data import ImageDataset
    from reset_keras.training import Stage, Training


@dataclasses.dataclass(frozen=True)
class IncrementalConfig(ControllerConfig, PretrainedConfig):
    """Settings of the experiment."""

    unfreeze_steps: int = flag(100, "length of each training", paper=5_000, unit="batches", least=1)
    finetune_rate: float = flag(0.01, "learning rate at the start of each training", above=0)


def stages(config: IncrementalConfig, dataset: ImageDataset) -> list[Stage]:
    """Pools, then a training for each number of modules that are not frozen; and one of everything."""
    from reset_keras.training import Stage, train_last_modules

    modules = len(config.units)

    def unfrozen(count: int) -> Callable[[Any], Any]:
        def prepare(model: Any) -> Any:
            train_last_modules(model, count)
            return model

        return prepare

    def training(steps: int) -> Training:
        return whole_network(config, steps, config.finetune_rate, lambda: routing(config))

    return [
        pretraining(config, dataset, lambda: new_resnet(config, dataset, config.units), "ResNet"),
        Stage("convert", "1", "blocks in pools, new controllers", lambda model: to_reset(model, config.controller)),
        *(
            Stage(
                name=f"last_{count}",
                paper_steps="5.4.2",
                title=f"classifier and the last {count} of {modules} modules" if count else "only the classifier",
                prepare=unfrozen(count),
                training=training(config.unfreeze_steps),
            )
            for count in range(modules + 1)
        ),
        Stage(
            name="at_once",
            paper_steps="-",
            title="everything from the start",
            prepare=lambda model: model,
            training=training(config.unfreeze_steps * (modules + 1)),
            start="convert",
        ),
    ]


if __name__ == "__main__":
    run(parse(IncrementalConfig, __doc__), stages)
