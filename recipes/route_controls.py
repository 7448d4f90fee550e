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
    from reset_keras.training.stages.loading import read_network

    try:
        model = read_network(config.network)  # before the images, which take longer
        if not isinstance(model, rk.RoutedModel):
            fail(f"--network must have routes; received {config.network}, a {type(model).__name__}")
        if config.compute is not None:
            rk.inference.set_compute(model, config.compute)
        dataset = rk.data.load_dataset(config.dataset)
        expected, found = tuple(model.input_shape[1:]), tuple(dataset.test.images.shape[1:])
        if expected != found:
            fail(f"--dataset {config.dataset} has images of {found}; {config.network} takes {expected}: give its own")
        images, labels = dataset.normalize(dataset.test.images), dataset.test.labels
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
