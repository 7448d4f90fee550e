"""Times each system of recipes/systems.py at ResNet-38's size, frozen, over the frozen ResNet-38.

    python benchmarks/systems_speed.py                                  # at 0.7 of the operations
    python benchmarks/systems_speed.py --compute 0.5 --systems skipnet blockdrop act

Nothing is trained: what decides has random weights, so that images of noise differ in what they run, and biases that
make each unit run for as many of them as that compute fraction asks for. Systems where nobody decides are measured as
they are. So the table shows what skipping saves after what choosing costs, and nothing about accuracy.
"""

import argparse
import functools
from typing import Any

import keras
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import clone  # noqa: F401
import reset_keras as rk
from experiment.systems import SYSTEMS
from onnx_measurements import run_all
from random_decisions import decide_at_random
from reset_keras.inference import FrozenNetwork, freeze, interleaved_times, macs, routed_macs
from reset_keras.models.operations import count_operations
from timed_networks import as_trained, noise

BATCHES = {1: 64, 128: 2}
"""How many batches of each size are timed in one turn."""
ROUNDS = 9
TRIED = 64
"""Images that decisions are set by."""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compute", type=float, default=0.7, help="compute fraction to time them at (default 0.7)")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=[*SYSTEMS], help="what is timed (default all)")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    images = np.array(noise(256))
    resnet = as_trained(rk.models.resnet38())
    networks = {name: network_of(name, resnet, arguments.compute) for name in arguments.systems}
    fractions = {name: at_compute(network, resnet, images, arguments.compute) for name, network in networks.items()}
    frozen = {"resnet": freeze(resnet)} | {name: freeze(network) for name, network in networks.items()}
    ratios = {size: times_over_resnet(frozen, images[: size * count], size) for size, count in BATCHES.items()}
    table = Table("System", "Operations", *(f"Time, batch {size}" for size in BATCHES), box=box.MARKDOWN)
    for name, fraction in fractions.items():
        table.add_row(SYSTEMS[name].name, f"{fraction:.3f}", *(f"{ratios[size][name]:.2f}x" for size in BATCHES))
    Console(width=100).print(table)


def network_of(name: str, resnet: rk.ResNet, compute: float) -> Any:
    """A system's network, as it is served."""
    if name == "reset":
        network = rk.resnet_to_reset(resnet, "rnn", "gumbel_st")  # not trained to imitate the ResNet's order
    else:
        network = SYSTEMS[name].network(resnet, strength=share_of_blocks(resnet, compute), images=None)
    then = SYSTEMS[name].then
    return as_trained(network if then is None else rk.with_scorer(network, then))


def share_of_blocks(resnet: rk.ResNet, compute: float) -> float:
    """The share of a pool's blocks that costs nearest to a compute fraction, as the strength of the shorter ResNet."""
    shares = np.linspace(0, 1, max(resnet.stage_blocks))
    shorter = SYSTEMS["static"].network
    costs = [macs(shorter(resnet, strength=share)) / macs(resnet) for share in shares]
    return float(shares[np.abs(np.array(costs) - compute).argmin()])


def at_compute(network: Any, resnet: rk.ResNet, images: np.ndarray, compute: float) -> float:
    """Makes a network run about that compute fraction where something decides, and returns what it runs."""
    if not isinstance(network, rk.RoutedModel):
        return macs(network) / macs(resnet)
    operations = count_operations(network.network, network.routed_modules)
    least = operations.smallest_fraction
    decide_at_random(network, images[:TRIED], share=(compute - least) / (1 - operations.fixed / operations.static))
    return float(routed_macs(network, network.predict_routes(images, verbose=0)).mean() / macs(resnet))


def times_over_resnet(networks: dict[str, FrozenNetwork], images: np.ndarray, size: int) -> dict[str, float]:
    """The median over turns of each network's time over the ResNet's."""
    batches = images.reshape(-1, size, *images.shape[1:])
    runs = {name: functools.partial(run_all, network, batches) for name, network in networks.items()}
    times = interleaved_times(runs, ROUNDS)
    return {name: float(np.median(turns / times["resnet"])) for name, turns in times.items()}


if __name__ == "__main__":
    main()
