"""Relaxes a trained network, step by step, to a ReSet that runs one unit or none in each iteration (section 5.3).

    python recipes/relaxation.py                   # digits, about three minutes on two CPU cores
    python recipes/relaxation.py --preset paper    # CIFAR-10, ResNet-38, the paper's numbers: needs a GPU

Rows 12 to 16 of table 2. The paper's steps: 1. take a pretrained ResNet-38 or softmax ReSet-38, 2. freeze all but the
controllers, batch-norm statistics included, 3.-4. train them with Gumbel-softmax scores for 5,000 batches, 5.-6. with
straight-through Gumbel scores until the policy has converged, 7.-8. with a reward for skipping until little enough is
computed. Step 9 finetunes everything, as row 16 does.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from config import RecipeConfig, flag, parse
from runner import run

if TYPE_CHECKING:
    import keras

    from reset_keras.data import ImageDataset
    from reset_keras.training import Stage

PROBE_IMAGES = 512
"""Number of training images whose routes tell when a stage ends."""


@dataclasses.dataclass(frozen=True)
class RelaxationConfig(RecipeConfig):
    """Settings of the relaxation."""

    start: str = flag("resnet", "network that is pretrained and relaxed", choices=("resnet", "reset"))
    pretrained: str | None = flag(None, "a .keras file with such a network, instead of pretraining one")
    units: tuple[int, ...] = flag((3, 3), "units, and iterations, of each module", paper=(5, 5, 5), least=1)
    controller: str = flag("rnn", "kind of the controllers", choices=("rnn", "cnn"))
    optimizer: str = flag("sgd", "optimizer of pretraining and finetuning", choices=("sgd", "adam"))
    weight_decay: float = flag(1e-4, "weight of the L2 regularizer on kernels", least=0)
    clip_norm: float = flag(1.0, "largest norm of the gradient once the network is routed", above=0)
    pretrain_steps: int = flag(450, "length of pretraining", paper=64_000, unit="batches", least=1)
    pretrain_rate: float = flag(0.1, "learning rate of pretraining", above=0)
    controller_rate: float = flag(0.001, "Adam's learning rate for the controllers", above=0)
    gumbel_steps: int = flag(200, "length of steps 3-4", paper=5_000, unit="batches", least=1)
    temperature: float = flag(1.0, "of the Gumbel-softmax, at the start of steps 3-4", above=0)
    final_temperature: float = flag(0.5, "of the Gumbel-softmax, from the end of steps 3-4 on", above=0)
    entropy_across: float = flag(0.02, "weight of the entropy across images", paper=0.005, unit="loss per nat", least=0)
    entropy_within: float = flag(0.0, "weight of the entropy within a policy", unit="loss per nat", least=0)
    convergence_steps: int = flag(200, "longest that steps 5-6 may take", paper=10_000, unit="batches", least=1)
    policy_tolerance: float = flag(
        0.02,
        "the policy has converged when, twice in a row, it changes less from epoch to epoch, as total variation",
        above=0,
        below=1,
    )
    skip_reward: float = flag(0.1, "reward for an iteration without a unit", paper=0.05, unit="loss", least=0)
    skip_estimator: str = flag(
        "reinforce", "how the reward's gradient is estimated", choices=("reinforce", "straight_through")
    )
    hybrid_steps: int = flag(200, "longest that steps 7-8 may take", paper=10_000, unit="batches", least=1)
    compute_target: float = flag(0.9, "compute fraction at which steps 7-8 end", above=0)
    finetune_steps: int = flag(200, "length of step 9", paper=20_000, unit="batches", least=1)
    finetune_rate: float = flag(0.01, "learning rate of step 9", above=0)


def stages(config: RelaxationConfig, dataset: ImageDataset) -> list[Stage]:
    """The pipeline, stage by stage."""
    import reset_keras as rk
    from reset_keras.training import ComputeTarget, PolicyConvergence, Stage, TemperatureSchedule, Training

    probe = dataset.normalize(dataset.train.images[:PROBE_IMAGES])
    pretraining = Training(config.scaled(config.pretrain_steps), functools.partial(pretraining_options, config))
    if config.pretrained is not None:
        load_pretrained(config.pretrained, config, dataset)

    return [
        Stage(
            name="pretrain",
            steps="0",
            title=f"{config.start} from scratch" if config.pretrained is None else f"from {config.pretrained}",
            prepare=lambda _: starting_network(config, dataset),
            training=pretraining if config.pretrained is None else None,
        ),
        Stage(
            name="convert",
            steps="1-2",
            title="blocks in pools, all frozen but the controllers",
            prepare=lambda model: with_frozen_units(to_reset(model, config)),
        ),
        Stage(
            name="gumbel_softmax",
            steps="3-4",
            title="controllers, Gumbel-softmax scores",
            prepare=lambda model: with_frozen_units(rk.with_scorer(model, rk.GumbelSoftmaxScorer(config.temperature))),
            training=Training(
                config.scaled(config.gumbel_steps),
                functools.partial(controller_options, config),
                lambda epochs: {
                    "temperature": TemperatureSchedule(config.temperature, config.final_temperature, epochs)
                },
            ),
        ),
        Stage(
            name="gumbel_st",
            steps="5-6",
            title="controllers, straight-through scores, until the policy converges",
            prepare=lambda model: with_frozen_units(rk.with_scorer(model, rk.GumbelSTScorer(config.final_temperature))),
            training=Training(
                config.scaled(config.convergence_steps),
                functools.partial(controller_options, config),
                lambda _: {"convergence": PolicyConvergence(probe, config.policy_tolerance)},
            ),
        ),
        Stage(
            name="hybrid",
            steps="7-8",
            title="controllers, with a reward for skipping, until little enough is computed",
            prepare=with_frozen_units,
            training=Training(
                config.scaled(config.hybrid_steps),
                lambda: controller_options(config) | {"skip_reward": skip_reward(config)},
                lambda _: {"target": ComputeTarget(probe, config.compute_target)},
            ),
        ),
        Stage(
            name="finetune",
            steps="9",
            title="all weights",
            prepare=lambda model: model,
            training=Training(config.scaled(config.finetune_steps), functools.partial(finetuning_options, config)),
        ),
    ]


def starting_network(config: RelaxationConfig, dataset: ImageDataset) -> keras.Model:
    """The network of step 0: that of the file, or a new one."""
    import reset_keras as rk

    if config.pretrained is not None:
        return load_pretrained(config.pretrained, config, dataset)
    images: dict[str, Any] = {"num_classes": dataset.num_classes, "input_shape": dataset.image_shape}
    if config.start == "reset":
        return rk.ReSetNet(config.units, controller=config.controller, weight_decay=config.weight_decay, **images)
    return rk.ResNet([count + 1 for count in config.units], weight_decay=config.weight_decay, **images)


def load_pretrained(path: str, config: RelaxationConfig, dataset: ImageDataset) -> keras.Model:
    """The network of a file, which must have the units of the config and fit the dataset."""
    from reset_keras.training import load_network

    return load_network(path, config.units, dataset.image_shape, dataset.num_classes)


def to_reset(model: keras.Model, config: RelaxationConfig) -> keras.Model:
    """A ResNet's blocks as units of a ReSet; a ReSet as it is."""
    import reset_keras as rk

    return rk.resnet_to_reset(model, config.controller) if isinstance(model, rk.ResNet) else model


