import math
import numbers
from typing import Any

import numpy as np

LARGEST = 3.4028234e38
"""What float32 can hold."""


def check_integer(name: str, value: Any, least: int) -> None:
    """Raises `ValueError` unless `value` is an integer, not a boolean, of at least `least`.

    Examples:
        >>> check_integer("units", 2.5, least=1)
        Traceback (most recent call last):
        ValueError: `units` must be at least 1, and an integer. Received: units=2.5
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be at least {least}, and an integer. Received: {name}={value!r}")


def check_real(name: str, value: Any, above: float = -math.inf) -> None:
    """Raises `ValueError` unless `value` is a number, not a boolean, finite in float32 and above `above`.

    Examples:
        >>> check_real("temperature", float("nan"), above=0.0)
        Traceback (most recent call last):
        ValueError: `temperature` must be above 0, and a finite number. Received: temperature=nan
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not abs(value) <= LARGEST or value <= above:
        limit = "" if above == -math.inf else f"above {above:g}, and "
        raise ValueError(f"`{name}` must be {limit}a finite number. Received: {name}={value!r}")


def class_labels(labels: Any) -> np.ndarray:
    """Labels as an integer array of shape `(images,)`; `ValueError` unless they are that or have a last axis of 1."""
    labels = np.asarray(labels)
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or not np.issubdtype(flat.dtype, np.integer):
        raise ValueError(
            "`labels` must be classes as integers, of shape (images,) or (images, 1); take the argmax of one-hot "
            f"labels. Received: {labels.dtype} of shape {labels.shape}"
        )
    return flat
