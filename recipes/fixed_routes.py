"""Trains the units of a hard-routed ReSet along the routes that it takes: beyond the paper.

    python recipes/fixed_routes.py                                      # digits
    python recipes/fixed_routes.py --preset paper --pretrained reset38_efficient_cifar10

While controllers learn, sampled routes keep the units from settling. Here the controllers are not trained and nothing
is sampled: a training step runs only the unit that inference runs for each image and iteration, and costs about as much
as the ResNet's. A step that computes all units costs more than twice as much. Batch norms of the pools keep their
statistics; their scales and offsets are trained. With `--teacher` the units also learn from a trained network, which
sees every other image mirrored (where the dataset mirrors images).

On digits: 98.06 % at a compute fraction of 1.036, from 98.33 %, which is one image. On CIFAR-10 a network of 90.98 % at
0.656 reached 91.56 % at 0.637 in 3,128 batches, and with ResNet-38 as its teacher, in 6,000 more, 92.44 % at 0.626.
Routes change a little, as the features that the controllers look at change (results/efficient.md has both commands).
"""

from __future__ import annotations

from typing import Any

from experiment import rk
from experiment.config import flag, parse
from experiment.network_config import ControllerConfig, PretrainedConfig, load_pretrained
from experiment.runner import run
from experiment.trainings import pretraining, whole_network


class FixedRoutesConfig(ControllerConfig, PretrainedConfig):
    """Settings of the experiment."""

    entropy_across: float = flag(
        0.02, "weight of the entropy across images in pretraining", unit="loss per nat", least=0
    )
    teacher: str | None = flag(
        None, "a .keras file with a trained network, or a name in rk.models.PRESETS, from which the units learn too"
    )
    finetune_steps: int = flag(200, "length of the training along the routes", paper=6_000, unit="batches", least=1)
    finetune_rate: float = flag(0.01, "learning rate of that training at the start", above=0)


def stages(config: FixedRoutesConfig, dataset: rk.data.ImageDataset) -> list[rk.training.Stage]:
    """A hard-routed network, and the same after a training of its units.

    Raises:
        ValueError: the given network does not route, or its scores are not hard; or the teacher's file is missing,
            damaged, or holds another network.
    """

    def load_teacher(_: None) -> Any:
        return rk.training.load_network(str(config.teacher), config.units, dataset.image_shape, dataset.num_classes)

    teacher = []
    if config.teacher is not None:
        # Only for its errors, before anything is trained; the stage loads it again, in the scope of its strategy.
        load_teacher(None)
        teacher.append(rk.training.Stage("teacher", "-", f"from {config.teacher}", load_teacher, start=None))
    if (given := load_pretrained(config, dataset)) is not None:
        rk.training.check_hard_routes(given)
    return [
        *teacher,
        pretraining(config, dataset, "gumbel_st"),
        rk.training.Stage(
            name="fixed_routes",
            title="all weights but the controllers', along fixed routes" + (", with a teacher" if teacher else ""),
            prepare=rk.training.with_fixed_routes,
            training=whole_network(
                config,
                config.finetune_steps,
                config.finetune_rate,
                lambda: {"gradient_clip_norm": config.clip_norm},
                teacher="teacher" if teacher else None,
            ),
        ),
    ]


if __name__ == "__main__":
    run(parse(FixedRoutesConfig, __doc__), stages)
