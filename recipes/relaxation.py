"""Relaxes a trained network, step by step, to a ReSet that runs one unit or none in each iteration (section 5.3).

    python recipes/relaxation.py                   # digits, about four minutes on two CPU cores
    python recipes/relaxation.py --preset paper    # CIFAR-10, ResNet-38, the paper's numbers: needs a GPU

Rows 13 to 16 of table 2. The paper's steps: 1. take a pretrained ResNet-38 or softmax ReSet-38, 2. freeze all but the
controllers, batch-norm statistics included, 3.-4. train these with Gumbel-softmax scores for 5,000 batches, 5.-6. with
straight-through Gumbel scores until the policy has converged, 7.-8. with a reward for skipping until little enough is
computed. Step 9 finetunes everything, as in row 16.

Unlike the paper, all steps have an entropy regularizer across images (`--entropy-across 0` for none): without it, hard
routes tend to become one for all images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiment import rk
from experiment.config import distinct, flag, parse
from experiment.network_config import (
    ControllerConfig,
    GumbelConfig,
    PretrainedConfig,
    load_pretrained,
    only_controllers,
    to_reset,
)
from experiment.runner import run
from experiment.trainings import controllers, cooling, pretraining, routing, whole_network

if TYPE_CHECKING:
    import numpy as np

PROBE_IMAGES = 512
"""Number of training images whose routes tell when a stage ends."""


class RelaxationConfig(GumbelConfig, ControllerConfig, PretrainedConfig):
    """Settings of the relaxation."""

    start: str = flag("resnet", "network that is pretrained and relaxed", choices=("resnet", "reset"))
    controller_rate: float = flag(0.001, "Adam's learning rate for the controllers", above=0)
    gumbel_steps: int = flag(200, "length of the paper's steps 3-4", paper=5_000, unit="batches", least=1)
    entropy_across: float = flag(0.02, "weight of the entropy across images", paper=0.005, unit="loss per nat", least=0)
    convergence_steps: int = flag(
        200, "longest that the paper's steps 5-6 may take", paper=10_000, unit="batches", least=1
    )
    policy_tolerance: float = flag(
        0.02,
        "the paper's steps 5-6 end when the policy's total variation from one epoch to the next is below this, twice "
        "in a row",
        above=0,
        below=1,
    )
    skip_rewards: tuple[float, ...] = flag(
        (0.1,),
        "rewards for an iteration without a unit, each tried by itself",
        paper=(0.02, 0.05, 0.1),
        unit="loss",
        least=0,
    )
    skip_estimator: str = flag(
        "reinforce", "how the reward's gradient is estimated", choices=("reinforce", "straight_through")
    )
    hybrid_steps: int = flag(200, "longest that the paper's steps 7-8 may take", paper=10_000, unit="batches", least=1)
    compute_target: float = flag(0.9, "compute fraction at which the paper's steps 7-8 end", paper=0.7, above=0, most=1)
    finetune_steps: int = flag(200, "length of step 9", paper=20_000, unit="batches", least=1)
    finetune_rate: float = flag(0.01, "learning rate of step 9", above=0)


def stages(config: RelaxationConfig, dataset: rk.data.ImageDataset) -> list[rk.training.Stage]:
    """The pipeline, stage by stage: steps 7-8 once for each reward, step 9 from the last of them.

    Raises:
        ValueError: there is a reward for skipping, and the given network is a ReSet that cannot skip; or two rewards
            are too near to each other.
    """
    zero_units = getattr(load_pretrained(config, dataset), "zero_units", (True,))
    if any(config.skip_rewards) and not any(zero_units):
        raise ValueError(
            f"--pretrained {config.pretrained}: its modules have no zero unit, so that nothing can be skipped: give "
            "--skip-rewards 0, or another network"
        )
    rewards = distinct("--skip-rewards", config.skip_rewards)
    probe = dataset.normalize(dataset.train.images[:PROBE_IMAGES])
    return [
        pretraining(config, dataset, "softmax" if config.start == "reset" else None),
        rk.training.Stage(
            name="convert",
            paper_steps="1-2",
            title="blocks in pools, nothing trainable but the controllers",
            prepare=lambda model: only_controllers(to_reset(model, config.controller)),
        ),
        rk.training.Stage(
            name="gumbel_softmax",
            paper_steps="3-4",
            title="controllers, Gumbel-softmax scores",
            prepare=lambda model: only_controllers(model, rk.GumbelSoftmaxScorer(config.temperature)),
            training=controllers(config, config.gumbel_steps, config.controller_rate, callbacks=cooling(config)),
        ),
        rk.training.Stage(
            name="gumbel_st",
            paper_steps="5-6",
            title="controllers, straight-through scores, until the policy converges",
            prepare=lambda model: only_controllers(model, rk.GumbelSTScorer(config.final_temperature)),
            training=controllers(
                config,
                config.convergence_steps,
                config.controller_rate,
                callbacks=lambda _: {"convergence": rk.callbacks.PolicyConvergence(probe, config.policy_tolerance)},
            ),
        ),
        *(hybrid(config, reward, probe) for reward in rewards),
        rk.training.Stage(
            name="finetune",
            paper_steps="9",
            title="all weights, the reward for skipping still on",
            training=whole_network(
                config,
                config.finetune_steps,
                config.finetune_rate,
                lambda: routing(config) | skip_reward(config, config.skip_rewards[-1]),
            ),
            start=f"hybrid_{config.skip_rewards[-1]:g}",
        ),
    ]


def hybrid(config: RelaxationConfig, reward: float, probe: np.ndarray) -> rk.training.Stage:
    """Steps 7-8 with a reward."""
    return rk.training.Stage(
        name=f"hybrid_{reward:g}",
        paper_steps="7-8",
        title=f"controllers, with a reward of {reward:g} for skipping, until little enough is computed",
        prepare=only_controllers,
        training=controllers(
            config,
            config.hybrid_steps,
            config.controller_rate,
            lambda: skip_reward(config, reward),
            lambda _: {"stop_at_compute": rk.callbacks.StopAtCompute(probe, config.compute_target)},
        ),
        start="gumbel_st",
    )


def skip_reward(config: RelaxationConfig, reward: float) -> dict[str, Any]:
    """The argument of `compile` for a reward."""
    return {"skip_reward": rk.SkipReward(reward, estimator=config.skip_estimator)}


if __name__ == "__main__":
    run(parse(RelaxationConfig, __doc__), stages)
