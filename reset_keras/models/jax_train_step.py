"""The training step of a `RoutedModel` on JAX: Keras's own, in which the model's call also returns its routes."""

from typing import Any

import keras


class JAXTrainStep(keras.Model):
    """Keras's step with routes: its forward pass asks for them."""

    gradient_norms: tuple[str, ...] = ()
    _asks_for_routes = False

    def compute_loss_and_updates(self, *args: Any, **kwargs: Any) -> Any:
        self._asks_for_routes = True
        try:
            return super().compute_loss_and_updates(*args, **kwargs)
        finally:
            self._asks_for_routes = False

    def stateless_call(self, *args: Any, **kwargs: Any) -> Any:
        if self._asks_for_routes:
            kwargs["return_routes"] = True
        return super().stateless_call(*args, **kwargs)
