"""Trains a hard-routed ReSet to a requested share of its ResNet's operations: beyond the paper.

    python recipes/efficient.py                                         # digits
    python recipes/efficient.py --compute-target 0.5
    python recipes/efficient.py --preset paper                          # CIFAR-10, ResNet-38 from scratch: needs a GPU
    python recipes/efficient.py --preset paper --pretrained resnet38_cifar10

The paper's hard-routed networks lose much (rows 10 to 15 and 17 of table 2: 72.2 % at most), as their controllers have
to find a good route from noise. Here the controllers first imitate the ResNet's order of its blocks, which takes
seconds: the ReSet then is that ResNet, with one unit for each image and iteration. Then the units that change the
ResNet's outputs least are left out, until the routes have the requested cost; the last of them only for some images.
The controllers imitate these routes, and the units are trained along them, at a constant cost. On CIFAR-10 the ResNet
is their teacher. At last, what hardly any training image chooses is forbidden, so that iterations in which all images
take one unit decide nothing, and take the time of a static network's.

On digits, in two minutes: 98.89 % at a compute fraction of 0.698, where the ResNet has 98.33 %. On CIFAR-10, on two CPU
cores in 81 minutes from a trained ResNet-38 of 92.42 %: 92.82 % at 0.699.
"""

from __future__ import annotations

import functools

from experiment import rk
from experiment.config import flag, parse
from experiment.network_config import SCHEDULES, PretrainedConfig, starting_resnet, to_reset
from experiment.runner import run
from experiment.systems import HELD_IMAGES, ROUTE_IMAGES, any_unit
from experiment.trainings import pretraining, routing, whole_network


class EfficientConfig(PretrainedConfig):
    """Settings of the experiment."""

    compute_target: float = flag(0.7, "requested compute fraction", above=0, most=1)
    finetune_steps: int = flag(400, "length of the training along the routes", paper=7_000, unit="batches", least=1)
    finetune_rate: float = flag(0.1, "learning rate of that training at the start", paper=0.05, above=0)
    finetune_schedule: str | None = flag(
        None,
        "how the learning rate of that training changes; none: cosine, where --schedule is paper and the optimizer is "
        "not adam, else as --schedule says",
        choices=SCHEDULES,
    )
    teacher: bool = flag(False, "whether the units learn from the ResNet too", paper=True)


def stages(config: EfficientConfig, dataset: rk.data.ImageDataset) -> list[rk.training.Stage]:
    """The ResNet, the ReSet that imitates it, that one on pruned routes, its units trained along these, and settled.

    Raises:
        ValueError: the given network is no ResNet, or the compute target cannot be reached.
    """
    starting = starting_resnet(config, dataset)
    rk.training.check_compute_target(to_reset(starting, "rnn"), config.compute_target)
    images = dataset.normalize(dataset.train.images[:ROUTE_IMAGES])

    def pruned(reset: rk.ReSetNet) -> rk.ReSetNet:
        rk.training.imitate_routes(reset, images, rk.training.prune_routes(reset, images, config.compute_target))
        rk.training.hold_compute(reset, images, config.compute_target)
        return reset

    decays_in_steps = config.optimizer != "adam" and config.schedule == "paper"

    def held(_: int) -> dict[str, rk.callbacks.HoldCompute]:
        return {"hold_compute": rk.callbacks.HoldCompute(images[:HELD_IMAGES], config.compute_target)}

    return [
        pretraining(config, dataset),
        rk.training.Stage(
            name="sequential",
            title="blocks in pools, controllers that imitate their order",
            prepare=functools.partial(any_unit, images=images),
        ),
        rk.training.Stage(
            name="pruned",
            title=f"controllers that skip what images can spare, to a compute fraction of {config.compute_target:g}",
            prepare=pruned,
        ),
        rk.training.Stage(
            name="efficient",
            title="all weights but the controllers', along fixed routes",
            prepare=rk.training.with_fixed_routes,
            training=whole_network(
                config,
                config.finetune_steps,
                config.finetune_rate,
                lambda: routing(config),
                held,
                teacher="pretrain" if config.teacher else None,
                schedule=config.finetune_schedule or ("cosine" if decays_in_steps else None),
            ),
        ),
        rk.training.Stage(
            name="settled",
            title="only choices that one training image in a thousand makes, or more",
            prepare=functools.partial(rk.models.with_settled_routes, images=images),
        ),
    ]


if __name__ == "__main__":
    run(parse(EfficientConfig, __doc__), stages)
