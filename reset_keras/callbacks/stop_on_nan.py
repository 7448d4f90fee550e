import math
from typing import Any

import keras
import numpy as np


class StopOnNaN(keras.callbacks.Callback):
    """Ends a training whose loss or weights are not finite after an epoch, and names those weights.

    Place it before callbacks that save: the exception keeps them from overwriting the last good checkpoint. Keras's
    `TerminateOnNaN` lets them run, and reads the loss after every batch. Weights are looked at too, as those that the
    last batch of an epoch has spoiled do not show in its loss; but not those that are not finite from the start.

    Args:
        stage: String, named in the message. Default: none.

    Raises:
        FloatingPointError: an epoch's loss, or a weight at its end, is not finite.

    Examples:
        >>> model.fit(images, labels, callbacks=[StopOnNaN()])  # doctest: +SKIP
    """

    def __init__(self, stage: str = "") -> None:
        super().__init__()
        self.stage = stage
        self._lost_before: list[str] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._lost_before = self._lost_weights()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        loss, lost = float(logs.get("loss", 0.0)), self._lost_weights()  # a user's training step may log none
        if math.isfinite(loss) and set(lost) <= set(self._lost_before):
            return
        stage = f" of stage '{self.stage}'" if self.stage else ""
        kept = "What was saved after the epoch before, if anything, is kept" if epoch else "No epoch was finished"
        what = "Weights became NaN or infinite" if math.isfinite(loss) else f"The loss became {loss}"
        raise FloatingPointError(
            f"{what} in epoch {epoch + 1}{stage}; {_where(lost)}. {kept}: try a lower learning rate or a smaller "
            "gradient_clip_norm in a new run."
        )

    def _lost_weights(self) -> list[str]:
        return [
            variable.path
            for variable in self.model.variables
            if keras.backend.is_float_dtype(variable.dtype)
            and not np.isfinite(keras.ops.convert_to_numpy(variable)).all()
        ]


def _where(lost: list[str]) -> str:
    if not lost:
        return "all weights are finite, so look for images or labels that are not"
    shown = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
    return f"not finite: {shown}"
