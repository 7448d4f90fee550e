"""The training step of a `RoutedModel` on JAX: Keras's own, in which the model's calls also return its routes."""

from typing import Any

from reset_keras.models.routes_in_steps import RoutesInSteps


class JAXTrainStep(RoutesInSteps):
    """Keras's steps of training and evaluation."""

    gradient_norms: tuple[str, ...] = ()

    def compute_loss_and_updates(self, *args: Any, **kwargs: Any) -> Any:
        with self._routes():
            return super().compute_loss_and_updates(*args, **kwargs)

    def stateless_call(self, *args: Any, **kwargs: Any) -> Any:
        return super().stateless_call(*args, **self._asked(kwargs))
