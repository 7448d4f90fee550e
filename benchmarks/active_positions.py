"""Times a folded unit at some positions of its features over the same unit at all of them, on TensorFlow.

    python benchmarks/active_positions.py

Frozen networks with SACT leave out positions that have halted where so few are left that it pays (`pays` in
reset_keras/inference/frozen/active_positions.py). The features are those of ResNet-38's three stages, the positions
that are left a square of each image.
"""

import functools

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import clone  # noqa: F401
from reset_keras.inference import interleaved_times
from reset_keras.inference.frozen.active_positions import residual_at
from reset_keras.inference.frozen.frozen_pool import residual

STAGES = ((32, 16), (16, 32), (8, 64))
"""Height or width, and channels."""
SHARES = (0.5, 0.25, 0.1)
BATCH_SIZES = (1, 128)
ROUNDS = 9


def main() -> None:
    """Prints the table."""
    table = Table("Features", "Batch", *(f"{share:.0%} left" for share in SHARES), box=box.MARKDOWN)
    for size, channels in STAGES:
        for batch_size in BATCH_SIZES:
            ratios = [time_over_all(batch_size, size, channels, share) for share in SHARES]
            table.add_row(f"{size} x {size} x {channels}", str(batch_size), *(f"{ratio:.2f}x" for ratio in ratios))
    Console(width=100).print(table)


def time_over_all(batch_size: int, size: int, channels: int, share: float) -> float:
    """The median ratio of turns."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    kernel = (3, 3, channels, channels)
    weights = [rng.normal(0, 0.1, shape).astype("float32") for shape in (kernel, (channels,), kernel, (channels,))]
    x = tf.constant(rng.normal(size=(batch_size, size, size, channels)), "float32")
    active = np.zeros((batch_size, size, size, 1), "float32")
    side = round(size * share**0.5)
    active[:, :side, :side] = 1
    at_some = tf.function(functools.partial(residual_at, x, weights, "float32", tf.constant(active)))
    at_all = tf.function(functools.partial(residual, x, weights, "float32"))
    times = interleaved_times({"some": at_some, "all": at_all}, ROUNDS)
    return float(np.median(np.array(times["some"]) / np.array(times["all"])))


if __name__ == "__main__":
    main()
