"""Arrays by name in `.npz` files, whole or not there."""

import pathlib
from typing import Any

import numpy as np

from reset_keras.atomic_write import atomic_write


def write_arrays(path: pathlib.Path, arrays: dict[str, Any], compressed: bool = True) -> None:
    """Writes arrays as `atomic_write` does.

    Args:
        path: The file.
        arrays: What `np.asarray` takes, by name.
        compressed: Boolean. Default `True`.

    Raises:
        ValueError: something is no array of numbers or of text.
    """
    unreadable = [name for name, value in arrays.items() if np.asarray(value).dtype == object]
    if unreadable:  # NumPy would pickle them, and not read them again
        raise ValueError(f"{path.name} takes arrays of numbers or of text. Received: others as {unreadable}")
    # Opened here: to a name without a suffix NumPy adds one.
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        (np.savez_compressed if compressed else np.savez)(file, **arrays)


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays that `write_arrays` wrote.

    Raises:
        ValueError: the file is missing, damaged or another one.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # of the archive, the decompressor and the headers, each another kind
        raise ValueError(str(error)) from error
