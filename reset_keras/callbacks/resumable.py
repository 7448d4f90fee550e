from typing import Any

import numpy as np

from reset_keras.callbacks.route_callback import RouteCallback


class ResumableCallback(RouteCallback):
    """A callback that remembers epochs: each training begins it anew, save one that a checkpoint has restored."""

    _is_restored = False

    def begin(self) -> None:
        """Forgets an earlier training."""
        raise NotImplementedError

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if not self._is_restored:
            self.begin()
        self._is_restored = False

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes up what `state` returned, so that the next training goes on from there."""
        self._is_restored = True
