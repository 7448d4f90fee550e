"""Trains a ReSet from scratch, with one of three scorers (section 5.2).

    python recipes/from_scratch.py                                                  # digits, softmax: 98.33 %
    python recipes/from_scratch.py --preset paper                                   # row 2 of table 2: needs a GPU
    python recipes/from_scratch.py --preset paper --optimizer adam                  # row 3
    python recipes/from_scratch.py --preset paper --entropy-across 0.02             # row 4; with Adam row 5
    python recipes/from_scratch.py --preset paper --entropy-across 0.02 --scorer gumbel_softmax     # row 6
    python recipes/from_scratch.py --preset paper --scorer gumbel_st                # row 7

The paper has 91.9, 89.9, 92.1, 89.3, 89 and 60.5 % for rows 2 to 7. The entropy's weight is constant for the first half
of the training and falls to 0 in the second.
"""

from __future__ import annotations

from typing import Any

from experiment import rk
from experiment.config import flag, parse
from experiment.network_config import ControllerConfig, GumbelConfig, ScratchConfig, UnitsConfig, new_reset
from experiment.runner import run
from experiment.trainings import cooling, routing, whole_network


class FromScratchConfig(GumbelConfig, ControllerConfig, UnitsConfig, ScratchConfig):
    """Settings of the training."""

    scorer: str = flag("softmax", "how logits become scores", choices=("softmax", "gumbel_softmax", "gumbel_st"))
    clip_norm: float = flag(5.0, "largest norm of the gradient", above=0)
    temperature: float = flag(1.0, "of the Gumbel noise's softmax at the start, unless scores are softmax", least=1e-4)
    final_temperature: float = flag(0.5, "of the Gumbel noise's softmax at the end, likewise", least=1e-4)
    controller_size: int | None = flag(
        None, "width of the rnn's state, filters of the cnn; none: 64 and 16, as the layers have them", least=1
    )
    skip_reward: float = flag(
        0.0, "reward for leaving all units out, at every iteration", unit="loss per iteration", least=0
    )


def stages(config: FromScratchConfig, dataset: rk.data.ImageDataset) -> list[rk.training.Stage]:
    """The only stage."""
    return [
        rk.training.Stage(
            name="train",
            paper_steps="rows 2-7",
            title=f"ReSet from scratch, {config.scorer} scores",
            prepare=lambda _: new_reset(
                config, dataset, config.units, scorer=config.scorer, controller_size=config.controller_size
            ),
            training=whole_network(
                config,
                config.train_steps,
                config.rate,
                lambda: routing(config) | rewards(config),
                lambda epochs: callbacks(config, epochs),
            ),
        )
    ]


def rewards(config: FromScratchConfig) -> dict[str, Any]:
    """The reward for skipping, where there is one: all three scorers let its gradient through."""
    return {"skip_reward": rk.SkipReward(config.skip_reward)} if config.skip_reward else {}


def callbacks(config: FromScratchConfig, epochs: int) -> dict[str, Any]:
    """What changes along the training: the entropy's weight, and the temperature where there is noise."""
    entropy = rk.callbacks.EntropySchedule(config.entropy_across, config.entropy_within, epochs)
    noisy = config.scorer in {"gumbel_softmax", "gumbel_st"}
    return {"entropy": entropy, **(cooling(config)(epochs) if noisy else {})}


if __name__ == "__main__":
    run(parse(FromScratchConfig, __doc__), stages)