def with_frozen_units(model: Any) -> Any:
    """The model, of which only the controllers are trainable."""
    from reset_keras.training import train_only_controllers

    train_only_controllers(model)
    return model


def pretraining_options(config: RelaxationConfig) -> dict[str, Any]:
    """How step 0 trains."""
    from reset_keras.training import make_optimizer

    steps = config.scaled(config.pretrain_steps)
    return {"optimizer": make_optimizer(config.optimizer, config.pretrain_rate, steps, config.epochs_scale)}


def controller_options(config: RelaxationConfig) -> dict[str, Any]:
    """How controllers are trained while the units are frozen: Adam, as in section 5.1."""
    from reset_keras.training import make_optimizer

    steps = config.scaled(config.gumbel_steps)
    return routing_options(config, make_optimizer("adam", config.controller_rate, steps, config.epochs_scale))


def finetuning_options(config: RelaxationConfig) -> dict[str, Any]:
    """How step 9 trains: all weights, the reward for skipping still on."""
    from reset_keras.training import make_optimizer

    steps = config.scaled(config.finetune_steps)
    optimizer = make_optimizer(config.optimizer, config.finetune_rate, steps, config.epochs_scale)
    return routing_options(config, optimizer) | {"skip_reward": skip_reward(config)}


def routing_options(config: RelaxationConfig, optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """What all trainings of a routed network share."""
    import reset_keras as rk

    entropy = rk.Entropy(config.entropy_across, config.entropy_within)
    return {"optimizer": optimizer, "entropy": entropy, "gradient_clip_norm": config.clip_norm}


def skip_reward(config: RelaxationConfig) -> Any:
    """The reward of steps 7 to 9."""
    import reset_keras as rk

    return rk.SkipReward(config.skip_reward, estimator=config.skip_estimator)


if __name__ == "__main__":
    run(parse(RelaxationConfig, __doc__), stages)
