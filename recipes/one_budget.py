"""Trains a network for one compute fraction, whose images halt in the last module: beyond the paper.

    python recipes/one_budget.py                                        # digits, after any_budget.py
    python recipes/one_budget.py --workdir runs/one_budget-fast --budgets runs/any_budget-fast \\
        --preset fast --pretrained resnet38_cifar10 --compute 0.5

The network of any_budget.py shares its weights between all budgets. Here there is one budget, as for the networks of
static_control.py, and the question is what halting adds to these. How many blocks each stage has is taken from a run of
any_budget.py: the units that images run at most where they halt at that compute fraction, chosen on held-out training
images. The ResNet's first blocks are the start, and the ResNet is the teacher. In training all images run all units,
and the classifier learns to tell what they are after each unit of the last module (`rk.EarlyExits`). How sure the
classifier must be is chosen on the held-out images, so that the network has at most the requested cost. As in
any_budget.py, images may also run fewer units of the earlier modules, if that is better on the held-out images. A
network that is given by `--pretrained` may have been trained on them, as those of the package were.

With `--early-exits 0 --last-unit 0.5` each image is instead given a number of the last module's units, and learns after
these only: cheaper to train, and worse (results/any_budget.md).
"""

from __future__ import annotations

import functools

from experiment import rk
from experiment.budgets import AfterAnyBudgetConfig, at, blocks_of_budgets, calibrated, taught
from experiment.config import flag, parse
from experiment.network_config import starting_resnet
from experiment.runner import run
from experiment.trainings import pretraining


class OneBudgetConfig(AfterAnyBudgetConfig):
    """Settings of the experiment."""

    compute: tuple[float, ...] = flag(
        (0.5, 0.35), "compute fractions, for each of which one is trained", above=0, most=1
    )
    early_exits: float = flag(
        0.7, "share of the loss that is of the classifier after the last module's earlier units", least=0, below=1
    )
    last_unit: float = flag(1.0, "share of each training batch that runs the last module's last unit", above=0)


def stages(config: OneBudgetConfig, dataset: rk.data.ImageDataset) -> list[rk.training.Stage]:
    """The ResNet, and for each compute fraction a network, whole and with images that halt.

    Raises:
        ValueError: the given network is no ResNet, or there is no such run, or it has no budget of that fraction, or no
            unit of the last module there, or the share is above 1.
    """
    of_resnet = rk.inference.macs(starting_resnet(config, dataset))
    # No noise: it lets the depths of an image differ between modules, and here only the last one has several.
    controller = functools.partial(rk.HaltingController, 1, dataset.num_classes, noise=0.0)
    try:
        # Made here, not in the stage that uses it: a wrong share must be refused before anything is trained.
        last = controller(shares=(1.0, config.last_unit))
    except ValueError as error:
        raise ValueError(f"--last-unit: {error}") from error

    def halting(resnet: rk.ResNet, blocks: tuple[int, ...]) -> rk.ReSetNet:
        # A stage with nothing but its fixed block has no module, and takes no controller.
        before = [controller(shares=(1.0, 1.0)) for count in blocks[:-1] if count > 1]
        shorter = rk.models.first_blocks(resnet, blocks)
        return rk.resnet_to_reset(shorter, [*before, last], rk.HardScorer(sampled=False))

    def at_budget(model: rk.ReSetNet, compute: float) -> rk.ReSetNet:
        whole = rk.inference.macs(rk.models.static_twin(model))  # its budgets are over this
        # All of the network may cost less than is requested: the run of any_budget.py found nothing better for more.
        return at(calibrated(model, dataset), min(1.0, compute * of_resnet / whole))

    found = [pretraining(config, dataset)]
    for compute, blocks in blocks_of_budgets(config, dataset, "halting").items():
        if blocks[-1] == 1:
            raise ValueError(
                f"--compute must leave units of the last module to halt after; received {compute:g}, at which the "
                f"network of --budgets {config.budgets} runs none. Ask for more"
            )
        trained = f"one_budget_{compute:g}"
        found += [
            rk.training.Stage(
                name=trained,
                title=f"{'-'.join(map(str, blocks))} blocks, trained to halt after any of the last stage's",
                prepare=functools.partial(halting, blocks=blocks),
                training=taught(config, config.early_exits),
                start="pretrain",
                baseline="pretrain",
            ),
            rk.training.Stage(
                name=f"halting_{compute:g}",
                title=f"images halt when the classifier is sure, at a compute fraction of {compute:g}",
                prepare=functools.partial(at_budget, compute=compute),
                start=trained,
                baseline="pretrain",
            ),
        ]
    return found


if __name__ == "__main__":
    run(parse(OneBudgetConfig, __doc__), stages)
