"""Trains for long and shows whether memory and the time of a step stay flat.

    python benchmarks/soak.py                # 10,000 steps of the quick network on digits: 19 minutes, two CPU cores
    python benchmarks/soak.py --steps 1000

The network is routed by straight-through Gumbel scores with entropy, a skip reward and a gradient clip, and is watched
as the recipes watch theirs: routes after each epoch, TensorBoard, warnings, a checkpoint. A line is printed for each
tenth of the run; the last line compares the last half with the second tenth, which has the compilation behind it.
"""

import argparse
import os
import pathlib
import tempfile
import time
from typing import Any

import numpy as np

import clone  # noqa: F401

BATCH = 64
STEPS_PER_EPOCH = 22
PARTS = 10


def main() -> None:
    """Trains, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000, help="length of the training, batches (default 10000)")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parts = soak(settings.steps, pathlib.Path(folder))
    memory, seconds = (np.array(column) for column in zip(*parts, strict=True))
    print(
        f"memory of the last half over the second tenth: {memory[PARTS // 2 :].mean() / memory[1]:.3f}; "
        f"time of a step: {seconds[PARTS // 2 :].mean() / seconds[1]:.3f}"
    )


def soak(steps: int, folder: pathlib.Path) -> list[tuple[float, float]]:
    """Trains, and returns for each tenth the memory at its end in MB and the median time of its steps in seconds."""
    import keras

    import reset_keras as rk
    from reset_keras.data import training_batches

    keras.utils.set_random_seed(0)
    digits = rk.data.load_digits()
    model = rk.ReSetNet((3, 3), None, digits.num_classes, digits.image_shape, scorer="gumbel_st")
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        entropy=rk.Entropy(across=0.02),
        skip_reward=rk.SkipReward(target=0.9),
        gradient_clip_norm=5.0,
    )
    epochs = max(PARTS, steps // STEPS_PER_EPOCH)
    watch = rk.callbacks.RouteProbe(digits.normalize(digits.train.images[:512]), digits.train.labels[:512])
    callbacks = [
        rk.callbacks.StopOnNaN(),
        rk.callbacks.RoutingWarnings(watch),
        rk.callbacks.RouteMonitor(folder / "tensorboard", watch),
        rk.training.Checkpoint(folder, {}),
    ]
    clock = _clock(epochs)
    model.fit(
        training_batches(digits, BATCH, seed=0),
        epochs=epochs,
        steps_per_epoch=STEPS_PER_EPOCH,
        shuffle=False,
        callbacks=[*callbacks, clock],
        verbose=0,
    )
    return clock.parts


def _clock(epochs: int) -> Any:
    import keras

    class Clock(keras.callbacks.Callback):
        """Measures each epoch's training steps, without its callbacks, and prints each tenth of the run."""

        def __init__(self) -> None:
            super().__init__()
            self.parts: list[tuple[float, float]] = []
            self.seconds: list[float] = []

        def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            self.began = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            if batch == STEPS_PER_EPOCH - 1:
                self.seconds.append((time.perf_counter() - self.began) / STEPS_PER_EPOCH)

        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            if (epoch + 1) * PARTS // epochs > len(self.parts):
                self.parts.append((resident_megabytes(), float(np.median(self.seconds))))
                memory, seconds = self.parts[-1]
                steps = (epoch + 1) * STEPS_PER_EPOCH
                print(f"{steps:>6} steps: {memory:7.1f} MB, {1000 * seconds:6.1f} ms a step", flush=True)
                self.seconds.clear()

    return Clock()


def resident_megabytes() -> float:
    """Memory of this process that is in use now, as Linux counts it."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
