from typing import Any

import keras

from reset_keras.models.fit_checks import check_inputs
from reset_keras.models.routed_model import check_routed


class RouteCallback(keras.callbacks.Callback):
    """A callback that looks at routes, or changes them.

    A model without any is refused before the first step, and so is one that its images do not fit.
    """

    probe: Any = None
    """A `RouteProbe`, where it looks at images."""

    def set_model(self, model: keras.Model) -> None:
        check_routed(model)
        if self.probe is not None:
            check_inputs(f"{type(self).__name__}'s images", self.probe.images, model)
        super().set_model(model)
