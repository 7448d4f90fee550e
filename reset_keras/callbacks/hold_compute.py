from typing import Any

import keras
import numpy as np

from reset_keras.argument_checks import check_real
from reset_keras.training import hold_compute


class HoldCompute(keras.callbacks.Callback):
    """Holds the compute fraction of a network whose units are trained along its routes (`with_fixed_routes`).

    The controllers are not trained, but the features that they look at move, and the routes with them: without this a
    ReSet-38 on CIFAR-10 whose routes cost 0.72 had routes that cost 0.67 after the first pass over the images.

    Args:
        images: As in `hold_compute`, which is applied after every epoch.
        compute_target: As in `hold_compute`.

    Raises:
        ValueError: `compute_target` is not positive.
    """

    def __init__(self, images: np.ndarray, compute_target: float) -> None:
        super().__init__()
        check_real("compute_target", compute_target, above=0.0)
        self.images = images
        self.compute_target = compute_target

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        hold_compute(self.model, self.images, self.compute_target)
