"""What `RoutedModel.fit` refuses, where it is given arrays: Keras would train on, or fail without naming the cause."""

from typing import Any

import keras
import numpy as np


def check_fit_arrays(x: Any, y: Any, network: keras.Model, loss: Any) -> None:
    """Images and labels must be there, fit the network, and hold no values that training cannot use.

    Args:
        x: What `fit` was given; looked at where it is one numpy array.
        y: Likewise.
        network: Functional model with one input, else nothing is looked at.
        loss: The compiled loss; the range of labels is that of `SparseCategoricalCrossentropy`.

    Raises:
        ValueError: something is wrong with `x` or `y`, which the message names.
    """
    if not isinstance(x, np.ndarray) or len(network.inputs) != 1:
        return
    expected = tuple(network.inputs[0].shape)
    fits = x.ndim == len(expected) and all(a in (None, b) for a, b in zip(expected[1:], x.shape[1:], strict=True))
    if len(x) == 0 or not fits:
        raise ValueError(f"`x` must hold at least one input of shape {expected}. Received: x of shape {x.shape}")
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        count = int((~np.isfinite(x)).reshape(len(x), -1).any(axis=1).sum())
        raise ValueError(f"`x` must hold finite numbers. Received: NaN or infinity in {count} of {len(x)} inputs")
    if isinstance(y, np.ndarray):
        _check_labels(x, y, network, loss)


def _check_labels(x: np.ndarray, y: np.ndarray, network: keras.Model, loss: Any) -> None:
    if y.ndim == 0 or len(y) != len(x):
        raise ValueError(f"`y` must have an entry for each of the {len(x)} inputs. Received: y of shape {y.shape}")
    sparse = isinstance(loss, keras.losses.SparseCategoricalCrossentropy) or loss == "sparse_categorical_crossentropy"
    outputs = network.output["outputs"]
    if not sparse or not isinstance(outputs, keras.KerasTensor):
        return
    classes = outputs.shape[-1]
    inside = (y >= 0) & (y < classes)
    if not inside.all():
        raise ValueError(
            f"`y` must hold classes from 0 to {classes - 1}, the model's outputs. Received: {y[~inside].ravel()[0]}"
        )
