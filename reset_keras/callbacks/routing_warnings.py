import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from reset_keras.argument_checks import check_integer
from reset_keras.callbacks.resumable import ResumableCallback
from reset_keras.callbacks.route_probe import RouteProbe, as_probe
from reset_keras.callbacks.routing_checks import Sign, describe, signs
from reset_keras.layers.lost_routes import RoutingWarning
from reset_keras.training.routes.holding import check_holdable

TARGET_TOLERANCE = 0.05
"""Distance from a compute target that is not worth a warning."""


class RoutingWarnings(ResumableCallback):
    """Warns when routing collapses, while there is still time to stop the run.

    After each epoch it looks at the routes of some images. What has been wrong for `patience` epochs in a row is
    reported, once, with the modules and iterations and what to try: units that no image uses, one policy for all
    images, policies that are as good as uniform or certain of every choice. At the end of a training with
    `SkipReward(target=...)`, a target that was missed.

    Args:
        images: Array of normalized images, or a `RouteProbe` that other callbacks share.
        patience: Integer, number of epochs. Default 5.
        on_warning: Function of epoch and message that is called besides the warning. Default `None`.

    Raises:
        ValueError: there is no image, or `patience` is not positive; in `fit`, the model does not route, or
            the images do not fit it.

    Examples:
        >>> callback = RoutingWarnings(np.zeros((4, 8, 8, 1)), patience=1)
        >>> model.fit(images, labels, callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(
        self,
        images: np.ndarray | RouteProbe,
        patience: int = 5,
        on_warning: Callable[[int, str], None] | None = None,
    ) -> None:
        super().__init__()
        self.probe = as_probe(images)
        self.patience = check_integer("patience", patience, least=1)
        self.on_warning = on_warning
        self._epoch = 0
        self.begin()

    def begin(self) -> None:
        self._streaks: dict[Sign, int] = {}
        self._reported: set[Sign] = set()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch
        # Controllers that are frozen, or have no weights, are as they are meant to be. An epoch in which one is frozen
        # does not end what has lasted before: others alternate with it.
        trained = [bool(module.controller.trainable_variables) for module in self.model.routed_modules]
        found = signs(self.probe.routes(self.model))
        self._streaks = {sign: self._streaks.get(sign, 0) + trained[sign.module] for sign in found}
        lasting = {sign for sign, streak in self._streaks.items() if streak >= self.patience}
        for message in describe(lasting - self._reported):
            self._warn(f"For {self.patience} epochs {message}")
        self._reported |= lasting

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        reward = self.model.skip_reward
        if reward is None or reward.target is None:
            return
        fraction = self.probe.compute_fraction(self.model)
        if abs(fraction - reward.target) > TARGET_TOLERANCE:
            advice = "train for longer, or raise target_rate, and Entropy(across=...) to keep the policy from certainty"
            if fraction < reward.target:
                advice = f"{self._way_to_compute_more()}: at inference the likeliest unit runs, in training a drawn one"
            self._warn(f"The compute fraction is {fraction:.3f}, the target was {reward.target:g}. Try: {advice}.")

    def _way_to_compute_more(self) -> str:
        try:
            check_holdable(self.model, self.model.skip_reward.target)
        except ValueError:
            return "ask for more"
        return "rk.training.hold_compute"

    def _warn(self, message: str) -> None:
        warnings.warn(message, RoutingWarning, stacklevel=2)
        if self.on_warning is not None:
            self.on_warning(self._epoch, message)

    def state(self) -> dict[str, np.ndarray]:
        streaks = [(sign.kind, sign.module, sign.index, streak) for sign, streak in sorted(self._streaks.items())]
        reported = [(sign.kind, sign.module, sign.index) for sign in sorted(self._reported)]
        of_signs = {"streaks": np.array(json.dumps(streaks)), "reported": np.array(json.dumps(reported))}
        return {"epoch": np.array(self._epoch), **of_signs}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        super().restore(state)
        self._epoch = int(state.get("epoch", 0))  # older checkpoints lack it
        self._streaks = {Sign(*place): streak for *place, streak in json.loads(str(state["streaks"]))}
        self._reported = {Sign(*place) for place in json.loads(str(state["reported"]))}
