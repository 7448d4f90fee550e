from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from reset_keras.argument_checks import check_integer, check_real, is_real
from reset_keras.distribution import ReplicaSeedGenerator
from reset_keras.layers.controller import Controller, FixedController, mean_features
from reset_keras.layers.keeps_noise import KeepsNoise
from reset_keras.layers.scorers import HardScorer

Tensor = Any
NEVER = 2.0
"""A threshold that no probability reaches."""
NUM_BUDGETS = 64
"""How many budgets a controller has room for."""


@keras.saving.register_keras_serializable("reset_keras")
class HaltingController(KeepsNoise, Controller):
    """Runs the units in their order, unit k in iteration k, until an image needs no more of them.

    It makes one network for every budget. In training each image of a batch is given its depth, the number of units
    that it runs, so that all depths are trained at once. The images are sorted by depth, and each unit runs only on
    the images that reach it, with the batch statistics of these.

    At inference an image halts after `depth` units, or as soon as its features, averaged over their positions, make the
    head's largest probability at least `threshold`; before the first unit these are the module's inputs after its
    activation, which it returns if it halts there. Depth, threshold and head are weights that no optimizer trains;
    `rk.inference.calibrate` chooses them, and `rk.inference.set_compute` sets those of a requested compute fraction.

    Its module needs a zero unit, as many iterations as units, an activation that changes nothing the second time (ReLU,
    or none), and `HardScorer(sampled=False)`. Modules that share a controller (possible only outside a `RoutedModel`)
    need the same activation.

    Args:
        num_scores: Integer, the pool's units plus one.
        num_classes: Integer, classes of the head. Default 10.
        shares: Two floats in (0, 1], the first not below the second: the share of a training batch that runs the first
            unit, and the last; those between are evenly spaced. Default `(0.875, 0.375)`.
        noise: Float, 0 or above. With 0, an image's position in the batch sets its depth in all modules. Above 0, each
            module adds normal noise of this standard deviation, in units of the batch size, to the positions before
            ranking them. Images must come in random order, as `fit` brings them. Default 0.2.

    Attributes:
        depth: Weight without dimensions, after how many units every image halts. At first all.
        threshold: Weight without dimensions, the least probability that ends an image. At first 2, which none reaches.
        head_kernel: Weight of shape `(channels, num_classes)`.
        head_bias: Weight of shape `(num_classes,)`.
        budgets: Weight of shape `(64, 3)`, the settings that `rk.inference.calibrate` found, the cheapest first: cost
            (the network's mean compute fraction), depth and threshold. A row whose cost is 0 is not in use.

    Call arguments:
        inputs: Tensor of shape `(batch, ..., channels)`, the current representation `x_k`.
        state: List of a tensor of shape `(batch,)`, 1 where an image has halted.
        iteration: Integer, the current iteration k. Default 0.

    Returns:
        A pair: logits of shape `(batch, num_scores)`, float32, the largest being that of unit k, or of the zero unit
        where the image has halted, and the next state.

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> controller = HaltingController(num_scores=3)
        >>> images = keras.random.normal((2, 8, 8, 16))
        >>> logits, state = controller(images, controller.initial_state(2), iteration=1)
        >>> [int(unit) for unit in keras.ops.argmax(logits, axis=-1)]
        [1, 1]
    """

    runs_in_order = True
    activation: Any = None
    """Its module's, or `None` if it is in none."""

    def __init__(
        self,
        num_scores: int,
        num_classes: int = 10,
        shares: Sequence[float] = (0.875, 0.375),
        noise: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_scores, **kwargs)
        self.num_classes = check_integer("num_classes", num_classes, least=1)
        self.noise = check_real("noise", noise, least=0.0)
        shares = shares.tolist() if isinstance(shares, np.ndarray) else shares
        shares = tuple(shares) if isinstance(shares, Sequence) else (shares,)
        if len(shares) != 2 or not all(map(is_real, shares)) or not 1.0 >= shares[0] >= shares[1] > 0.0:
            raise ValueError(f"`shares` must be two numbers, 1 >= first >= last > 0. Received: shares={shares}")
        self.shares = tuple(float(share) for share in shares)
        self.seed_generator = ReplicaSeedGenerator(None)

    @property
    def num_units(self) -> int:
        """The units that it runs, one after the other."""
        return self.num_scores - 1

    def check_module(self, module: Any) -> None:
        fits = (
            module.zero_unit
            and module.num_iterations == module.pool.num_units
            and hasattr(module.pool, "run_unit")
            and module.activation in (keras.activations.relu, keras.activations.linear)
            and isinstance(module.scorer, HardScorer)
            and not module.scorer.samples_units
            and module.allowed.config in ("any", "sequential")
        )
        if not fits:
            raise ValueError(
                "A HaltingController needs a zero unit, as many iterations as units, the activation 'relu' or None, "
                "scorer=HardScorer(sampled=False), allowed='sequential' or 'any', and a pool that runs its units one "
                f"by one. Received: allowed={module.allowed.config!r}, "
                f"zero_unit={module.zero_unit}, num_iterations={module.num_iterations}, {module.pool.num_units} units, "
                f"activation={keras.activations.serialize(module.activation)!r}, a {type(module.scorer).__name__} with "
                f"sampled={module.scorer.samples_units}, and a {type(module.pool).__name__}"
            )
        if self.activation not in (None, module.activation):
            raise ValueError(
                "A HaltingController serves only modules of one activation. Received: one that is in a module with "
                f"activation={keras.activations.serialize(self.activation)!r} already, for one with "
                f"activation={keras.activations.serialize(module.activation)!r}. Give each module another one"
            )
        # `seen_features` needs it, and a controller is made before its module.
        self.activation = module.activation

    def build(self, inputs_shape: tuple, state_shape: Any = None) -> None:
        # Frozen modules in bfloat16 ask `halts` outside of a call, where nothing else keeps these in float32.
        fixed = {"trainable": False, "initializer": "zeros", "autocast": False}
        self.head_kernel = self.add_weight(name="head_kernel", shape=(inputs_shape[-1], self.num_classes), **fixed)
        self.head_bias = self.add_weight(name="head_bias", shape=(self.num_classes,), **fixed)
        self.depth = self.add_weight(name="depth", shape=(), **{**fixed, "initializer": _constant(self.num_units)})
        self.threshold = self.add_weight(name="threshold", shape=(), **{**fixed, "initializer": _constant(NEVER)})
        self.budgets = self.add_weight(name="budgets", shape=(NUM_BUDGETS, 3), **fixed)

    def initial_state(self, batch_size: Tensor | int) -> list[Tensor]:
        return [ops.zeros((batch_size,), "float32")]

    def call(self, inputs: Tensor, state: list[Tensor], iteration: int = 0) -> tuple[Tensor, list[Tensor]]:
        check_integer("iteration", iteration, least=0, most=self.num_units - 1)
        halts = self.halts(self.seen_features(inputs, iteration == 0), iteration)
        halted = ops.maximum(state[0], ops.cast(halts, "float32"))
        return self.chosen(halted, iteration), [halted]

    def halts(self, features: Tensor, iteration: int) -> Tensor:
        """Whether each image halts before a unit, from what the head sees there: booleans, `(batch,)`.

        Args:
            features: From `seen_features`: tensor of shape `(batch, channels)`, float32.
            iteration: Integer, the unit's.
        """
        is_sure = doubt(ops.matmul(features, self.head_kernel) + self.head_bias) <= 1.0 - self.threshold
        return ops.logical_or(is_sure, self.is_too_deep(iteration))

    def is_too_deep(self, iteration: int) -> Tensor:
        """Whether all images halt before a unit: a boolean without dimensions."""
        return ops.cast(iteration, "float32") >= self.depth

    @property
    def is_never_sure(self) -> bool:
        """Whether no image halts before `depth`, now or at any of the budgets."""
        # A row of `budgets` whose cost is 0 is not in use.
        thresholds = [self.threshold, *ops.convert_to_numpy(self.budgets)[:, 2]]
        costs = [1.0, *ops.convert_to_numpy(self.budgets)[:, 0]]
        return all(float(threshold) > 1.0 for threshold, cost in zip(thresholds, costs, strict=True) if cost)

    def seen_features(self, inputs: Tensor, is_first: bool) -> Tensor:
        """What the head sees in an iteration: the mean features, float32, of shape `(batch, channels)`.

        Args:
            inputs: Tensor of shape `(batch, ..., channels)`.
            is_first: Boolean, whether it is the first iteration, whose inputs get the module's activation here.
        """
        inputs = self.activation(inputs) if is_first and self.activation else inputs
        return mean_features(ops.cast(inputs, "float32"))

    def chosen(self, halted: Tensor, iteration: int) -> Tensor:
        """Logits of unit `iteration`, or of the zero unit for images that have halted: `(batch, num_scores)`.

        Args:
            halted: Tensor of shape `(batch,)`, float32, 1 where an image has halted, else 0.
            iteration: Integer.
        """
        one_hot = ops.eye(self.num_scores, dtype="float32") * FixedController.logit
        halted = halted[:, None]
        return halted * one_hot[-1] + (1.0 - halted) * one_hot[iteration]

    def depths_of_batch(self, batch_size: Tensor | int) -> tuple[Tensor, list[Tensor | int]]:
        """What the images of a training batch run, as `shares` and `noise` say.

        Args:
            batch_size: Integer, or a tensor where it is not known before.

        Returns:
            The images from the deepest on, as places in the batch, int32 of shape `(batch,)`; and for each unit, how
            many of them run it.
        """
        places = ops.arange(batch_size, dtype="float32")
        if self.noise:
            moved = keras.random.normal((batch_size,), dtype="float32", seed=self.seed_generator) * self.noise
            places = places / ops.cast(batch_size, "float32") + moved
        first, last = self.shares
        shares = np.linspace(first, last, self.num_units)
        # As integers: a product of floats may exceed the integer that it should be, and then be rounded up to the next.
        # At least one image must run a unit, as there are no statistics of none.
        thousandths = [max(1, round(1000 * share)) for share in shares]
        counts = [-(-batch_size * part // 1000) for part in thousandths]  # rounded up, also of a tensor
        return ops.argsort(places), counts

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "shares": self.shares,
            "noise": self.noise,
        }


def doubt(logits: Tensor) -> Tensor:
    """What the largest probability of the softmax leaves to all others, of shape `(...)`.

    A taught network is sure to within a millionth, which 1 less the largest probability would round away.
    """
    descending, _ = ops.top_k(logits, logits.shape[-1])  # `ops.argmax` has operations that ONNX and LiteRT lack
    others = ops.sum(ops.exp(descending[..., 1:] - descending[..., :1]), axis=-1)
    return others / (1.0 + others)


def _constant(value: float) -> keras.initializers.Initializer:
    return keras.initializers.Constant(float(value))
