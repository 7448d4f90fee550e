import math
from typing import Any

import keras
import numpy as np


class StopOnNaN(keras.callbacks.Callback):
    """Ends a training whose loss is not finite, and names the weights that are not.

    Place it before callbacks that save: the exception keeps them from overwriting the last good checkpoint. Keras's
    `TerminateOnNaN` lets them run, and reads the loss after every batch.

    Args:
        stage: String, named in the message. Default: none.

    Raises:
        FloatingPointError: an epoch's loss is not finite.

    Examples:
        >>> model.fit(images, labels, callbacks=[StopOnNaN()])  # doctest: +SKIP
    """

    def __init__(self, stage: str = "") -> None:
        super().__init__()
        self.stage = stage

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            stage = f" of stage '{self.stage}'" if self.stage else ""
            kept = "The checkpoint of the epoch before is kept" if epoch else "No epoch was finished"
            raise FloatingPointError(
                f"The loss became {loss} in epoch {epoch + 1}{stage}; {self._where()}. {kept}: try a lower learning "
                "rate or a smaller gradient_clip_norm in a new run."
            )

    def _where(self) -> str:
        lost = [
            variable.path
            for variable in self.model.variables
            if keras.backend.is_float_dtype(variable.dtype)
            and not np.isfinite(keras.ops.convert_to_numpy(variable)).all()
        ]
        if not lost:
            return "all weights are finite, so look for images or labels that are not"
        shown = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        return f"not finite: {shown}"
