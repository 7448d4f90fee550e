import pathlib
from typing import Any

import keras

from reset_keras.analysis.evaluation import check_comparable, evaluate
from reset_keras.array_files import write_arrays
from reset_keras.callbacks.epoch_tensorboard import EpochTensorBoard
from reset_keras.callbacks.hparams import write_hparams
from reset_keras.callbacks.route_monitor import RouteMonitor
from reset_keras.callbacks.route_probe import RouteProbe
from reset_keras.callbacks.routing_warnings import RoutingWarnings
from reset_keras.callbacks.stop_on_nan import StopOnNaN
from reset_keras.data import ImageDataset
from reset_keras.inference import macs
from reset_keras.keras_internals import functional
from reset_keras.models import RoutedModel
from reset_keras.models.operations import count_operations
from reset_keras.training import Stage, WorkDirectory
from reset_keras.training.stages.observer import Callbacks

PROBE_IMAGES = 512
"""Number of training images whose routes are watched along a training."""
RESULTS = ("compute_fraction", "skip_fraction", "policy_entropy", "relative_time")
"""What TensorBoard's HParams tab shows of a stage's row, besides the accuracy."""


def _check_output(model: keras.Model) -> None:
    output = (functional(model) or model).output  # a sequential model has none
    if not isinstance(output, keras.KerasTensor) or len(output.shape) != 2 or output.shape[-1] == 1:
        found = [tuple(tensor.shape) for tensor in keras.tree.flatten(output)]
        raise ValueError(
            "the network must have one output, a logit for each class, of shape (batch, classes), of which the largest "
            f"counts. Received: outputs of shape {', '.join(map(str, found))}"
        )


class RunObserver:
    """Watches the stages of a run for its `Pipeline`, and measures the network that each ends with.

    Args:
        dataset: Images that the run trains and tests on.
        workdir: The run's work directory, whose log gets the warnings.

    Examples:
        >>> import tempfile
        >>> from reset_keras.data import load_digits
        >>> folder = tempfile.TemporaryDirectory()
        >>> observer = RunObserver(load_digits(), WorkDirectory(folder.name, {"seed": 0}))
        >>> isinstance(observer, RunObserver)  # the example of `rk.training.Pipeline` runs one
        True
    """

    def __init__(self, dataset: ImageDataset, workdir: WorkDirectory) -> None:
        self.dataset = dataset
        self.workdir = workdir

    def check(self, stage: Stage, model: keras.Model) -> None:
        """Raises `ValueError` for a network that cannot be measured.

        It must return a logit for each class, its MACs must be countable, and some must be compared with another.
        """
        try:
            if stage.baseline is None:
                check_comparable(model)
            if isinstance(model, RoutedModel):
                count_operations(model.network, model.routed_modules)
            else:
                macs(model)
            _check_output(model)
        except ValueError as error:
            raise ValueError(f"stage '{stage.name}': {error}") from error

    def callbacks(self, stage: str, model: keras.Model, log_dir: pathlib.Path, of_training: Callbacks) -> Callbacks:
        """All callbacks of a stage's training in the order in which they act."""
        first = {"stop_on_nan": StopOnNaN(stage), **of_training}
        if not isinstance(model, RoutedModel):
            return {**first, "tensorboard": EpochTensorBoard(log_dir)}
        chosen = self.dataset.train.spread(PROBE_IMAGES)
        images, labels = self.dataset.train.images[chosen], self.dataset.train.labels[chosen]
        thumbnails = images if self.dataset.has_pictures else None
        probe = RouteProbe(self.dataset.normalize(images), labels)

        def log_warning(epoch: int, message: str) -> None:
            line = {"event": "warning", "stage": stage, "epoch": epoch, "message": message}
            # A run that was killed after its last epoch comes to the end of the training twice.
            if line not in self.workdir.metrics():
                self.workdir.append_metrics(line)

        return {  # these come last, to see whether another callback ends the training
            **first,
            "warnings": RoutingWarnings(probe, on_warning=log_warning),
            "route_history": RouteMonitor(log_dir, probe, class_names=self.dataset.class_names, thumbnails=thumbnails),
        }

    def measure(
        self, model: keras.Model, folder: pathlib.Path, callbacks: Callbacks, baseline: keras.Model | None
    ) -> dict[str, Any]:
        """What the table says of a stage's network; its predictions, routes and their history go into its folder."""
        if isinstance(monitor := callbacks.get("route_history"), RouteMonitor):
            monitor.history.save(folder / "route_history.npz", model.zero_units)
        row, predictions, routes = evaluate(model, self.dataset, baseline)
        write_arrays(folder / "predictions.npz", predictions)
        if routes is not None:
            routes.save(folder / "routes.npz")
        return row

    def show(self, row: dict[str, Any], log_dir: pathlib.Path) -> None:
        """Makes a finished stage a row of TensorBoard's HParams tab."""
        settings = {name: value for name, value in self.workdir.config.items() if name != "workdir"}
        results = {name: row[name] for name in RESULTS if row[name] is not None}
        results["accuracy"] = next(iter(row["accuracy"].values()))
        name = f"{self.workdir.path.name}/{row['stage']}"
        write_hparams(log_dir, {"stage": row["stage"], **settings}, results, name)
