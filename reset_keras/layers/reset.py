from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from reset_keras.argument_checks import check_boolean, check_integer, is_integer
from reset_keras.keras_internals import all_layers
from reset_keras.layer_copies import layer_like
from reset_keras.layers.allowed import Allowed
from reset_keras.layers.controller import Controller
from reset_keras.layers.frozen_parts import freeze_all_parts, part_settings, set_parts, without_part_settings
from reset_keras.layers.halting import Halting, get_halting
from reset_keras.layers.halting_controller import HaltingController
from reset_keras.layers.halting_run import HALTING_ROUTES, HaltingRun
from reset_keras.layers.lost_routes import are_lost, warn_of_lost_routes
from reset_keras.layers.named_controllers import named_controller
from reset_keras.layers.prefixes import run_prefixes
from reset_keras.layers.residual_pool import ResidualPool
from reset_keras.layers.scorers import Scorer, get_scorer
from reset_keras.layers.unit_pool import Pool, UnitPool, weighted

Tensor = Any
SEEN = "seen_features"
"""The name must come last in the alphabet among the routes' names.

Keras flattens a dict by its names' order, and files hold the tensors in that order.
"""


@keras.saving.register_keras_serializable("reset_keras")
class ReSet(keras.layers.Layer):
    """Recurrent Set: at every iteration a controller weights a pool of units, for each image (Algorithm 1).

    It takes the place of a stage of a residual network. `num_iterations` times it computes
    `x = activation(x + sum_i scores_i F_i(x))` (eq. 3), where the scores come from the controller's logits (eq. 4) by
    the scorer. The controller's state is reset with every call.

    Args:
        units: The pool: an integer, for that many `ResidualUnit` of the input's width; a sequence of shape-preserving
            Keras layers, each returning F(x) without the shortcut; or a `Pool`.
        num_iterations: Integer, how many times the pool is applied. Default 5.
        controller: `"rnn"`, `"cnn"`, `"gate"`, `"policy"`, or a `Controller`. Default `"rnn"`.
        scorer: `"softmax"`, `"gumbel_softmax"`, `"gumbel_st"`, `"top_k"`, `"hard"`, or a `Scorer`. Default `"softmax"`.
        zero_unit: Boolean, whether the controller may also choose to compute nothing. Its score is the last. Default
            `True`.
        activation: Name of, or function for, what follows the addition; `None` for eq. 1-3 to the letter. Default
            `"relu"`.
        return_routes: Boolean, whether the call also returns its routes. Default `False`.
        allowed: What an iteration may choose: `"any"`; `"sequential"`, in iteration k unit k, or the zero unit where
            there is one; or booleans of shape `(num_iterations, num_scores)`. Units that an iteration may not choose
            are not computed in it. Default `"any"`.
        halting: When an image is done before the last iteration: `"act"`, `"sact"` (each position by itself), or an
            `ACT` or `SACT`; the output is then the mean of all iterations' features, weighted by how likely each is the
            last. It needs a zero unit. Default `None`: never.

    Call arguments:
        inputs: Tensor of shape `(batch, ..., channels)`; images for an integer `units`.
        context: Tensor of shape `(batch, features)`, computed of the image before the first unit, for a controller that
            decides by it, a `PolicyController`; `None` for all others. It keeps its type. Default `None`.
        training: Boolean, passed to controller, scorer and pool.

    Returns:
        Tensor of the inputs' shape. With `return_routes` a pair of it and the routes: a dict of `"logits"` and
        `"scores"`, float32, each of shape `(batch, num_iterations, num_units)`, or `num_units + 1` with a zero unit.
        With `halting` also `"active"`, the share of an image's positions that an iteration runs, and `"ponder"`, what
        it adds to the ponder cost, both float32, of shape `(batch, num_iterations)`. With a `HaltingController` also
        `"seen_features"`, what its head sees, float32, of shape `(batch, num_iterations, channels)`.

    Raises:
        ValueError: an argument is out of its range, a unit changes the shape of its input, the controller's
            `num_scores` does not fit the pool, or it was made for fewer iterations, or it does not return a pair of
            such logits and a state; `allowed` leaves an iteration no choice; `halting` is unknown, or does not fit the
            module; a context is missing, or given to a controller that takes none.

    Examples:
        >>> inputs = keras.Input((32, 32, 16))
        >>> x, routes = ReSet(units=5, num_iterations=5, return_routes=True)(inputs)
        >>> x.shape, routes["scores"].shape
        ((None, 32, 32, 16), (None, 5, 6))
    """

    def __init__(  # noqa: PLR0913 - each is a part of the module or a setting of the call
        self,
        units: "int | Sequence[keras.layers.Layer] | Pool",
        num_iterations: int = 5,
        controller: "str | Controller" = "rnn",
        scorer: "str | Scorer" = "softmax",
        zero_unit: bool = True,
        activation: Any = "relu",
        return_routes: bool = False,
        allowed: Any = "any",
        *,
        halting: "str | Halting | None" = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # Keras would round the context as it casts features
        self.num_iterations = check_integer("num_iterations", num_iterations, least=1)
        self.zero_unit = zero_unit = check_boolean("zero_unit", zero_unit)
        self.activation = keras.activations.get(activation)
        self.return_routes = return_routes
        self.pool = self._get_pool(units)
        self.num_scores = self.pool.num_units + int(zero_unit)
        self.allowed = Allowed(allowed, self.num_iterations, self.pool.num_units, zero_unit)
        self.controller = self._get_controller(controller)
        self.scorer = get_scorer(scorer)
        self.controller.check_module(self)
        if self.controller.runs_in_order and self.allowed.config == "any":
            self.allowed = Allowed("sequential", self.num_iterations, self.pool.num_units, zero_unit)
        self.halting = get_halting(halting)
        if self.halting is not None:
            self.halting.join(self)
        self._parts: dict[str, list[int]] = {}
        freeze_all_parts(self.controller)
        freeze_all_parts(self)

    def _get_pool(self, units: "int | Sequence[keras.layers.Layer] | Pool") -> Pool:
        if isinstance(units, Pool):
            return units
        if isinstance(units, Sequence):
            return UnitPool(units, name="pool", dtype=self.dtype_policy)
        if not is_integer(units):
            raise ValueError(
                f"`units` must be an integer, a list of Keras layers, or a Pool. Received: units={units!r}"
            )
        check_integer("units", units, least=1)
        return ResidualPool(units, self.num_iterations, name="pool", dtype=self.dtype_policy)

    def _get_controller(self, controller: "str | Controller") -> Controller:
        if not isinstance(controller, Controller):
            return named_controller(controller, self.num_scores, self.num_iterations, self.zero_unit)
        if controller.num_scores != self.num_scores:
            raise ValueError(
                f"The controller's `num_scores` must be {self.num_scores}: {self.pool.num_units} units"
                f"{' and the zero unit' if self.zero_unit else ', no zero unit'}. "
                f"Received: num_scores={controller.num_scores}"
            )
        return controller

    def __call__(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(inputs, *args, **kwargs)  # by place, so that the features come before the context

    def build(self, inputs_shape: tuple, context_shape: tuple | None = None) -> None:
        inputs_shape = tuple(inputs_shape)
        self.controller.check_context(context_shape is not None)
        contexts = [] if context_shape is None else [tuple(context_shape)]
        parts: list[tuple[Any, list]] = [(self.pool, [inputs_shape])]
        parts.append((self.scorer, [(inputs_shape[0], self.num_scores)]))
        if type(self.controller).build is not Controller.build:  # else it is built by being called
            parts.append((self.controller, [inputs_shape, contexts] if contexts else [inputs_shape]))
        if self.halting is not None:
            parts.append((self.halting, [inputs_shape]))
        for layer, shapes in parts:
            if not layer.built:
                layer.build(*shapes)
        if not all(layer.built for layer in all_layers(self) if layer is not self):
            # Parts of a user's class are built by a trace of the call, which costs five times as much as the above.
            given = [keras.KerasTensor(inputs_shape, dtype=self.compute_dtype)]
            given += [keras.KerasTensor(shape, dtype="float32") for shape in contexts]
            # The base's method, as this class's own does not run `call`.
            keras.Operation.compute_output_spec(self, *given)
        set_parts(self, self._parts)  # only now are all layers there: it holds places among them

    def new_controller(self) -> Controller:
        """A controller configured as this module's, built for its features, with new weights.

        Raises:
            ValueError: the module is not built.
        """
        if not self.built:
            raise ValueError(
                f"A new controller is built for the features that its module was built for. Received: '{self.name}', "
                "which is not built. Call it first, or its `build` with their shape"
            )
        controller = layer_like(self.controller)
        parts = (self.pool, self.num_iterations, controller, self.scorer, self.zero_unit, self.activation)
        # The pool and the scorer are built already, so that building this module only makes the controller's weights.
        module = ReSet(*parts, allowed=self.allowed.config, dtype=self.dtype_policy)
        module.build_from_config(self.get_build_config())
        return controller

    def _decide(self, x: Tensor, state: Any, iteration: int) -> tuple[Tensor, Any]:
        decision = self.controller(x, state, iteration=iteration)
        if not isinstance(decision, (tuple, list)) or len(decision) != 2:
            raise ValueError(
                f"A controller must return a pair: logits and the next state. Received: {decision} from "
                f"'{self.controller.name}'. Without a state, return the one that it was given."
            )
        logits, state = decision
        if len(logits.shape) != 2 or logits.shape[-1] != self.num_scores:
            found = ", ".join(["batch", *map(str, logits.shape[1:])])
            raise ValueError(
                f"A controller's logits must have the shape (batch, {self.num_scores}), its `num_scores`. Received: "
                f"logits of shape ({found}) from '{self.controller.name}'"
            )
        return self.allowed.masked(ops.cast(logits, "float32"), iteration), state

    def call(self, inputs: Tensor, context: Tensor | None = None, training: bool | None = None) -> Any:
        if training and are_lost(self):
            warn_of_lost_routes([self])
        inputs = ops.cast(inputs, self.compute_dtype)
        state = self.controller.first_state(inputs, context)
        if isinstance(self.controller, HaltingController) and training:
            x, all_logits, seen = run_prefixes(self, inputs)
            # Without `training`: the controller's `check_module` refuses scorers that would draw noise.
            return self._with_routes(x, all_logits, [self.scorer(logits) for logits in all_logits], seen=seen)
        x, run = inputs, HaltingRun(self.halting, inputs)
        all_logits, all_scores, seen = [], [], []
        for k in range(self.num_iterations):
            if isinstance(self.controller, HaltingController):
                seen.append(self.controller.seen_features(x, k == 0))
            logits, state = self._decide(x, state, k)
            logits = run.masked(logits)
            scores = self.scorer(logits, training=training)
            x = run.step(x, self.activation(x + self.update(x, scores, k, training)), k)
            all_logits.append(logits)
            all_scores.append(scores)
        return self._with_routes(run.output(x), all_logits, all_scores, run.routes(), seen)

    def update(self, x: Tensor, scores: Tensor, iteration: int, training: bool | None = None) -> Tensor:
        """`sum_i scores_i F_i(x)`, over the units that the iteration may choose (eq. 3).

        Args:
            x: Tensor of shape `(batch, ..., channels)`.
            scores: Tensor of shape `(batch, num_scores)`.
            iteration: Integer in `[0, num_iterations)`.
            training: Boolean, whether batch norms use the batch's statistics. A `ResidualPool` is told so; units of
                other pools learn it by Keras, from the call that is going on. Default `None`: all learn it by Keras.

        Returns:
            Tensor of the shape of `x`.

        Raises:
            ValueError: there is no such iteration, or the scores do not fit the pool.
        """
        check_integer("iteration", iteration, least=0, most=self.num_iterations - 1)
        units = self.allowed.units(iteration)
        if not units:
            return ops.zeros_like(x)
        if type(self.pool).call is ResidualPool.call:
            # A subclass with a `call` of its own may not take these arguments.
            options = {"skips_unused": not self.scorer.zeros_have_gradient, "units": units}
            return self.pool(x, scores, iteration=iteration, training=training, **options)
        runs_in_order = self.controller.runs_in_order and hasattr(self.pool, "run_unit")
        is_sum = type(self.pool).call is UnitPool.call  # and not what a user's pool makes of it
        if not runs_in_order and (len(units) == self.pool.num_units or not is_sum):
            return self.pool(x, scores, iteration=iteration)
        outputs = (self.pool.run_unit(i, x, iteration=iteration, training=training) for i in units)
        return sum((weighted(y, scores, i) for i, y in zip(units, outputs, strict=True)), start=ops.zeros_like(x))

    def _with_routes(
        self,
        x: Tensor,
        logits: list[Tensor],
        scores: list[Tensor],
        of_halting: dict[str, Tensor] | None = None,
        seen: Sequence[Tensor] = (),
    ) -> Any:
        if not self.return_routes:
            return x
        of_iterations = {"logits": logits, "scores": scores, **({SEEN: seen} if seen else {})}
        return x, {name: ops.stack(parts, axis=1) for name, parts in of_iterations.items()} | (of_halting or {})

    def compute_output_shape(self, inputs_shape: tuple, context_shape: tuple | None = None) -> Any:
        if not self.return_routes:
            return tuple(inputs_shape)
        shape = (inputs_shape[0], self.num_iterations, self.num_scores)
        more: dict[str, tuple] = {} if self.halting is None else dict.fromkeys(HALTING_ROUTES, shape[:2])
        if isinstance(self.controller, HaltingController):
            more[SEEN] = (*shape[:2], inputs_shape[-1])
        return tuple(inputs_shape), {"logits": shape, "scores": shape, **more}

    # Keras would make it of `compute_output_shape`, with routes in the compute type in place of float32.
    def compute_output_spec(self, inputs: Tensor, context: Tensor | None = None, training: bool | None = None) -> Any:
        self.controller.check_context(context is not None)
        x = keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)
        if not self.return_routes:
            return x
        _, shapes = self.compute_output_shape(inputs.shape)
        return x, {name: keras.KerasTensor(shape, dtype="float32") for name, shape in shapes.items()}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **(part_settings(self) if self.built else self._parts),
            "units": keras.saving.serialize_keras_object(self.pool),
            "num_iterations": self.num_iterations,
            "controller": keras.saving.serialize_keras_object(self.controller),
            "scorer": keras.saving.serialize_keras_object(self.scorer),
            "zero_unit": self.zero_unit,
            "activation": keras.activations.serialize(self.activation),
            "return_routes": self.return_routes,
            "allowed": self.allowed.config,
            "halting": None if self.halting is None else keras.saving.serialize_keras_object(self.halting),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ReSet":
        config, parts = without_part_settings(config)
        for name in ("units", "controller", "scorer", "halting"):
            if isinstance(config.get(name), dict):
                config[name] = keras.saving.deserialize_keras_object(config[name])
        module = super().from_config(config)
        module._parts = parts
        return module
