import itertools
import os
import pathlib
import warnings
from typing import Any, Protocol

import keras
import numpy as np

from reset_keras.array_files import read_arrays, write_arrays
from reset_keras.distribution import strategy_scope
from reset_keras.training.stages.work_directory import DamagedRunError

KEPT = 2


class Resumable(Protocol):
    """A callback whose own state belongs in a checkpoint."""

    def state(self) -> dict[str, np.ndarray]:
        """The state, as arrays by name."""

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes a state that `state` returned."""


class Checkpoint(keras.callbacks.Callback):
    """Saves all of a training's state after each epoch, so that it resumes as if it had never stopped.

    That is every variable of the model (weights, moving statistics, seed generators, weights of loss terms, baselines)
    and of its optimizer, and the state of the other callbacks. Keras's `BackupAndRestore` leaves out the seed
    generators and writes in place, so that a kill while it writes loses the backup too. Here a file is complete or not
    there, and the one before it is kept as well.

    Place it last: what callbacks after it do at the end of an epoch is not in the file. That the data goes on where it
    stopped is up to you.

    Args:
        folder: Where the files go, `epoch-NNNN.npz`. It is made if it is missing.
        callbacks: Callbacks that have a state, by name.

    Examples:
        >>> import tempfile
        >>> model = ResNet((1,), num_classes=2, input_shape=(8, 8, 1), width=4)
        >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> folder = tempfile.TemporaryDirectory()
        >>> checkpoint = Checkpoint(folder.name, callbacks={})
        >>> history = model.fit(np.zeros((4, 8, 8, 1)), np.zeros(4), epochs=2, verbose=0, callbacks=[checkpoint])
        >>> checkpoint.restore(model)  # epochs, and whether the training had stopped
        (2, False)
    """

    def __init__(self, folder: str | os.PathLike, callbacks: dict[str, Resumable]) -> None:
        super().__init__()
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.callbacks = callbacks

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        arrays: dict[str, Any] = {f"variable_{i}": _storable(v) for i, v in enumerate(_all_variables(self.model))}
        for name, callback in self.callbacks.items():
            arrays.update({f"{name}/{key}": value for key, value in callback.state().items()})
        arrays["callbacks"] = np.array(list(self.callbacks), dtype=str)
        arrays["stopped"] = self.model.stop_training
        # Weights hardly compress: it would take time after every epoch and save little space.
        write_arrays(self.folder / f"epoch-{epoch + 1:04d}.npz", arrays, compressed=False)
        files = self._files()
        kept = [file for file in files if _epoch(file) <= epoch + 1][-KEPT:]  # later ones are of an earlier training
        for outdated in set(files) - set(kept):
            outdated.unlink()

    def restore(self, model: keras.Model) -> tuple[int, bool]:
        """Puts the newest readable checkpoint into a compiled model and the callbacks.

        A callback that was not there when the checkpoint was written begins anew, and a warning says so.

        Returns:
            The number of epochs that the checkpoint has seen, 0 without one, and whether training had stopped there.

        Raises:
            DamagedRunError: there are checkpoints, but none can be read, or they are of another model.
            ValueError: there is a checkpoint, and the model is not built.
        """
        files = self._files()
        for file, before in itertools.zip_longest(files[::-1], files[-2::-1]):
            try:
                arrays = read_arrays(file)
            except ValueError as error:
                instead = f"; going back to {before.name}" if before else ""
                warnings.warn(f"Checkpoint {file} cannot be read ({error}){instead}.", stacklevel=2)
                continue
            self._assign(model, arrays, file)
            return _epoch(file), bool(arrays["stopped"])
        if files:
            raise DamagedRunError(
                f"none of the checkpoints in {self.folder} can be read: {[file.name for file in files]}. "
                "Remove them to train this stage again from its start."
            )
        return 0, False

    def clear(self) -> None:
        """Removes all checkpoints, when the stage they belong to is done."""
        for file in self._files():
            file.unlink()

    def _files(self) -> list[pathlib.Path]:
        files = (file for file in self.folder.glob("epoch-*.npz") if file.stem.removeprefix("epoch-").isdecimal())
        return sorted(files, key=_epoch)

    def _assign(self, model: keras.Model, arrays: dict[str, np.ndarray], file: pathlib.Path) -> None:
        if not model.built:
            raise ValueError(
                f"The model must be built before a checkpoint is restored. Received: '{model.name}', not built"
            )
        variables = _all_variables(model)
        stored = [array for name, array in arrays.items() if name.startswith("variable_")]  # in the order of writing
        shapes = [tuple(variable.shape) for variable in variables]
        if shapes != [array.shape for array in stored]:
            raise DamagedRunError(
                f"checkpoint {file} holds {len(stored)} variables that do not fit the {len(variables)} of this model. "
                "It was written by another model, or another version of the code: take another work directory."
            )
        for variable, array in zip(variables, stored, strict=True):
            variable.assign(array)
        for name, callback in self.callbacks.items():
            prefix = f"{name}/"
            state = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            if state or name in arrays.get("callbacks", ()):  # which older checkpoints lack
                callback.restore(state)
            else:
                warnings.warn(f"Checkpoint {file} has no state of callback '{name}', which begins anew", stacklevel=3)


def _epoch(file: pathlib.Path) -> int:
    """Number of epochs that a checkpoint has seen: sorted by name, 10,000 would come before 9,999."""
    return int(file.stem.removeprefix("epoch-"))


def _storable(variable: Any) -> np.ndarray:
    """Its value; bfloat16, which numpy's files do not know, as float32, which holds it exactly."""
    value = keras.ops.convert_to_numpy(variable)
    return value.astype("float32") if variable.dtype == "bfloat16" else value


def _all_variables(model: keras.Model) -> list[Any]:
    # Keras makes an optimizer's variables in the first step: before it, there would be none to read a checkpoint into.
    if not model.optimizer.built:
        with strategy_scope(model):
            model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]
