import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from reset_keras.analysis.policy_evolution import policy_evolution_figure
from reset_keras.analysis.routes import Routes
from reset_keras.analysis.unit_names import unit_names
from reset_keras.argument_checks import class_labels
from reset_keras.callbacks.epoch_tensorboard import EpochTensorBoard
from reset_keras.callbacks.hparams import check_hparams, write_hparams
from reset_keras.callbacks.projector import write_projector
from reset_keras.callbacks.route_history import RouteHistory, is_due
from reset_keras.callbacks.route_probe import RouteProbe, as_probe
from reset_keras.models.fit_checks import check_inputs
from reset_keras.models.operations import count_operations
from reset_keras.models.routed_model import check_routed
from reset_keras.models.routed_outputs import in_order_of_modules

FIGURES = 2
"""How often figure 6 is drawn along a training."""


class RouteMonitor(EpochTensorBoard):
    """Shows in TensorBoard what a network's controllers learn, while they learn it.

    Take it in place of `keras.callbacks.TensorBoard`: all that is logged appears as there. After each epoch it adds, in
    the run `routes`, of the same images: how much each unit is used in each iteration of each module, the entropies of
    the policies, the share of iterations without a unit, histograms of the scores, and a few times figure 6 of the
    paper; and to the logs the `compute_fraction`, where the layers' operations can be counted. At the end of the
    training come the images' routes for the Embedding Projector, with labels and thumbnails, and the hyperparameters
    for the HParams tab.

    Place it after callbacks that end the training. It needs TensorFlow for writing on any backend.

    Args:
        log_dir: Folder of the run.
        images: Array of normalized images whose routes are watched, or a `RouteProbe` that other callbacks share. A few
            hundred are enough.
        labels: Integer array of shape `(images,)` or `(images, 1)`, their classes for the projector. Default `None`:
            those of the probe.
        class_names: Names of the classes. Default: their numbers.
        thumbnails: Array of shape `(images, height, width, channels)`, uint8, with 1, 3 or 4 channels, as the projector
            is to show the images, or `None`. Default `None`.
        hparams: Hyperparameters of this training by name, numbers, strings or booleans, or `None` to write none.
            Default `None`. The last logs become the metrics of the HParams tab.

    Raises:
        ValueError: there is no image, or labels, their names or the thumbnails do not fit the images, or are of another
            type, or `hparams` is no dict by names; in `fit`, the model does not route, or the images do not fit it.

    Examples:
        >>> monitor = RouteMonitor("runs/mine", images[:512], labels[:512])  # doctest: +SKIP
        >>> model.fit(images, labels, callbacks=[monitor])  # doctest: +SKIP
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        images: np.ndarray | RouteProbe,
        labels: np.ndarray | None = None,
        class_names: Sequence[str] = (),
        thumbnails: np.ndarray | None = None,
        hparams: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(log_dir)
        self.probe = as_probe(images)
        self.labels = self.probe.labels if labels is None else class_labels(labels)
        _check_what_is_shown(len(self.probe.images), self.labels, class_names, thumbnails)
        self.class_names = class_names
        self.thumbnails = thumbnails
        self.hparams = None if hparams is None else check_hparams(hparams)
        self.history = RouteHistory(self.probe)
        self._operations_can_be_counted = True
        self._routes_writer: Any = None
        self._logs: dict[str, Any] = {}

    @property
    def routes_dir(self) -> pathlib.Path:
        """Folder of the run with what concerns routes."""
        return pathlib.Path(self.log_dir) / "routes"

    def set_model(self, model: keras.Model) -> None:
        check_routed(model)
        check_inputs("RouteMonitor's images", self.probe.images, model)
        super().set_model(model)
        self.history.set_model(model)

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        self.history.set_params(params)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        self._routes_writer = self.summary.create_file_writer(str(self.routes_dir))
        self._operations_can_be_counted = _can_count(self.model)
        self.history.on_train_begin(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        routes = self.probe.routes(self.model)
        if self._operations_can_be_counted:
            # Before Keras's own callback, which writes what is in the logs.
            logs["compute_fraction"] = self.probe.compute_fraction(self.model)
        super().on_epoch_end(epoch, logs)
        self.history.on_epoch_end(epoch, logs)
        self._logs = dict(logs)
        with self._routes_writer.as_default(step=epoch):
            self.summary.scalar("skipped_iterations", routes.skips().mean())
            self._write_modules(routes)
            if is_due(self, epoch, FIGURES):
                records, zero_units = self.history.state(), self.model.zero_units
                scores = in_order_of_modules(records)
                figure = policy_evolution_figure(records["steps"], scores, zero_units, "Evolution of the policy")
                self.summary.image("policy_evolution", _pixels(figure)[np.newaxis])
        self._routes_writer.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_end(logs)
        self.history.on_train_end(logs)
        self._routes_writer.close()
        vectors = self.probe.routes(self.model).vectors()
        # The projector looks only into folders with an events file, as the writer has made one in this.
        write_projector(self.routes_dir, vectors, self.labels, self.class_names, self.thumbnails)
        if self.hparams is not None:
            write_hparams(self.log_dir, self.hparams, self._logs)

    def _write_modules(self, routes: Routes) -> None:
        statistics = zip(
            routes.scores,
            routes.mean_scores(),
            routes.entropies_within(),
            routes.entropies_across(),
            routes.zero_units,
            strict=True,
        )
        for index, (scores, means, within, across, zero_unit) in enumerate(statistics, start=1):
            for k in range(len(means)):
                place = f"module_{index}/iteration_{k + 1}"
                self.summary.scalar(f"entropy_within_{place}", within[k])
                self.summary.scalar(f"entropy_across_{place}", across[k])
                self.summary.histogram(f"scores_{place}", scores[:, k])
                for name, mean in zip(unit_names(len(means[k]), zero_unit), means[k], strict=True):
                    self.summary.scalar(f"unit_use_{place}_unit_{name}", mean)

    def state(self) -> dict[str, np.ndarray]:
        return self.history.state()

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.history.restore(state)


def _can_count(model: keras.Model) -> bool:
    try:
        count_operations(model.network, model.routed_modules)
    except ValueError:
        return False
    return True


def _pixels(figure: Any) -> np.ndarray:
    """A matplotlib figure as uint8, `(height, width, 4)`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def _check_what_is_shown(
    count: int, labels: np.ndarray | None, class_names: Sequence[str], thumbnails: np.ndarray | None
) -> None:
    """What the projector needs at the end of a training is looked at before it."""
    if labels is not None and len(labels) != count:
        raise ValueError(f"`labels` must be as many as the images, {count}. Received: {len(labels)}")
    if labels is not None and len(class_names) and labels.max() >= len(class_names):
        raise ValueError(
            f"`class_names` must have a name for each of the labels, which are from {labels.min()} to {labels.max()}. "
            f"Received: {len(class_names)} names"
        )
    if thumbnails is None:
        return
    if len(thumbnails) != count:
        raise ValueError(f"`thumbnails` must be as many as the images, {count}. Received: {len(thumbnails)}")
    if thumbnails.ndim != 4 or thumbnails.shape[-1] not in (1, 3, 4) or thumbnails.dtype != np.uint8:
        raise ValueError(
            "`thumbnails` must be uint8, from 0 to 255, of shape (images, height, width, channels) with 1, 3 or 4 "
            f"channels. Received: {thumbnails.dtype} of shape {thumbnails.shape}"
        )
