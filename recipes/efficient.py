"""Trains a hard-routed ReSet to a requested share of its ResNet's operations: beyond the paper.

    python recipes/efficient.py                                         # digits
    python recipes/efficient.py --compute-target 0.5
    python recipes/efficient.py --preset paper                          # CIFAR-10, ResNet-38: needs a GPU
    python recipes/efficient.py --preset paper --pretrained resnet38_cifar10

The paper's hard-routed networks lose much (rows 10 to 15 of table 2: 70.1 % at most), as their controllers have to find
a good route from noise. Here they begin with one: they imitate the ResNet's own order of its blocks, which takes
seconds and makes the ReSet that ResNet, one unit for an image and iteration. A small probability of skipping is left in
the policy; from there all weights are trained with straight-through scores, while a reward for skipping adjusts itself
until the network asks for the requested compute fraction. The entropy across images keeps routes from becoming one.

On digits: 98.33 % at a compute fraction of 0.67, where the ResNet has 98.33 %; 98.61 % at 0.78 with a target of 0.8 and
600 batches. On CIFAR-10 the network that imitates ResNet-38 has 92.39 % at 1.005, one unit for an image and iteration;
the training to the target has not been run at its length. `fixed_routes.py --teacher` trains the result's units on.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from config import flag, parse
from network_config import PretrainedConfig, check_starts_from_resnet, new_resnet
from runner import run
from trainings import pretraining, routing, whole_network

if TYPE_CHECKING:
    import reset_keras as rk
    from reset_keras.data import ImageDataset
    from reset_keras.training import Stage

IMITATED_IMAGES = 512
"""Number of training images along whose routes the controllers learn."""


@dataclasses.dataclass(frozen=True)
class EfficientConfig(PretrainedConfig):
    """Settings of the experiment."""

    entropy_across: float = flag(0.02, "weight of the entropy across images", paper=0.005, unit="loss per nat", least=0)
    skip_probability: float = flag(0.1, "of the policy at the start, to explore skipping", least=0, below=1)
    temperature: float = flag(0.5, "of the straight-through scores", above=0)
    compute_target: float = flag(0.7, "requested compute fraction", above=0)
    skip_estimator: str = flag(
        "straight_through", "how the reward's gradient is estimated", choices=("reinforce", "straight_through")
    )
    target_rate: float = flag(
        0.01, "step of the skip reward towards the target", paper=0.001, unit="loss per training step", above=0
    )
    finetune_steps: int = flag(400, "length of the training", paper=40_000, unit="batches", least=1)
    finetune_rate: float = flag(0.01, "learning rate at the start", above=0)


def stages(config: EfficientConfig, dataset: ImageDataset) -> list[Stage]:
    """The ResNet, the ReSet that imitates it, and that one at the requested compute fraction.

    Raises:
        ValueError: the given network is no ResNet, or the compute target cannot be reached.
    """
    import reset_keras as rk
    from reset_keras.training import Stage

    check_starts_from_resnet(config, dataset)

    def options() -> dict[str, Any]:
        reward = rk.SkipReward(
            estimator=config.skip_estimator, target=config.compute_target, target_rate=config.target_rate
        )
        return routing(config) | {"skip_reward": reward}

    untrained = rk.resnet_to_reset(new_resnet(config, dataset, config.units), "rnn", rk.GumbelSTScorer())
    untrained.compile(loss="sparse_categorical_crossentropy", **options())  # refuses a target that is out of reach

    return [
        pretraining(config, dataset, lambda: new_resnet(config, dataset, config.units), "ResNet"),
        Stage(
            name="sequential",
            steps="-",
            title="blocks in pools, controllers that imitate their order",
            prepare=lambda model: imitation(model, config, dataset),
        ),
        Stage(
            name="efficient",
            steps="-",
            title=f"all weights, to a compute fraction of {config.compute_target:g}",
            prepare=lambda model: model,
            training=whole_network(config, config.finetune_steps, config.finetune_rate, options),
        ),
    ]


def imitation(resnet: rk.ResNet, config: EfficientConfig, dataset: ImageDataset) -> rk.ReSetNet:
    """A hard-routed ReSet that is the ResNet until it is trained on."""
    import reset_keras as rk
    from reset_keras.training import imitate_sequence

    reset = rk.resnet_to_reset(resnet, "rnn", rk.GumbelSTScorer(config.temperature))
    images = dataset.normalize(dataset.train.images[:IMITATED_IMAGES])
    imitate_sequence(reset, images, config.skip_probability)
    return reset


if __name__ == "__main__":
    run(parse(EfficientConfig, __doc__), stages)
