"""Asks what a trained network's routes are worth: the same network along the routes of other images, and along one.

    python recipes/route_controls.py                                    # reset38_efficient_cifar10, on CIFAR-10
    python recipes/route_controls.py --network reset38_any_budget_cifar10 --compute 0.35
    python recipes/route_controls.py --dataset digits --network runs/relaxation/stages/05-finetune/model.keras

A network that is as good along the routes of other images as along its own has learned a static network. Each line has
the images that it gets right and the first does not, and the reverse, with the p-value of McNemar's exact test.
"""

from __future__ import annotations

from experiment import rk
from experiment.config import Flags, fail, flag, parse
from experiment.evaluation import images_for, read_set


class RouteControlsConfig(Flags):
    """Which network, and on which images."""

    network: str = flag("reset38_efficient_cifar10", "a .keras file, or a name in rk.models.PRESETS")
    dataset: str = flag("cifar10", "'digits', or a dataset's name in TensorFlow Datasets: that of the network")
    compute: float | None = flag(
        None, "compute fraction that a network of every budget is set to; none: as the file has it", above=0
    )
    seed: int = flag(0, "of the random order of the images whose routes are taken", least=0)


def main(config: RouteControlsConfig) -> None:
    """Prints the table."""
    import numpy as np
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from paper_tables.results_table import mcnemar

    try:
        model = read_set(config.network, config.compute)  # before the images, which take longer
        if not isinstance(model, rk.RoutedModel):
            fail(f"--network must have routes; received {config.network}, a {type(model).__name__}")
        images, labels = images_for({config.network: model}, config.dataset)
        found = rk.analysis.route_controls(model, images, labels, config.seed)
    except ValueError as error:
        fail(str(error))
    table = Table("Route", "Test %", "Compute", "Better / worse than its own", "p", box=box.MARKDOWN)
    lines = {"its own": found.own, "another image's": found.shuffled, "one for all": found.one_for_all}
    for name, along in lines.items():
        better, worse, p_value = mcnemar(along.right, found.own.right, np.full(len(labels), True))
        compared = ["-", "-"] if along is found.own else [f"{better} / {worse}", f"{p_value:.2g}"]
        table.add_row(name, f"{100 * along.accuracy:.2f}", f"{along.compute:.3f}", *compared)
    Console(width=100).print(table)


if __name__ == "__main__":
    main(parse(RouteControlsConfig, __doc__))
