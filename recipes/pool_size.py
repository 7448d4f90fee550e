"""Varies the number of units and of iterations of one ReSet module: table 3.

    python recipes/pool_size.py                   # digits
    python recipes/pool_size.py --preset paper    # CIFAR-10: needs a GPU

The first stage of the network is a ReSet, or two blocks in the baseline, after its fixed block; the other two stages
are one block each. The paper's accuracies: the baseline 86.1 %; units x iterations 6x2 87.2 %, 3x2 86.5 %, 2x3 86.4 %,
2x6 87.3 %. Its text also names 3x3. On digits: the baseline 97.22 %; 6x2 99.72 %, 2x3 98.06 %, the others 98.33 %.
Scores are softmax. Times are relative to the ResNet with a block for each iteration.
"""

from __future__ import annotations

from experiment import rk
from experiment.config import flag, parse
from experiment.network_config import ControllerConfig, ScratchConfig, new_reset, new_resnet
from experiment.runner import run
from experiment.trainings import routing, whole_network

POOLS = {"6x2": (6, 2), "3x2": (3, 2), "2x3": (2, 3), "2x6": (2, 6), "3x3": (3, 3)}
ROWS = {"6x2": "row 2", "3x2": "row 3", "2x3": "row 4", "2x6": "row 5", "3x3": "5.5"}
BASELINE = (2, 0, 0)


class PoolSizeConfig(ControllerConfig, ScratchConfig):
    """Settings of the experiment."""

    pools: tuple[str, ...] = flag(tuple(POOLS), "units x iterations of the first stage's module", choices=tuple(POOLS))
    clip_norm: float = flag(5.0, "largest norm of the gradient of a ReSet", above=0)
    train_steps: int = flag(200, "length of each training", paper=64_000, unit="batches", least=1)


def stages(config: PoolSizeConfig, dataset: rk.data.ImageDataset) -> list[rk.training.Stage]:
    """The baseline, and a ReSet for each size of the pool."""

    def reset(name: str) -> rk.training.Stage:
        units, iterations = POOLS[name]
        return rk.training.Stage(
            name=f"reset_{name}",
            paper_steps=ROWS[name],
            title=f"ReSet, {units} units, {iterations} iterations",
            prepare=lambda _: new_reset(config, dataset, (units, 0, 0), (iterations, 0, 0)),
            training=whole_network(config, config.train_steps, config.rate, lambda: routing(config)),
            start=None,
        )

    baseline = rk.training.Stage(
        name="resnet",
        paper_steps="row 1",
        title="ResNet",
        prepare=lambda _: new_resnet(config, dataset, BASELINE),
        training=whole_network(config, config.train_steps, config.rate),
        start=None,
    )
    return [baseline, *(reset(name) for name in dict.fromkeys(config.pools))]


if __name__ == "__main__":
    run(parse(PoolSizeConfig, __doc__), stages)
