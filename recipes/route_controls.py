"""Asks what a trained network's routes are worth: the same network along the routes of other images, and along one.

    python recipes/route_controls.py                                    # reset38_efficient_cifar10, on CIFAR-10
    python recipes/route_controls.py --network reset38_any_budget_cifar10 --compute 0.35
    python recipes/route_controls.py --dataset digits --network runs/relaxation/stages/0[2-5]-*/model.keras

A network that is as good along the routes of other images as along its own has learned a static network. Each line has
the images that it gets right and the first does not, and the reverse, with the p-value of McNemar's exact test.
"""

from __future__ import annotations

import pathlib
from typing import Any

from experiment import rk
from experiment.config import Flags, fail, flag, parse
from experiment.evaluation import images_for, read_set

TITLES = {"own": "its own", "shuffled": "another image's", "one_for_all": "one for all"}
"""Routes, by their names in `rk.analysis.RouteControls`."""


class RouteControlsConfig(Flags):
    """Which network, and on which images."""

    network: tuple[str, ...] = flag(
        ("reset38_efficient_cifar10",), "a .keras file, or a name in rk.models.PRESETS; or several of these"
    )
    dataset: str = flag("cifar10", "'digits', or a dataset's name in TensorFlow Datasets: that of the network")
    compute: float | None = flag(
        None, "compute fraction that a network for every budget is set to; none: as the file has it", above=0
    )
    seed: int = flag(0, "of the random order of the images whose routes are taken", least=0)
    output: str = flag("", "a JSON file that the figures of all networks are also written to; empty: none")


def main(config: RouteControlsConfig) -> None:
    """Prints a table for each network."""
    models, found, refused = {}, {}, []
    for network in config.network:  # before the images, which take longer, and are the same for all
        try:
            models[network] = routed(network, config.compute)
        except ValueError as error:
            refused.append(str(error))  # the others are measured all the same
    images, labels = images_of(models, config.dataset)
    for network, model in models.items():
        try:
            found[network] = controls(rk.analysis.route_controls(model, images, labels, config.seed))
        except ValueError as error:
            refused.append(str(error))
            continue
        print_table(found[network], title=network if len(config.network) > 1 else None)
    if config.output:
        from reset_keras.atomic_write import write_json

        write_json(pathlib.Path(config.output), found)
    if refused:
        fail("; ".join(refused))


def routed(network: str, compute: float | None) -> rk.RoutedModel:
    """A network by its file or name; `ValueError` where it has no routes."""
    model = read_set(network, compute)
    if not isinstance(model, rk.RoutedModel):
        raise ValueError(f"--network must have routes; received {network}, a {type(model).__name__}")
    return model


def images_of(models: dict[str, Any], dataset: str) -> tuple[Any, Any]:
    """The images of all networks, and their labels; none where no network could be read."""
    try:
        return images_for(models, dataset) if models else (None, None)
    except ValueError as error:
        fail(str(error))


def controls(measured: rk.analysis.RouteControls) -> dict[str, dict[str, Any]]:
    """What a network reaches along its own routes and along others, these compared with the former, as text."""
    import numpy as np

    from paper_tables.comparison import mcnemar

    def line(along: Any) -> dict[str, Any]:
        better, worse, p_value = mcnemar(along.right, measured.own.right, np.full(len(along.right), True))
        compared = {} if along is measured.own else {"better": better, "worse": worse, "p_value": f"{p_value:.2g}"}
        return {"accuracy": f"{100 * along.accuracy:.2f}", "compute": f"{along.compute:.3f}", **compared}

    return {name: line(getattr(measured, name)) for name in TITLES}


def print_table(lines: dict[str, dict[str, Any]], title: str | None) -> None:
    """Prints what a network reaches along its own routes and along others."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("Route", "Test %", "Compute", "Better / worse than its own", "p", title=title, box=box.MARKDOWN)
    for name, line in lines.items():
        compared = f"{line['better']} / {line['worse']}" if "better" in line else "-"
        table.add_row(TITLES[name], line["accuracy"], line["compute"], compared, line.get("p_value", "-"))
    Console(width=100).print(table)


if __name__ == "__main__":
    main(parse(RouteControlsConfig, __doc__))
