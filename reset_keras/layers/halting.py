"""Halting: when an image, or a position of it, has been through enough of a module's iterations."""

from typing import Any

import keras
from keras import ops

from reset_keras.argument_checks import check_integer, check_real
from reset_keras.layers.controller import mean_features
from reset_keras.layers.halting_controller import HaltingController

Tensor = Any


class Halting(keras.layers.Layer):
    """Ends a module's iterations where its halting scores add up to one (Graves 2016, "Adaptive Computation Time").

    After iteration k, from 1 to L, the features have a halting score `h_k`, the sigmoid of logits with weights for each
    iteration; `h_L = 1`. With `N` the first k whose `h_1 + ... + h_k >= 1 - epsilon` (eq. 7), the remainder is
    `R = 1 - (h_1 + ... + h_N-1)` (eq. 8) and the halting distribution is `p_k = h_k` before N, `p_N = R`, and 0 after
    it (eq. 6). The module's output is `sum_k p_k x_k+1`, the ponder cost `N + R` (section 2.1). Its gradient is that of
    R, as N is constant almost everywhere: -1 by `h_k` for k < N, and 0 by all others (section 2.2).

    A subclass says what a score belongs to, and computes its logits.

    Args:
        epsilon: Float in (0, 1), how much less than one is enough; it lets computation end after a single iteration.
            Default 0.01.
        bias: Float, where the biases of the logits start; kernels start at zero. At -3 all scores are 0.047, and
            nothing halts before 21 iterations. Default -3.
        num_iterations: Integer, those of its module, or `None`: its module sets it. Default `None`.

    Call arguments:
        inputs: Tensor of shape `(batch, ..., channels)`, the features after an iteration.
        state: List of two tensors, from `initial_state` or the call before: the sum of the scores so far, and 1 where
            computation goes on, 0 where it has halted.
        iteration: Integer, the current iteration, from 0 on. Default 0.

    Returns:
        A pair. First a list: the weight `p` of the features in the output, with which they can be multiplied; the share
        of each image that this iteration has run, of shape `(batch,)`; and its part of the ponder cost, `(batch,)`, the
        share plus the remainder of what halts now. Second, the next state.

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> @keras.saving.register_keras_serializable("mine")  # so that files can be loaded
        ... class ByLargest(Halting):  # an image halts by its largest features, where `ACT` takes their mean
        ...     def shape_of_scores(self, inputs):
        ...         return (keras.ops.shape(inputs)[0], 1, 1, 1)
        ...
        ...     def logits(self, inputs, iteration):
        ...         logits = keras.ops.matmul(keras.ops.max(inputs, axis=(1, 2)), self.kernels[iteration])
        ...         return keras.ops.reshape(logits + self.biases[iteration], (-1, 1, 1, 1))
        >>> module = ReSet(3, 3, halting=ByLargest(), return_routes=True)
        >>> x, routes = module(keras.random.normal((2, 8, 8, 16)))
        >>> tuple(routes["ponder"].shape)
        (2, 3)
    """

    copies_halted = False
    """Whether what has halted must be kept as it is, since images go on of which it is a part."""

    def __init__(
        self, epsilon: float = 0.01, bias: float = -3.0, num_iterations: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.epsilon = check_real("epsilon", epsilon, above=0.0, below=1.0)
        self.bias = check_real("bias", bias)
        self.num_iterations: int | None = None
        if num_iterations is not None:
            self.num_iterations = check_integer("num_iterations", num_iterations, least=1)

    def join(self, module: Any) -> None:
        """Takes the number of a `ReSet`'s iterations.

        Raises:
            ValueError: the module has no zero unit, another number of iterations, or a controller that halts by itself.
        """
        if not module.zero_unit:
            raise ValueError(
                "Images that have halted run the zero unit: a module with `halting` needs zero_unit=True. "
                "Received: zero_unit=False"
            )
        if isinstance(module.controller, HaltingController):
            raise ValueError(
                "A HaltingController decides by itself when images halt: give either it or `halting`. Received: both"
            )
        if self.num_iterations not in (None, module.num_iterations):
            raise ValueError(
                f"`halting` must have the module's {module.num_iterations} iterations; each module needs one for "
                f"itself. Received: '{self.name}' with num_iterations={self.num_iterations}"
            )
        self.num_iterations = module.num_iterations

    def build(self, inputs_shape: tuple, state_shape: Any = None) -> None:
        if self.num_iterations is None:
            raise ValueError(f"'{self.name}' is in no module: give it `num_iterations`. Received: num_iterations=None")
        channels = inputs_shape[-1]
        start = keras.initializers.Constant(self.bias)
        self.scored = range(self.num_iterations - 1)
        self.kernels = [self._kernel(f"kernel_{k}", (channels, 1)) for k in self.scored]
        self.biases = [self.add_weight(name=f"bias_{k}", shape=(1,), initializer=start) for k in self.scored]

    def _kernel(self, name: str, shape: tuple) -> Any:
        return self.add_weight(name=name, shape=shape, initializer="zeros")

    def initial_state(self, inputs: Tensor) -> list[Tensor]:
        """State before the first iteration, for these features."""
        shape = self.shape_of_scores(inputs)
        return [ops.zeros(shape, "float32"), ops.ones(shape, "float32")]

    def shape_of_scores(self, inputs: Tensor) -> tuple:
        """Shape of the scores of these features: theirs, with 1 for the channels and where all share one."""
        raise NotImplementedError

    def logits(self, inputs: Tensor, iteration: int) -> Tensor:
        """What the scores are the sigmoid of: `w_k . mean_features(inputs) + b_k`, of shape `(batch, 1)`."""
        return ops.matmul(mean_features(inputs), self.kernels[iteration]) + self.biases[iteration]

    def call(self, inputs: Tensor, state: list[Tensor], iteration: int = 0) -> tuple[list[Tensor], list[Tensor]]:
        check_integer("iteration", iteration, least=0, most=len(self.scored))
        total, active = state
        remainder = 1.0 - total
        if iteration in self.scored:
            score = ops.sigmoid(self.logits(inputs, iteration))
            goes_on = active * ops.cast(total + score < 1.0 - self.epsilon, "float32")
        else:
            score, goes_on = ops.ones_like(total), ops.zeros_like(active)
        halts = active - goes_on
        weights = goes_on * score + halts * remainder
        parts = [weights, of_images(active), of_images(active + halts * remainder)]
        return parts, [total + goes_on * score, goes_on]

    def get_config(self) -> dict[str, Any]:
        own = {"epsilon": self.epsilon, "bias": self.bias, "num_iterations": self.num_iterations}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("reset_keras")
class ACT(Halting):
    """Adaptive computation time: an image halts as a whole, by its mean features.

    `h_k = sigmoid(w_k . mean_features(x_k+1) + b_k)` (Figurnov et al. 2017, "Spatially Adaptive Computation Time for
    Residual Networks", section 3, of Graves 2016, eq. 5). Their program also has a batch norm before `w_k`, which
    the paper does not mention; here there is none. An image that has halted runs the zero unit from then on: a frozen
    network computes no unit for it.

    Args:
        epsilon: Float in (0, 1). Default 0.01.
        bias: Float, where `b_k` starts. Default -3.
        num_iterations: Integer, or `None`: its module sets it. Default `None`.

    Examples:
        >>> from reset_keras.layers import FixedController, ReSet
        >>> in_order = FixedController(4, [0, 1, 2])
        >>> module = ReSet(3, 3, in_order, "hard", allowed="sequential", halting=ACT(), return_routes=True)
        >>> x, routes = module(keras.random.normal((2, 8, 8, 16)))
        >>> [tuple(routes[name].shape) for name in ("active", "ponder")]
        [(2, 3), (2, 3)]
    """

    def shape_of_scores(self, inputs: Tensor) -> tuple:
        return (ops.shape(inputs)[0], *(1 for _ in inputs.shape[1:]))

    def logits(self, inputs: Tensor, iteration: int) -> Tensor:
        return ops.reshape(super().logits(inputs, iteration), (-1, *(1 for _ in inputs.shape[1:])))


@keras.saving.register_keras_serializable("reset_keras")
class SACT(Halting):
    """Spatially adaptive computation time: each position of an image halts by itself.

    `h_k = sigmoid(conv3x3_k(x_k+1) + w_k . mean_features(x_k+1) + b_k)` at each position (Figurnov et al. 2017,
    section 3). Positions that have halted are copied, and have their own halting distribution and ponder cost, whose
    mean over the positions is the image's. Once all its positions have halted an image runs the zero unit.

    In training all positions of an image that still runs are computed, and the results of those that have halted are
    thrown away. Frozen networks that run residual units in order leave these positions out, on TensorFlow and a CPU,
    where this saves time: with 32 channels, where less than a sixth is active. Operations are counted by the share of
    active positions. The scores cost a convolution to one channel in each iteration but the last.

    Args:
        epsilon: Float in (0, 1). Default 0.01.
        bias: Float, where `b_k` starts. Default -3.
        num_iterations: Integer, or `None`: its module sets it. Default `None`.

    Raises:
        ValueError: an argument is out of its range, or features have no positions.

    Examples:
        >>> from reset_keras.layers import FixedController, ReSet
        >>> in_order = FixedController(4, [0, 1, 2])
        >>> module = ReSet(3, 3, in_order, "hard", allowed="sequential", halting=SACT(bias=1.0), return_routes=True)
        >>> x, routes = module(keras.random.normal((2, 8, 8, 16)))
        >>> float(routes["active"][0, 0])
        1.0
    """

    copies_halted = True

    def build(self, inputs_shape: tuple, state_shape: Any = None) -> None:
        if len(inputs_shape) != 4:
            raise ValueError(
                "SACT needs features with positions, of shape (batch, height, width, channels); ACT takes any. "
                f"Received: features of shape {tuple(inputs_shape)}"
            )
        super().build(inputs_shape, state_shape)
        shape = (3, 3, inputs_shape[-1], 1)
        self.convolutions = [self._kernel(f"conv_{k}", shape) for k in self.scored]

    def shape_of_scores(self, inputs: Tensor) -> tuple:
        return (*ops.shape(inputs)[:-1], 1)

    def logits(self, inputs: Tensor, iteration: int) -> Tensor:
        local = ops.conv(inputs, self.convolutions[iteration], padding="same", data_format="channels_last")
        return local + super().logits(inputs, iteration)[:, None, None, :]


def of_images(x: Tensor) -> Tensor:
    """Mean of each image: shape `(batch,)`."""
    return ops.mean(x, axis=tuple(range(1, len(x.shape))))


HALTINGS: dict[str, type[Halting]] = {"act": ACT, "sact": SACT}


def get_halting(halting: "str | Halting | None") -> Halting | None:
    """A new halting by name, or the given one, or `None`.

    Raises:
        ValueError: the name is unknown.
    """
    if halting is None or isinstance(halting, Halting):
        return halting
    if not isinstance(halting, str) or halting not in HALTINGS:
        raise ValueError(
            f"`halting` must be one of {sorted(HALTINGS)}, an ACT or SACT, or None. Received: halting={halting!r}"
        )
    return HALTINGS[halting](name="halting")
