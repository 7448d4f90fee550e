"""Measures the tiles of the kernel for routed units on this machine's GPU, to choose `TILES` by.

    python benchmarks/tiles.py                     # a batch of 1,024 images, bfloat16
    python benchmarks/tiles.py --batch-size 128

For the images of each module of ReSet-38, five iterations of one unit for an image, 30 % of them skipped. The table has
the median over turns of a tile's time over that of five static residual units by XLA, in the same turn. The last line
is what to put into `reset_keras/inference/gpu/routed_units.py`.
"""

import argparse
import functools
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import clone  # noqa: F401

MODULES = ((32, 16), (16, 32), (8, 64))
"""Height and channels of the images in each module of ReSet-38."""
NUM_UNITS = 5
SKIPPED = 0.3


def main() -> None:
    """Measures, prints the best tiles of each module, and the line that sets them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=1024, help="images (default 1024)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each tile (default 9)")
    settings = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import jax

    if jax.default_backend() != "gpu":
        sys.exit("error: the kernel is timed on a GPU, and JAX sees none here: pip install 'jax[cuda12]'")
    best = []
    for size, channels in MODULES:
        ratios = measure(size, channels, settings.batch_size, settings.rounds)
        print_table(f"{size} by {size} pixels, {channels} channels, {settings.batch_size} images", ratios)
        best.append(fastest(ratios)[0])
    print(f"TILES = ({', '.join(f'Tile({t.pixels}, {t.channels}, {t.num_warps})' for t in best)})")


def candidates(size: int, channels: int) -> list[Any]:
    """Tiles of all channels, which is what `TILES` are told apart by, and of up to 256 pixels."""
    from reset_keras.inference.gpu.routed_units import Tile

    pixels = [count for count in (16, 32, 64, 128, 256) if count <= size * size]
    return [Tile(count, channels, warps) for count, warps in itertools.product(pixels, (2, 4, 8))]


def measure(size: int, channels: int, batch_size: int, rounds: int) -> dict[Any, np.ndarray]:
    """For each tile the ratio of its time to that of static units, in each turn."""
    from reset_keras.inference import interleaved_times

    arrays = arguments(size, channels, batch_size, "bfloat16")
    runs: dict[Any, Callable[[], Any]] = {"static": functools.partial(static_units(), *arrays)}
    for tile in candidates(size, channels):
        run = functools.partial(routed_iterations(tile), *arrays)
        if compiles(run):
            runs[tile] = run
        else:
            print(f"{tile} does not compile here")
    times = interleaved_times(runs, rounds)
    return {tile: turns / times["static"] for tile, turns in times.items() if tile != "static"}


def compiles(run: Callable[[], Any]) -> bool:
    """Whether a computation compiles and runs: a tile may ask for more memory than a GPU has on chip."""
    import jax

    try:
        jax.block_until_ready(run())
    except jax.errors.JaxRuntimeError:
        return False
    return True


def arguments(size: int, channels: int, batch_size: int, dtype: str) -> tuple[Any, Any, Any]:
    """Images, the unit of each image in each iteration (`NUM_UNITS` for none), and the units' kernels and biases."""
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(batch_size, size, size, channels)), dtype)
    choices = rng.integers(0, NUM_UNITS, (NUM_UNITS, batch_size))
    choices[rng.random(choices.shape) < SKIPPED] = NUM_UNITS
    shapes = [(NUM_UNITS, 3, 3, channels, channels), (NUM_UNITS, channels)] * 2
    weights = [jnp.asarray(rng.normal(0, 0.1 / channels, shape), dtype) for shape in shapes]
    return images, jnp.asarray(choices, "int32"), weights


def routed_iterations(tile: Any, interpret: bool = False) -> Callable[[Any, Any, Any], Any]:
    """A function of `arguments` that runs an iteration for each unit by the kernel, with a tile."""
    import jax

    from reset_keras.inference.gpu import routed_units as kernel

    @jax.jit
    def run(images: Any, choices: Any, weights: Any) -> Any:
        kernel.TILES = (tile,)  # read while this is traced
        for choice in choices:
            images = kernel.routed_units(images, choice, *weights, interpret=interpret)
        return images

    return run


def static_units() -> Callable[[Any, Any, Any], Any]:
    """A function of `arguments` that runs the units one after the other, each for all images, whatever they chose."""
    import jax

    layout = ("NHWC", "HWIO", "NHWC")
    convolution = functools.partial(
        jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=layout
    )

    @jax.jit
    def run(images: Any, choices: Any, weights: Any) -> Any:
        for kernel1, bias1, kernel2, bias2 in zip(*weights, strict=True):
            hidden = jax.nn.relu(convolution(images, kernel1) + bias1)
            images = jax.nn.relu(images + convolution(hidden, kernel2) + bias2)
        return images

    return run


def print_table(title: str, ratios: dict[Any, np.ndarray]) -> None:
    """Prints the eight fastest tiles of a module."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for heading in ("Pixels", "Channels", "Warps", "Time over static units", "Quartiles"):
        table.add_column(heading, justify="right")
    for tile in fastest(ratios)[:8]:
        low, middle, high = np.quantile(ratios[tile], [0.25, 0.5, 0.75])
        sizes = map(str, (tile.pixels, tile.channels, tile.num_warps))
        table.add_row(*sizes, f"{middle:.2f}x", f"{low:.2f} to {high:.2f}")
    Console().print(table)


def fastest(ratios: dict[Any, np.ndarray]) -> Sequence[Any]:
    """Tiles, the one with the smallest median first."""
    return sorted(ratios, key=lambda tile: float(np.median(ratios[tile])))


if __name__ == "__main__":
    main()
