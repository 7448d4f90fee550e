from typing import Any

import keras
import numpy as np

from reset_keras.argument_checks import check_images, check_real
from reset_keras.models.fit_checks import check_inputs
from reset_keras.training.routes.holding import check_holdable, hold_compute


class HoldCompute(keras.callbacks.Callback):
    """Holds the compute fraction of a network whose units are trained along its routes (`with_fixed_routes`).

    The controllers are not trained, but the features that they look at change, and the routes with them: without this,
    routes of a ReSet-38 on CIFAR-10 drifted from a cost of 0.716 to 0.67 (results/efficient.md). It acts once Keras has
    validated: what is logged as `val_` is of the routes before.

    Args:
        images: Array of normalized images, shape `(count, height, width, channels)`, over which the cost is averaged
            after every epoch (`rk.training.hold_compute`).
        compute_target: Float above 0, the mean compute fraction (`rk.inference.compute_fractions`) that is held.

    Raises:
        ValueError: there is no image, or `compute_target` is not positive; in `fit`, the model does not route, the
            images do not fit it, scores are not hard, a module has no zero unit or no recurrent controller, or the
            target cannot be reached however much is skipped.

    Examples:
        >>> from reset_keras.inference import compute_fractions
        >>> from reset_keras.training import with_fixed_routes
        >>> model = with_fixed_routes(ReSetNet((2,), num_classes=2, input_shape=(8, 8, 1), scorer="gumbel_st"))
        >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> images = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("float32")
        >>> history = model.fit(images, np.arange(64) % 2, verbose=0, callbacks=[HoldCompute(images, 0.75)])
        >>> routes = model.predict_routes(images, verbose=0)
        >>> round(float(compute_fractions(model, routes).mean()), 2)
        0.75
    """

    def __init__(self, images: np.ndarray, compute_target: float) -> None:
        super().__init__()
        check_images(images)
        self.images = images
        self.compute_target = check_real("compute_target", compute_target, above=0.0)

    def set_model(self, model: keras.Model) -> None:
        check_holdable(model, self.compute_target)
        check_inputs("HoldCompute's images", self.images, model)
        super().set_model(model)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        hold_compute(self.model, self.images, self.compute_target)
