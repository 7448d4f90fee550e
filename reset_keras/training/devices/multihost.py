"""What a run in several processes needs besides `keras.distribution`: work directories, and validation."""

import atexit
import contextlib
import io
import os
import pathlib
import shutil
import tarfile
import tempfile
from typing import Any

import keras
import numpy as np

from reset_keras.distribution import undistributed

RUN_FILES = ("config.json", "metrics.jsonl", "stages")
"""What a run reads of its work directory when it goes on."""


def is_first_process() -> bool:
    """Whether this is process 0, which prints and writes: `True` where there is only one."""
    if keras.backend.backend() != "jax":
        return True
    import jax

    return jax.process_index() == 0


def own_work_directory(path: str | os.PathLike) -> pathlib.Path:
    """Where this process of a run works: process 0 at `path`, each other one in a temporary copy of it.

    So all processes go on from the same state and write without disturbing each other, and only process 0 needs to see
    the folder. Every process must call this.

    Args:
        path: The work directory of the run.

    Returns:
        In process 0 `path`, in each other one the folder of the copy, which is removed when the process ends.
    """
    files = np.frombuffer(_packed(pathlib.Path(path)), np.uint8) if is_first_process() else np.zeros(0, np.uint8)
    # All processes must call with arrays of one shape: the others learn the number of bytes first.
    size = int(_of_process_0(np.array(len(files))))
    files = _of_process_0(files if is_first_process() else np.zeros(size, np.uint8))
    if is_first_process():
        return pathlib.Path(path)
    copy = pathlib.Path(tempfile.mkdtemp(prefix="reset_keras_"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(files.tobytes())) as archive:
        archive.extractall(copy, filter="data")
    return copy


def _packed(folder: pathlib.Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in RUN_FILES:
            with contextlib.suppress(FileNotFoundError):
                archive.add(folder / name, arcname=name)
    return buffer.getvalue()


def _of_process_0(array: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(array))


class Validation(keras.callbacks.Callback):
    """Adds to the logs what `validation_data` of `fit` would, but every process evaluates all batches by itself.

    `fit` deals each batch out to all devices, which fails for a last one that is too small. Place it first.

    Args:
        batches: `tf.data.Dataset` of all test images.
        frequency: Integer, epochs from one validation to the next.
    """

    def __init__(self, batches: Any, frequency: int) -> None:
        super().__init__()
        self.batches = batches
        self.frequency = frequency

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None or (epoch + 1) % self.frequency:
            return
        with undistributed():
            results = self.model.evaluate(self.batches, verbose=0, return_dict=True)
        logs.update({f"val_{name}": value for name, value in results.items()})
