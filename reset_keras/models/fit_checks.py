"""What `RoutedModel.fit` refuses before it trains: Keras would train on, or fail without naming the cause."""

from typing import Any

import keras
import numpy as np


def check_fit_input(x: Any, y: Any, network: keras.Model, loss: Any) -> None:
    """What `fit` is given must fit the network, as far as can be told before training.

    Of arrays all is looked at; of a `tf.data.Dataset` its shapes and whether it is empty; of other things nothing.

    Args:
        x: What `fit` was given.
        y: Likewise.
        network: Functional model with one input, else nothing is looked at.
        loss: The compiled loss; the range of labels is that of `SparseCategoricalCrossentropy`.

    Raises:
        ValueError: something is wrong with `x` or `y`, which the message names.
    """
    if len(network.inputs) != 1:
        return
    if isinstance(x, np.ndarray):
        _check_arrays(x, y, network, loss)
    elif hasattr(x, "element_spec") and callable(getattr(x, "cardinality", None)):
        _check_dataset(x, network)


def _check_dataset(dataset: Any, network: keras.Model) -> None:
    """A `tf.data.Dataset` must not be empty, and its batches must fit the network."""
    expected = tuple(network.inputs[0].shape)
    if int(dataset.cardinality()) == 0:
        raise ValueError(f"`x` must hold at least one batch of shape {expected}. Received: an empty dataset")
    inputs = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)[0]
    rank = getattr(getattr(inputs, "shape", None), "rank", None)
    if rank is None:
        return
    shape = tuple(inputs.shape)
    if not _fits(shape, expected):
        hint = ": give it batches, dataset.batch(128)" if rank == len(expected) - 1 else ""
        raise ValueError(f"`x` must hold batches of shape {expected}. Received: a dataset of shape {shape}{hint}")


def _check_arrays(x: np.ndarray, y: Any, network: keras.Model, loss: Any) -> None:
    """Images and labels must be there, fit the network, and hold no values that training cannot use."""
    expected = tuple(network.inputs[0].shape)
    if not _fits((None, *x.shape[1:]), expected) or len(x) == 0:
        raise ValueError(f"`x` must hold at least one input of shape {expected}. Received: x of shape {x.shape}")
    _check_finite("x", x)
    if isinstance(y, np.ndarray):
        _check_labels(x, y, network, loss)


def _fits(shape: tuple, expected: tuple) -> bool:
    """Whether inputs of a shape can be fed: where a last axis of 1 is missing or too many, Keras mends it."""
    if len(shape) == len(expected) - 1 and expected[-1] == 1:
        shape = (*shape, 1)
    elif len(shape) == len(expected) + 1 and shape[-1] == 1:
        shape = shape[:-1]
    return len(shape) == len(expected) and all(
        None in sizes or sizes[0] == sizes[1] for sizes in zip(expected, shape, strict=True)
    )


def _check_finite(name: str, values: np.ndarray) -> None:
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum())
        raise ValueError(
            f"`{name}` must hold finite numbers. Received: NaN or infinity in {count} of {len(values)} entries"
        )


def _check_labels(x: np.ndarray, y: np.ndarray, network: keras.Model, loss: Any) -> None:
    if y.ndim == 0 or len(y) != len(x):
        raise ValueError(f"`y` must have an entry for each of the {len(x)} inputs. Received: y of shape {y.shape}")
    _check_finite("y", y)
    sparse = isinstance(loss, keras.losses.SparseCategoricalCrossentropy) or loss == "sparse_categorical_crossentropy"
    outputs = network.output
    if not sparse or not isinstance(outputs, keras.KerasTensor):
        return
    classes = outputs.shape[-1]
    if classes is None:
        return
    inside = (y >= 0) & (y < classes) | (y == getattr(loss, "ignore_class", None))
    if not inside.all():
        raise ValueError(
            f"`y` must hold classes from 0 to {classes - 1}, the model's outputs. Received: {y[~inside].ravel()[0]}"
        )
