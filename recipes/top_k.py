"""Keeps the k largest scores of a softmax-trained ReSet, and trains on (section 5.4.3).

    python recipes/top_k.py                                         # digits
    python recipes/top_k.py --preset paper                          # CIFAR-10, the paper's numbers: needs a GPU
    python recipes/top_k.py --preset paper --pretrained reset.keras

Rows 18 to 20 of table 2 (92.6, 92.7 and 92.1 % for k of 1, 2 and 4). Each k starts from the same network. On digits,
from the network of row 2: 98.89, 99.44 and 99.17 %, from 98.33 %, at compute fractions of 0.67, 1.45 and 2.60.
"""

from __future__ import annotations

from experiment import rk
from experiment.config import flag, parse
from experiment.network_config import ControllerConfig, PretrainedConfig, load_pretrained, to_reset
from experiment.runner import run
from experiment.trainings import pretraining, routing, whole_network

ROWS = {1: "row 18", 2: "row 19", 4: "row 20"}


class TopKConfig(ControllerConfig, PretrainedConfig):
    """Settings of the experiment."""

    k: tuple[int, ...] = flag((1, 2, 4), "numbers of scores that are kept", least=1)
    finetune_steps: int = flag(200, "length of each training", paper=20_000, unit="batches", least=1)
    finetune_rate: float = flag(0.01, "learning rate of each training", above=0)


def stages(config: TopKConfig, dataset: rk.data.ImageDataset) -> list[rk.training.Stage]:
    """Softmax first, then each k.

    Raises:
        ValueError: a k is larger than the number of scores of a module.
    """
    modules = getattr(load_pretrained(config, dataset), "routed_modules", None)
    largest = min(module.num_scores for module in modules) if modules else min(config.units) + 1
    if max(config.k) > largest:
        raise ValueError(f"--k must be at most {largest}, the scores of the smallest module; received {max(config.k)}")

    def finetuning(k: int) -> rk.training.Stage:
        return rk.training.Stage(
            name=f"top_{k}",
            paper_steps=ROWS.get(k, "5.4.3"),
            title=f"all weights, the {k} largest scores",
            prepare=lambda model: rk.with_scorer(to_reset(model, config.controller), rk.TopKScorer(k)),
            training=whole_network(config, config.finetune_steps, config.finetune_rate, lambda: routing(config)),
            start="pretrain",
        )

    return [
        pretraining(config, dataset, "softmax"),
        *(finetuning(k) for k in dict.fromkeys(config.k)),
    ]


if __name__ == "__main__":
    run(parse(TopKConfig, __doc__), stages)
