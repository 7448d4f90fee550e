"""What `RoutedModel` refuses before it trains or evaluates: Keras would go on, or fail without naming the cause."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


def check_data(data: tuple, model: keras.Model, loss: Any, names: Sequence[str] = ("x", "y", "sample_weight")) -> None:
    """What a model is trained or evaluated on must fit it, as far as can be told beforehand.

    Of arrays and tensors all is looked at; of a `tf.data.Dataset` its shapes and whether it is empty; of other things
    nothing.

    Args:
        data: What was given: inputs, and possibly labels and weights.
        model: Functional model with one input, else only labels and weights are looked at.
        loss: The compiled loss; the range of labels is that of `SparseCategoricalCrossentropy`.
        names: What the three are called where they were given.

    Raises:
        ValueError: something is wrong with the data, which the message names.
    """
    x, y, sample_weight = (*data, None, None)[:3]
    # A `tf.data.Dataset`, known by what it has: on JAX TensorFlow need not be installed.
    if hasattr(x, "element_spec") and callable(getattr(x, "cardinality", None)):
        if len(model.inputs) == 1:
            _check_dataset(names[0], x, model)
        return
    x, labels, sample_weight = map(_as_array, (x, y, sample_weight))
    check_inputs(names[0], x, model)
    # `y` as it was given: `labels` is also None for lists that are not looked at.
    if isinstance(x, np.ndarray) and y is None and loss is not None:
        raise ValueError(f"`{names[1]}` must hold the labels of the {len(x)} inputs. Received: None")
    if isinstance(labels, np.ndarray):
        _check_labels(names[1], x, labels, model, loss)
    if isinstance(sample_weight, np.ndarray):
        _check_count(names[2], x, sample_weight)
        _check_finite(names[2], sample_weight)


def check_validation_data(data: Any, model: keras.Model, loss: Any) -> None:
    """`check_data` of what `fit` is given as `validation_data`, if it is."""
    if isinstance(data, tuple) and 2 <= len(data) <= 3:
        check_data(data, model, loss, [f"validation_data[{index}]" for index in range(3)])
    elif data is not None:
        check_data((data,), model, loss, ["validation_data", "", ""])


def _as_array(part: Any) -> Any:
    """Arrays and lists of labels as numpy arrays, and tensors that have values; other things as they are."""
    if isinstance(part, list):
        try:
            part = np.asarray(part)
        except ValueError:  # of arrays of several shapes
            return part
        return part if part.dtype != object and part.ndim == 1 else None
    if keras.ops.is_tensor(part) and not isinstance(part, keras.KerasTensor):
        return keras.ops.convert_to_numpy(part)
    return part


def _check_dataset(name: str, dataset: Any, model: keras.Model) -> None:
    expected = tuple(model.inputs[0].shape)
    if int(dataset.cardinality()) == 0:
        raise ValueError(f"`{name}` must hold at least one batch of shape {expected}. Received: an empty dataset")
    inputs = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)[0]
    rank = getattr(getattr(inputs, "shape", None), "rank", None)
    if rank is None:
        return
    shape = tuple(inputs.shape)
    if not _fits(shape, expected):
        hint = ": give it batches, dataset.batch(128)" if rank == len(expected) - 1 else ""
        raise ValueError(f"`{name}` must hold batches of shape {expected}. Received: a dataset of shape {shape}{hint}")


def check_inputs(name: str, x: Any, model: keras.Model) -> None:
    """Arrays and tensors for a model of one input must fit it, and be finite."""
    x = _as_array(x)
    if not isinstance(x, np.ndarray) or len(model.inputs) != 1:
        return
    expected = tuple(model.inputs[0].shape)
    if not _fits((None, *x.shape[1:]), expected) or len(x) == 0:
        raise ValueError(
            f"`{name}` must hold at least one input of shape {expected}. Received: {name} of shape {x.shape}"
        )
    _check_finite(name, x)


def _fits(shape: tuple, expected: tuple) -> bool:
    """Whether inputs of a shape can be fed: where a last axis of 1 is missing or too many, Keras mends it."""
    if len(shape) == len(expected) - 1 and expected[-1] == 1:
        shape = (*shape, 1)
    elif len(shape) == len(expected) + 1 and shape[-1] == 1:
        shape = shape[:-1]
    return len(shape) == len(expected) and all(
        None in sizes or sizes[0] == sizes[1] for sizes in zip(expected, shape, strict=True)
    )


def _check_count(name: str, x: Any, values: np.ndarray) -> None:
    if isinstance(x, np.ndarray) and (values.ndim == 0 or len(values) != len(x)):
        raise ValueError(
            f"`{name}` must have an entry for each of the {len(x)} inputs. Received: {name} of shape {values.shape}"
        )


def _check_finite(name: str, values: np.ndarray) -> None:
    values = np.atleast_1d(values)
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum())
        raise ValueError(
            f"`{name}` must hold finite numbers. Received: NaN or infinity in {count} of {len(values)} entries"
        )


def _check_labels(name: str, x: Any, y: np.ndarray, model: keras.Model, loss: Any) -> None:
    _check_count(name, x, y)
    _check_finite(name, y)
    outputs = model.output
    if isinstance(loss, dict | list | tuple) and len(loss) == 1:  # Keras takes it so, too
        loss = keras.tree.flatten(loss)[0]
    if not _is_sparse(loss) or not isinstance(outputs, keras.KerasTensor) or outputs.shape[-1] is None:
        return
    classes = outputs.shape[-1]
    expected = f"`{name}` must hold classes from 0 to {classes - 1}, the model's outputs, as whole numbers."
    if y.dtype.kind not in "biuf":
        raise ValueError(
            f"{expected} Received: {y.ravel()[0]!r}, of type {y.dtype}. keras.layers.StringLookup numbers them"
        )
    inside = (y >= 0) & (y < classes) & (y == np.floor(y)) | (y == getattr(loss, "ignore_class", None))
    if not inside.all():
        raise ValueError(f"{expected} Received: {y[~inside].ravel()[0]}")


def _is_sparse(loss: Any) -> bool:
    """Whether labels are classes."""
    return isinstance(loss, keras.losses.SparseCategoricalCrossentropy) or loss == "sparse_categorical_crossentropy"
