import math
import os
import pathlib
from typing import Any

import keras
import numpy as np

from reset_keras.array_files import write_arrays
from reset_keras.callbacks.route_callback import RouteCallback
from reset_keras.callbacks.route_probe import RouteProbe, as_probe
from reset_keras.keras_internals import batches_of
from reset_keras.models.routed_outputs import by_module, in_order_of_modules

MOST_RECORDS = 50


def is_due(callback: keras.callbacks.Callback, epoch: int, times: int) -> bool:
    """Whether a callback acts after an epoch: about `times` in a training, after the last, and where it stops."""
    done, epochs = epoch + 1, callback.params["epochs"]
    return done % math.ceil(epochs / times) == 0 or done == epochs or callback.model.stop_training


class RouteHistory(RouteCallback):
    """Records how the policy changes during a training: figure 6 of the paper is drawn from it.

    It records the mean score of each unit in each iteration over the same images: before the first step, at the end of
    every epoch or every few epochs, and at the end of the last. Steps are batches. A second training adds to the
    records, unless its optimizer has made fewer steps than the last of them, as that of another model: then they begin
    anew.

    Args:
        images: Array of normalized images whose routes are recorded, or a `RouteProbe` that other callbacks share.

    Raises:
        ValueError: there is no image; in `fit`, the model does not route, or the images do not fit it.

    Examples:
        >>> from reset_keras.models import ReSetNet
        >>> model = ReSetNet((1,), num_classes=2, input_shape=(8, 8, 1), width=4)
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("sgd", loss)
        >>> images, labels = keras.random.normal((6, 8, 8, 1)), keras.ops.zeros(6)
        >>> history = RouteHistory(images)
        >>> _ = model.fit(images, labels, batch_size=2, epochs=2, callbacks=[history], verbose=0)
        >>> history.state()["steps"].tolist()
        [0, 3, 6]
        >>> history.state()["module_0"].shape
        (3, 1, 2)
    """

    def __init__(self, images: np.ndarray | RouteProbe) -> None:
        super().__init__()
        self.probe = as_probe(images)
        self._steps: list[int] = []
        self._mean_scores: list[list[np.ndarray]] = []  # of each record, then of each module

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._steps and self._step() < self._steps[-1]:
            self._steps, self._mean_scores = [], []
        if not self._steps:
            self._record()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if is_due(self, epoch, MOST_RECORDS):
            self._record()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._step() > self._steps[-1]:  # a callback that comes later has ended the training
            self._record()

    def _step(self) -> int:
        return batches_of(self.model.optimizer)

    def _record(self) -> None:
        self._steps.append(self._step())
        self._mean_scores.append([mean.astype(np.float32) for mean in self.probe.routes(self.model).mean_scores()])

    def state(self) -> dict[str, np.ndarray]:
        """All records: `steps`, and each module's mean scores of shape `(records, num_iterations, num_scores)`."""
        scores = by_module(map(np.stack, zip(*self._mean_scores, strict=True)))
        return {"steps": np.array(self._steps, np.int64), **scores}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes up a `state` from a checkpoint; one that was written without it leaves the records empty."""
        self._steps = state.get("steps", np.array([])).tolist()
        self._mean_scores = [list(record) for record in zip(*in_order_of_modules(state), strict=True)]

    def save(self, path: str | os.PathLike, zero_units: tuple[bool, ...]) -> None:
        """Writes the `state` to an `.npz` file, and with it which modules have a zero unit."""
        write_arrays(pathlib.Path(path), {"zero_units": zero_units, **self.state()})
