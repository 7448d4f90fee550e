import math
import numbers
import operator
from typing import Any

import numpy as np

LARGEST = float(np.finfo(np.float32).max)
"""What float32 can hold."""


def is_integer(value: Any) -> bool:
    """Whether `value` can be an index and is no boolean: NumPy's integers, arrays and tensors of one may."""
    if isinstance(value, bool):
        return False
    try:
        operator.index(value)
    except (TypeError, AttributeError):  # the latter of TensorFlow's tensors
        return False
    return True


def integers(values: Any, least: int, most: float = math.inf) -> tuple[int, ...] | None:
    """`values` as a tuple, or `None` unless they are a sequence of integers from `least` to `most`.

    Examples:
        >>> integers([1, 2], least=0), integers([1, 2.5], least=0), integers(3, least=0)
        ((1, 2), None, None)
    """
    try:
        found = tuple(values)
    except TypeError:
        return None
    fit = all(is_integer(value) and least <= value <= most for value in found)
    return tuple(map(int, found)) if fit else None


def check_integer(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> int:
    """`value` as Python's integer; `ValueError` unless it is an integer, not a boolean, from `least` to `most`.

    Keras takes no integer of NumPy where it makes weights and files.

    Examples:
        >>> check_integer("units", np.int64(2), least=1)
        2
        >>> check_integer("units", 2.5, least=1)
        Traceback (most recent call last):
        ValueError: `units` must be at least 1, and an integer. Received: units=2.5
    """
    if not is_integer(value) or not least <= value <= most:
        limit = "" if least == -math.inf else f"at least {least}, and "
        expected = f"{limit}an integer" if most == math.inf else f"an integer from {least} to {most}"
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")
    return int(value)


def check_boolean(name: str, value: Any) -> bool:
    """`value` as Python's boolean; `ValueError` unless it is a boolean, or 0 or 1.

    Examples:
        >>> check_boolean("zero_unit", np.False_)
        False
    """
    if not isinstance(value, bool | np.bool_) and not (is_integer(value) and value in (0, 1)):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}")
    return bool(value)


def is_real(value: Any) -> bool:
    """Whether `value` is a number, not a boolean, and finite in float32: NumPy's may be in an array of no dimension."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return number and bool(abs(value) <= LARGEST)


def check_real(
    name: str, value: Any, *, above: float = -math.inf, least: float = -math.inf, below: float = math.inf
) -> float:
    """`value` as Python's float; `ValueError` unless it is a number, no boolean, finite in float32, within the limits.

    Examples:
        >>> check_real("temperature", float("nan"), above=0.0)
        Traceback (most recent call last):
        ValueError: `temperature` must be above 0, and a finite number. Received: temperature=nan
    """
    if not is_real(value) or value <= above or not least <= value < below:
        limits = {"above": above, "at least": least, "below": below}
        words = [f"{word} {limit:g}, " for word, limit in limits.items() if math.isfinite(limit)]
        expected = "".join([*words, "and " if words else "", "a finite number"])
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")
    return float(value)


def check_images(images: Any) -> None:
    """`ValueError` unless `images` holds an image."""
    if len(images) == 0:
        raise ValueError("`images` must hold at least one image. Received: none")


def class_labels(labels: Any) -> np.ndarray:
    """Labels as an integer array of shape `(images,)`.

    `ValueError` unless they are that, or have a last axis of 1, and none is negative.
    """
    labels = np.asarray(labels)
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or not np.issubdtype(flat.dtype, np.integer):
        raise ValueError(
            "`labels` must be classes as integers, of shape (images,) or (images, 1); take the argmax of one-hot "
            f"labels. Received: {labels.dtype} of shape {labels.shape}"
        )
    if flat.min(initial=0) < 0:
        raise ValueError(f"`labels` must be classes, counted from 0. Received: the label {flat.min()}")
    return flat


def labels_of(images: Any, labels: Any) -> np.ndarray:
    """`class_labels`; `ValueError` unless there is one for each image, and an image."""
    flat = class_labels(labels)
    if len(flat) != len(images) or len(flat) == 0:
        raise ValueError(
            "There must be an image, and `labels` must have one for each image. "
            f"Received: {len(images)} images, {len(flat)} labels"
        )
    return flat
