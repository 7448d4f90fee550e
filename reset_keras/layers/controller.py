from typing import Any

import keras
from keras import ops

from reset_keras.argument_checks import check_integer, integers

Tensor = Any


class Controller(keras.layers.Layer):
    """Decides, iteration by iteration, how much each unit of a pool counts: `[logits_k, state_k+1] = C(x_k, state_k)`.

    Subclass it for a controller of your own: implement `call`, and `initial_state` where it has a state. Layers that it
    makes in `__init__` are built by its module, which calls it once for each iteration; a `build` is needed only for
    weights of the controller itself. Controllers compute in float32 whatever the model's dtype policy, as routes are
    decided by small differences (eq. 4 of the paper).

    Args:
        num_scores: Integer, number of logits: the pool's units, plus one where there is a zero unit.

    Call arguments:
        inputs: Tensor of shape `(batch, ..., channels)`, the current representation `x_k`.
        state: List of tensors, from `initial_state` or the call before.
        iteration: Integer, the current iteration k. Default 0.

    Returns:
        A pair: logits of shape `(batch, num_scores)`, float32, and the next state.

    Raises:
        ValueError: `num_scores` is not positive.

    Examples:
        >>> @keras.saving.register_keras_serializable("mine")  # so that files can be loaded
        ... class Linear(Controller):
        ...     def __init__(self, num_scores, **kwargs):
        ...         super().__init__(num_scores, **kwargs)
        ...         self.dense = keras.layers.Dense(num_scores)
        ...
        ...     def call(self, inputs, state, iteration=0):
        ...         return self.dense(keras.ops.mean(inputs, axis=(1, 2))), state
        >>> module = ReSet(units=5, controller=Linear(6))
        >>> tuple(module(keras.random.normal((2, 8, 8, 16))).shape)
        (2, 8, 8, 16)
    """

    runs_in_order = False
    """Whether it chooses only unit k or the zero unit in iteration k, so that no other units need to be computed.

    Its module then asks the pool's `run_unit`, as `UnitPool` has it, for that unit. A pool without it computes all.
    """

    takes_context = False
    """Whether it decides by a context, a tensor `(batch, features)` that its module is then called with."""

    def __init__(self, num_scores: int, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.num_scores = check_integer("num_scores", num_scores, least=1)

    def initial_state(self, batch_size: Tensor | int) -> list[Tensor]:
        """State before the first iteration; by default there is none."""
        return []

    def first_state(self, inputs: Tensor, context: Tensor | None = None) -> list[Tensor]:
        """State before the first iteration of a module that is called with these inputs: the context, if it takes one.

        Raises:
            ValueError: it takes a context and there is none, or there is one that it would not look at.
        """
        self.check_context(context is not None)
        return self.initial_state(ops.shape(inputs)[0]) if context is None else [context]

    def check_context(self, is_given: bool) -> None:
        """Raises `ValueError` unless there is a context where the controller takes one, and none where it does not."""
        if is_given and not self.takes_context:
            raise ValueError(
                f"Only a controller that takes a context can be given one, such as a PolicyController. Received: a "
                f"context for a {type(self).__name__}, which would not look at it"
            )
        if self.takes_context and not is_given:
            raise ValueError(
                f"A {type(self).__name__} decides by a context: call its module as `module(x, context)`, with features "
                "of the image of shape (batch, features). Received: context=None"
            )

    def check_module(self, module: Any) -> None:
        """Raises `ValueError` unless the controller can serve a `ReSet`; by default it serves any."""

    def _check_iterations(self, module: Any, count: int) -> None:
        """Raises `ValueError` if a `ReSet` has more iterations than the `count` that the controller was made for."""
        if module.num_iterations > count:
            raise ValueError(
                f"A {type(self).__name__} must decide for each of the module's {module.num_iterations} iterations. "
                f"Received: one that was made for {count}"
            )

    def build(self, inputs_shape: tuple, state_shape: Any = None) -> None:
        """Makes no weights: layers from `__init__` are built where `call` uses them."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_scores": self.num_scores}


def mean_features(x: Tensor) -> Tensor:
    """Mean over all axes between the batch and the channels: shape `(batch, channels)`."""
    axes = tuple(range(1, len(x.shape) - 1))
    return ops.mean(x, axis=axes) if axes else x


class Dense(keras.layers.Dense):
    """A dense layer of a controller. `keras.Model.quantize` leaves it as it is.

    Quantized, it would decide other routes, and its controller, which makes it anew, could not load its weights.
    """

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        # `keras.Model.quantize` turns this error into a warning, and goes on with the next layer.
        raise NotImplementedError("The controllers of a ReSet are not quantized: small differences decide routes.")


class LogitsLayer(Dense):
    """The one that ends a controller.

    Files know a layer in a list by its class's name: a gate's layers have these two names there.
    """


@keras.saving.register_keras_serializable("reset_keras")
class FixedController(Controller):
    """A controller without weights that takes the same route for every image.

    With the route 0, 1, 2, ... a ReSet is the static network whose blocks its pool holds: the reference that routed
    networks are tested and timed against. Under every scorer without noise the scores are exactly one-hot.

    Args:
        num_scores: Integer, number of logits.
        route: Sequence of integers in `[0, num_scores)`, the unit of each iteration.

    Raises:
        ValueError: an entry of the route is no unit of the pool, or the module has more iterations than the route.

    Examples:
        >>> controller = FixedController(num_scores=3, route=[0, 1, 2])
        >>> logits, state = controller(keras.random.normal((2, 16)), [], iteration=1)
        >>> [int(i) for i in keras.ops.argmax(logits, axis=-1)]
        [1, 1]
    """

    logit = 1e4

    def __init__(self, num_scores: int, route: list[int], **kwargs: Any) -> None:
        super().__init__(num_scores, **kwargs)
        units = integers(route, least=0, most=num_scores - 1)
        if not units:
            raise ValueError(
                f"`route` must name one unit from 0 to {num_scores - 1} for each iteration. Received: route={route!r}"
            )
        self.route = [*units]

    def build(self, inputs_shape: tuple, state_shape: Any = None) -> None:
        """For speed: a module builds controllers that have only the base's `build` by tracing a call."""

    def check_module(self, module: Any) -> None:
        self._check_iterations(module, len(self.route))
        module.allowed.check_route(self.route)

    def call(self, inputs: Tensor, state: list[Tensor], iteration: int = 0) -> tuple[Tensor, list[Tensor]]:
        check_integer("iteration", iteration, least=0, most=len(self.route) - 1)
        units = ops.full((ops.shape(inputs)[0],), self.route[iteration], dtype="int32")
        return self.logit * ops.one_hot(units, self.num_scores, dtype="float32"), state

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "route": self.route}
