import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from reset_keras.distribution import has_gpu

BATCH_SIZE = 128
ROUNDS = 7


def relative_inference_time(model: keras.Model, baseline: keras.Model, images: np.ndarray) -> float:
    """How long a model takes for a batch of images, over how long another one takes.

    Both run as compiled TensorFlow functions (with XLA where there is a GPU), turn by turn, so that a machine whose
    speed changes slows both; the ratio is that of the medians.

    Args:
        model: The model to be timed.
        baseline: What it is compared with.
        images: Array of normalized images; the first 128 are used.

    Returns:
        Ratio of the median times: below 1 is faster than the baseline.
    """
    batch = keras.ops.convert_to_tensor(images[:BATCH_SIZE])
    runs = [_compiled(model), _compiled(baseline)]
    rounds = [[_seconds(run, batch) for run in runs] for _ in range(ROUNDS)]
    ours, theirs = np.median(rounds, axis=0)
    return float(ours / theirs)


def _compiled(model: keras.Model) -> Callable[[Any], Any]:
    import tensorflow as tf

    return tf.function(lambda images: model(images, training=False), jit_compile=has_gpu())


def _seconds(run: Callable[[Any], Any], batch: Any) -> float:
    repeats = 1
    run(batch)
    while True:
        start = time.perf_counter()
        outputs: Sequence[Any] = [run(batch) for _ in range(repeats)]
        keras.ops.convert_to_numpy(keras.tree.flatten(outputs[-1])[0])
        seconds = time.perf_counter() - start
        if seconds > 0.05:
            return seconds / repeats
        repeats *= 2
