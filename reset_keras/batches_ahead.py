"""Batches for TensorFlow that are made ahead of their use, without the tuning of tf.data.

Tuning is by a thread that sleeps twice as long each time. The end of an iterator can miss to wake it, and waits for it:
a `fit` of six seconds takes ten, a `predict` of 1.8 seconds 2.6 (TensorFlow 2.21). TensorFlow is imported in the
functions: this module loads on every backend.
"""

from typing import Any

import keras
import numpy as np

from reset_keras.distribution import replicas_of

PREFETCHED_BATCHES = 8
"""Ready before they are asked for, so that no step waits for one that took longer than others."""


def ahead(batches: Any) -> Any:
    """A `tf.data.Dataset` whose batches are made ahead, and that is not tuned."""
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(PREFETCHED_BATCHES).with_options(options)


def predicted(model: keras.Model, x: Any, batch_size: int | None = None, **options: Any) -> Any:
    """What `model.predict` returns, sooner where Keras would have the batches of arrays tuned.

    Args:
        model: The model.
        x: What `predict` takes: an array, a list or dict of arrays, or anything else.
        batch_size: Integer, or `None`: 32, and that of the batches where `x` has them. Default `None`.
        **options: Further arguments of `predict`.
    """
    if not _is_tuned(model, x):
        return model.predict(x, batch_size=batch_size, **options)
    import tensorflow as tf

    # In a tuple: Keras would take the second of several inputs for the labels.
    inputs = (tuple(x) if isinstance(x, list) else x,)
    return model.predict(ahead(tf.data.Dataset.from_tensor_slices(inputs).batch(batch_size or 32)), **options)


def _is_tuned(model: keras.Model, x: Any) -> bool:
    """Whether `x` is of arrays that Keras would make batches of, by tf.data, and take as they are."""
    if keras.backend.backend() != "tensorflow" or replicas_of(model) > 1:
        return False
    parts = list(x.values()) if isinstance(x, dict) else x if isinstance(x, list) else [x]
    # Keras converts floats of other types, and strings, and has errors for arrays that do not fit each other.
    types = {keras.config.floatx(), "uint8", "int32", "int64"}
    fits = all(isinstance(part, np.ndarray) and part.ndim > 0 and str(part.dtype) in types for part in parts)
    return bool(parts) and fits and len({len(part) for part in parts}) == 1
