"""Callbacks that watch the routes of some images: they end a stage when the policy has settled or skips enough."""

import warnings
from typing import Any

import keras
import numpy as np

from reset_keras.analysis.routes import Routes
from reset_keras.argument_checks import check_integer, check_real
from reset_keras.callbacks.resumable import ResumableCallback
from reset_keras.callbacks.route_callback import RouteCallback
from reset_keras.callbacks.route_probe import RouteProbe, as_probe
from reset_keras.models.operations import count_operations


class PolicyConvergence(ResumableCallback):
    """Stops a training when the policy has converged (step 6 of section 5.3).

    The criterion: from one epoch to the next, the policies of the same images move by less than `tolerance` in total
    variation distance (0: equal, 1: no overlap), on average over images and iterations, `patience` times in a row.

    Args:
        images: Array of normalized images whose policies are watched, or a `RouteProbe` that other callbacks share.
        tolerance: Float between 0 and 1. Default 0.02.
        patience: Integer, number of epochs. Default 2.

    Raises:
        ValueError: there is no image, or `tolerance` or `patience` is out of its range; in `fit`, the model does not
            route, or the images do not fit it.

    Examples:
        >>> model = ReSetNet((1,), num_classes=2, input_shape=(8, 8, 1), width=4)
        >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> images, callback = np.zeros((8, 8, 8, 1)), PolicyConvergence(np.zeros((2, 8, 8, 1)), patience=1)
        >>> history = model.fit(images, np.arange(8) % 2, epochs=9, verbose=0, callbacks=[callback])
        >>> len(history.epoch) < 9, "policy_change" in history.history
        (True, True)
    """

    def __init__(self, images: np.ndarray | RouteProbe, tolerance: float = 0.02, patience: int = 2) -> None:
        super().__init__()
        self.probe = as_probe(images)
        self.tolerance = check_real("tolerance", tolerance, above=0, below=1)
        self.patience = check_integer("patience", patience, least=1)
        self.begin()

    def begin(self) -> None:
        self._policy: np.ndarray | None = None
        self._quiet_epochs = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        policy = _padded_policies(self.probe.routes(self.model))
        if self._policy is not None:
            change = float(np.abs(policy - self._policy).sum(axis=-1).mean() / 2)
            self._quiet_epochs = self._quiet_epochs + 1 if change < self.tolerance else 0
            if logs is not None:
                logs["policy_change"] = change
        self._policy = policy
        if self._quiet_epochs >= self.patience:
            self.model.stop_training = True

    def state(self) -> dict[str, np.ndarray]:
        policy = {} if self._policy is None else {"policy": self._policy}
        return {"quiet_epochs": np.array(self._quiet_epochs), **policy}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        super().restore(state)
        self._quiet_epochs = int(state["quiet_epochs"])
        self._policy = state.get("policy")


class StopAtCompute(RouteCallback):
    """Stops a training when the network computes little enough (the trade-off of step 8 of section 5.3).

    Args:
        images: Array of normalized images whose routes are watched, or a `RouteProbe` that other callbacks share.
        compute_target: Float above 0, the mean compute fraction that is to be reached. `fit` warns of one that the
            cheapest routes do not reach.

    Raises:
        ValueError: there is no image, or `compute_target` is not positive; in `fit`, the model does not route, the
            images do not fit it, a layer's operations cannot be counted, or all units together cost less than
            `compute_target`.

    Examples:
        >>> model = ReSetNet((2,), num_classes=2, input_shape=(8, 8, 1), width=4, scorer="gumbel_st")
        >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> images, callback = np.zeros((8, 8, 8, 1)), StopAtCompute(np.zeros((2, 8, 8, 1)), compute_target=1.7)
        >>> history = model.fit(images, np.arange(8) % 2, epochs=9, verbose=0, callbacks=[callback])
        >>> len(history.epoch), "compute_fraction" in history.history
        (1, True)
    """

    def __init__(self, images: np.ndarray | RouteProbe, compute_target: float) -> None:
        super().__init__()
        self.probe = as_probe(images)
        self.compute_target = check_real("compute_target", compute_target, above=0)

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        operations = count_operations(model.network, model.routed_modules)
        least, most = operations.smallest_fraction, operations.whole_fraction
        if self.compute_target > most:
            raise ValueError(
                f"`compute_target` must be at most {most:.3f}, the compute fraction of all units together: it is a "
                "share of the static network's operations, 0.7 for 70 %. Received: "
                f"compute_target={self.compute_target}"
            )
        if self.compute_target < least:
            warnings.warn(
                f"compute_target={self.compute_target} cannot be reached: the cheapest routes cost {least:.3f}. "
                "StopAtCompute will not end this training",
                stacklevel=2,
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        fraction = self.probe.compute_fraction(self.model)
        if logs is not None:
            logs["compute_fraction"] = fraction
        if fraction <= self.compute_target:
            self.model.stop_training = True


def _padded_policies(routes: Routes) -> np.ndarray:
    """Policies of all modules, `(images, iterations, scores)`; units that a module lacks count as never chosen."""
    parts = routes.policies()
    width = max(part.shape[-1] for part in parts)
    return np.concatenate([np.pad(part, [(0, 0), (0, 0), (0, width - part.shape[-1])]) for part in parts], axis=1)
