"""Trains the ResNet that a ReSet is compared with, as He et al. (2016) do.

    python recipes/resnet_baseline.py                   # digits: 98.06 %, in less than a minute on two CPU cores
    python recipes/resnet_baseline.py --preset paper    # CIFAR-10, ResNet-38: needs a GPU

Row 1 of table 2 (92.8 %). Other `--units` make the ResNets of the other tables: `--units 1 1 5` and so on in table 1,
`--units 2 0 0` in table 3. A stage has a block for each unit and one more, which carries stride and width.
"""

from __future__ import annotations

from experiment import rk
from experiment.config import flag, parse
from experiment.network_config import ScratchConfig, UnitsConfig, new_resnet
from experiment.runner import run
from experiment.trainings import whole_network


class ResNetBaselineConfig(UnitsConfig, ScratchConfig):
    """Settings of the baseline."""

    units: tuple[int, ...] = flag(
        (3, 3), "blocks of each stage, beyond the first one that each has", paper=(5, 5, 5), least=0
    )


def stages(config: ResNetBaselineConfig, dataset: rk.data.ImageDataset) -> list[rk.training.Stage]:
    """The only stage."""
    return [
        rk.training.Stage(
            name="resnet",
            paper_steps="row 1",
            title="ResNet from scratch",
            prepare=lambda _: new_resnet(config, dataset, config.units),
            training=whole_network(config, config.train_steps, config.rate),
        )
    ]


if __name__ == "__main__":
    run(parse(ResNetBaselineConfig, __doc__), stages)
