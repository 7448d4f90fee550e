import pathlib
from typing import Any, Protocol

import keras

from reset_keras.training.stages.stage import Stage

Callbacks = dict[str, keras.callbacks.Callback]


class Observer(Protocol):
    """What a `Pipeline` asks of the object that watches its stages: `rk.callbacks.RunObserver` is one."""

    def check(self, stage: Stage, model: keras.Model) -> None:
        """Raises `ValueError` where `measure` could not say what a stage's row must: before the network is trained."""

    def callbacks(self, stage: str, model: keras.Model, log_dir: pathlib.Path, of_training: Callbacks) -> Callbacks:
        """All callbacks of a stage's training in the order in which they act, those that it asks for among them."""

    def measure(
        self, model: keras.Model, folder: pathlib.Path, callbacks: Callbacks, baseline: keras.Model | None
    ) -> dict[str, Any]:
        """What a stage's row says of its network, as against the baseline; further files may go into its folder."""

    def show(self, row: dict[str, Any], log_dir: pathlib.Path) -> None:
        """Takes note of a finished stage's row."""
