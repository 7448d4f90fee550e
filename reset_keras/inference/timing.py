import math
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from reset_keras.distribution import has_gpu

BATCH_SIZE = 128
ROUNDS = 7
ROUND_SECONDS = 0.05


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
    for run in runs:
        _seconds(run, batch, repeats=1)
    repeats = [math.ceil(ROUND_SECONDS / _seconds(run, batch, repeats=3)) for run in runs]
    rounds = [[_seconds(*timed) for timed in zip(runs, [batch] * 2, repeats, strict=True)] for _ in range(ROUNDS)]
    ours, theirs = np.median(rounds, axis=0)
    return float(ours / theirs)


def _compiled(model: keras.Model) -> Callable[[Any], Any]:
    import tensorflow as tf

    return tf.function(lambda images: model(images, training=False), jit_compile=has_gpu())


def _seconds(run: Callable[[Any], Any], batch: Any, repeats: int) -> float:
    """Mean time of `repeats` runs, the last of which is waited for."""
    start = time.perf_counter()
    outputs = [run(batch) for _ in range(repeats)]
    keras.ops.convert_to_numpy(keras.tree.flatten(outputs[-1])[0])
    return (time.perf_counter() - start) / repeats
