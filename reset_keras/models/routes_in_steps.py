"""How Keras's own steps, which know of no further argument of a call, get a model's routes from it."""

import contextlib
from collections.abc import Iterator
from typing import Any

from reset_keras.models.losses_of_one_type import LossesOfOneType


class RoutesInSteps(LossesOfOneType):
    """A model whose calls also return its routes while Keras trains it."""

    _asks_for_routes = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **self._asked(kwargs))

    def _symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        with self._routes():  # Keras makes the variables of losses and metrics here, from what a call returns
            super()._symbolic_build(*args, **kwargs)

    def _asked(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**kwargs, "return_routes": True} if self._asks_for_routes else kwargs

    @contextlib.contextmanager
    def _routes(self) -> Iterator[None]:
        self._asks_for_routes = True
        try:
            yield
        finally:
            self._asks_for_routes = False


class JAXTrainStep(RoutesInSteps):
    """Keras's steps of training and evaluation, on JAX."""

    gradient_norms: tuple[str, ...] = ()

    def compute_loss_and_updates(self, *args: Any, **kwargs: Any) -> Any:
        with self._routes():
            return super().compute_loss_and_updates(*args, **kwargs)

    # Keras's steps on JAX run a model by this, which leaves `__call__` out.
    def stateless_call(self, *args: Any, **kwargs: Any) -> Any:
        return super().stateless_call(*args, **self._asked(kwargs))
