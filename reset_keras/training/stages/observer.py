import pathlib
from typing import Any, Protocol

import keras


class Observer(Protocol):
    """What a `Pipeline` asks of the object that watches its stages: `rk.callbacks.RunObserver` is one."""

    def callbacks(
        self,
        stage: str,
        model: keras.Model,
        log_dir: pathlib.Path,
        of_training: dict[str, keras.callbacks.Callback],
    ) -> dict[str, keras.callbacks.Callback]:
        """All callbacks of a stage's training by name, in the order in which they act.

        Args:
            stage: Name of the stage.
            model: Its network.
            log_dir: Folder for TensorBoard.
            of_training: Those that the training itself asks for.
        """

    def measure(
        self, model: keras.Model, folder: pathlib.Path, callbacks: dict[str, keras.callbacks.Callback]
    ) -> dict[str, Any]:
        """What a stage's row says of its network; further files may go into the stage's folder."""

    def show(self, row: dict[str, Any], log_dir: pathlib.Path) -> None:
        """Takes note of a finished stage's row."""
