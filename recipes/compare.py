"""Compares trained networks, image by image, on a dataset's test images.

    python recipes/compare.py --networks resnet38_cifar10 reset38_efficient_cifar10
    python recipes/compare.py --networks resnet38_cifar10 reset38_any_budget_cifar10@0.5 reset38_any_budget_cifar10@0.35
    python recipes/compare.py --dataset digits --networks runs/relaxation/stages/0[05]-*/model.keras

Each line has the images that a network gets right and the first does not, and the reverse, with the p-value of
McNemar's exact test. *Compute* is the operations over the first's. `@0.5` sets a network for every budget to that
compute fraction.
"""

from __future__ import annotations

import pathlib
from typing import Any

from experiment import rk
from experiment.config import Flags, fail, flag, parse
from experiment.evaluation import images_for, read_set


class CompareConfig(Flags):
    """Which networks, and on which images."""

    networks: tuple[str, ...] = flag(
        ("resnet38_cifar10", "reset38_efficient_cifar10"),
        ".keras files, or names in rk.models.PRESETS; each may end in @ and a compute fraction",
    )
    dataset: str = flag("cifar10", "'digits', or a dataset's name in TensorFlow Datasets: that of the networks")


def main(config: CompareConfig) -> None:
    """Prints the table."""
    import numpy as np
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from paper_tables.comparison import mcnemar

    try:
        models = {network: _read(network) for network in config.networks}  # before the images, which take longer
        images, labels = images_for(models, config.dataset)
        found = [_predictions(model, images) for model in models.values()]
    except ValueError as error:
        fail(str(error))
    table = Table("Network", "Test %", "Compute", "Better / worse than the first", "p", box=box.MARKDOWN)
    (first, most), *_ = found
    for name, (classes, operations) in zip(models, found, strict=True):
        better, worse, p_value = mcnemar(classes, first, labels)
        compared = ["-", "-"] if classes is first else [f"{better} / {worse}", f"{p_value:.2g}"]
        accuracy = 100 * np.mean(classes == labels)
        table.add_row(name, f"{accuracy:.2f}", f"{operations / most:.3f}", *compared)
    Console(width=1_000).print(table)  # it takes what it needs: long names are not wrapped


def _read(network: str) -> Any:
    name, at, compute = network.rpartition("@")
    if not at or pathlib.Path(network).exists():
        return read_set(network, None)
    try:
        fraction = float(compute)
    except ValueError as error:
        raise ValueError(
            f"--networks: a compute fraction goes after @, as in {name}@0.5; received {network}"
        ) from error
    return read_set(name, fraction)


def _predictions(model: Any, images: Any) -> tuple[Any, float]:
    """The likeliest class of each image, and the operations of one, on average."""
    if not isinstance(model, rk.RoutedModel):
        return model.predict(images, batch_size=256, verbose=0).argmax(axis=-1), rk.inference.macs(model)
    outputs, routes = model.predict_with_routes(images, batch_size=256, verbose=0)
    return outputs.argmax(axis=-1), rk.inference.routed_macs(model, routes).mean()


if __name__ == "__main__":
    main(parse(CompareConfig, __doc__))
