from typing import Any

import keras
from keras import ops

from reset_keras.argument_checks import check_integer, check_real
from reset_keras.distribution import ReplicaSeedGenerator
from reset_keras.layer_copies import layer_like
from reset_keras.layers.keeps_noise import KeepsNoise

Tensor = Any
COLDEST = 1e-6
"""The least temperature. Divided by one much smaller, logits would overflow float32."""
SEEDS = (0, 2**32 - 1) if keras.backend.backend() == "jax" else (-(2**63), 2**63 - 1)
"""What the state of a seed generator can hold."""


class Scorer(KeepsNoise, keras.layers.Layer):
    """Turns a controller's logits into the weights of the units.

    What all scorers share: float32 arithmetic, a temperature that can be changed while training, noise at training
    only, a deterministic result at inference. A subclass implements `call`.

    Args:
        temperature: Float above 1e-6, divides the logits. It is kept as a non-trainable weight, so that
            `scorer.temperature.assign(0.5)` also reaches a compiled step. Default 1.
        seed: Integer or `None`, where the noise starts. Default `None`: a random place.

    Call arguments:
        logits: Tensor of shape `(batch, num_scores)`.
        training: Boolean, whether noise is drawn.

    Returns:
        Scores, float32, of the logits' shape.

    Raises:
        ValueError: `temperature` is not above 1e-6, or no number, or `seed` is no integer.

    Examples:
        >>> @keras.saving.register_keras_serializable("mine")  # so that files can be loaded
        ... class SquaredScorer(Scorer):
        ...     def call(self, logits, training=None):
        ...         return keras.ops.square(self.soft(logits, noisy=bool(training)))
        >>> module = ReSet(units=5, scorer=SquaredScorer(temperature=0.5))
        >>> tuple(module(keras.random.normal((2, 8, 8, 16))).shape)
        (2, 8, 8, 16)
    """

    has_gradient = True
    """Whether the task loss reaches the logits through the scores; where it does not, REINFORCE is needed."""
    samples_units = False
    """Whether the scores in training are one-hot samples of the policy, as REINFORCE needs them."""
    zeros_have_gradient = True
    """Whether logits learn from scores of zero. If not, training leaves out units that no image of a batch uses."""

    def __init__(self, temperature: float = 1.0, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self._initial_temperature = check_real("temperature", temperature, above=COLDEST)
        self._seed = seed if seed is None else check_integer("seed", seed, *SEEDS)
        self.seed_generator = ReplicaSeedGenerator(self._seed)

    def build(self, logits_shape: tuple) -> None:
        self.temperature = self.add_weight(
            name="temperature",
            shape=(),
            initializer=keras.initializers.Constant(self._initial_temperature),
            trainable=False,
        )

    def soft(self, logits: Tensor, noisy: bool = False) -> Tensor:
        """`softmax((logits + noise) / temperature)`: eq. 5 without noise, eq. 7 with Gumbel noise."""
        logits = self.noisy_logits(logits, noisy)
        if logits.shape[-1] == 1:
            return ops.ones_like(logits)  # Keras warns of a softmax over one choice
        return ops.softmax(logits / self.temperature, axis=-1)

    def noisy_logits(self, logits: Tensor, noisy: bool) -> Tensor:
        """The logits, float32; with Gumbel noise the largest is that of a sample of the policy (eq. 8)."""
        logits = ops.cast(logits, "float32")
        if not noisy or logits.shape[-1] == 1:
            return logits
        return logits + gumbel_noise(ops.shape(logits), self.seed_generator)

    def compute_output_shape(self, logits_shape: tuple) -> tuple:
        return tuple(logits_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self._initial_temperature, "seed": self._seed}


def is_plain(scorer: Scorer, *classes: type[Scorer]) -> bool:
    """Whether a scorer computes as one of these classes does, and not differently."""
    shared = ("soft", "noisy_logits")
    is_same = all(getattr(type(scorer), name) is getattr(Scorer, name) for name in shared)
    return is_same and any(type(scorer).call is plain.call for plain in classes)


def gumbel_noise(shape: tuple, seed: Any) -> Tensor:
    """Samples of the Gumbel(0, 1) distribution, float32: `-log(-log(u))`, u uniform in (0, 1) (eq. 8)."""
    uniform = keras.random.uniform(shape, dtype="float32", seed=seed)
    # `uniform` can be 0, of which the noise would be minus infinity.
    return -ops.log(-ops.log(ops.clip(uniform, 1e-7, 1.0 - 1e-7)))


def one_hot_of_largest(x: Tensor) -> Tensor:
    """One-hot vectors of the largest entry along the last axis, float32; ties go to the first."""
    # `ops.argmax` of floats has operations that ONNX and LiteRT lack.
    _, index = ops.top_k(x, 1)
    return ops.one_hot(ops.squeeze(index, axis=-1), x.shape[-1], dtype="float32")


@keras.saving.register_keras_serializable("reset_keras")
class SoftmaxScorer(Scorer):
    """Scores are the policy itself, `softmax(logits / temperature)`: every unit counts (eq. 5 and 11 of the paper).

    Args:
        temperature: Float above 1e-6. Default 1.
        seed: Not used; all scorers take one.

    Examples:
        >>> scores = SoftmaxScorer(temperature=0.5)(keras.ops.array([[1.0, 2.0, 3.0]]))
        >>> round(float(keras.ops.sum(scores)), 6)
        1.0
    """

    def call(self, logits: Tensor, training: bool | None = None) -> Tensor:
        return self.soft(logits)


@keras.saving.register_keras_serializable("reset_keras")
class GumbelSoftmaxScorer(Scorer):
    """Samples of the Gumbel-softmax distribution: soft, but nearly one-hot at a low temperature (eq. 7 of the paper).

    At inference the noise is left out, which makes it the softmax at this temperature.

    Args:
        temperature: Float above 1e-6. Default 1.
        seed: Integer or `None`. Default `None`.

    Examples:
        >>> scorer = GumbelSoftmaxScorer(temperature=0.5, seed=1)
        >>> tuple(scorer(keras.ops.zeros((4, 6)), training=True).shape)
        (4, 6)
    """

    def call(self, logits: Tensor, training: bool | None = None) -> Tensor:
        return self.soft(logits, noisy=bool(training))


@keras.saving.register_keras_serializable("reset_keras")
class GumbelSTScorer(Scorer):
    """Straight-through Gumbel-softmax: one-hot going forward, the Gumbel-softmax's gradient going back (section 3.3).

    One unit is run for each image. At inference it is the unit with the largest logit.

    Args:
        temperature: Float above 1e-6, of the gradient's softmax. Default 1.
        seed: Integer or `None`. Default `None`.

    Examples:
        >>> scorer = GumbelSTScorer(seed=1)
        >>> [int(i) for i in keras.ops.sum(scorer(keras.ops.zeros((3, 6)), training=True), axis=-1)]
        [1, 1, 1]
    """

    samples_units = True

    def call(self, logits: Tensor, training: bool | None = None) -> Tensor:
        logits = self.noisy_logits(logits, bool(training))
        soft = self.soft(logits)
        # Of the logits, as their softmax may round several to the same. With these parentheses the scores are exactly
        # one-hot: the difference is exactly 0.
        return one_hot_of_largest(logits) + (soft - ops.stop_gradient(soft))


@keras.saving.register_keras_serializable("reset_keras")
class TopKScorer(Scorer):
    """The k largest scores of the softmax, the others set to zero (section 5.4.3 of the paper).

    The scores that are kept keep their value and their gradient; they are not scaled up to sum to one.

    Args:
        k: Integer from 1 to the number of scores. Default 1.
        temperature: Float above 1e-6. Default 1.
        seed: Not used; all scorers take one.

    Raises:
        ValueError: `k` is not positive, or larger than the number of scores.

    Examples:
        >>> scores = TopKScorer(k=2)(keras.ops.array([[1.0, 2.0, 3.0]]))
        >>> int(keras.ops.count_nonzero(scores))
        2
    """

    zeros_have_gradient = False

    def __init__(self, k: int = 1, temperature: float = 1.0, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(temperature, seed, **kwargs)
        self.k = check_integer("k", k, least=1)

    def build(self, logits_shape: tuple) -> None:
        if self.k > logits_shape[-1]:
            raise ValueError(
                f"`k` must not be larger than the number of scores. Received: k={self.k}, but the pool has "
                f"{logits_shape[-1]} scores (its units and the zero unit, where there is one)."
            )
        super().build(logits_shape)

    def call(self, logits: Tensor, training: bool | None = None) -> Tensor:
        soft = self.soft(logits)
        _, indices = ops.top_k(ops.cast(logits, "float32"), self.k)  # the softmax may round several to the same
        kept = ops.sum(ops.one_hot(indices, soft.shape[-1], dtype="float32"), axis=-2)
        return soft * kept

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "k": self.k}


@keras.saving.register_keras_serializable("reset_keras")
class HardScorer(Scorer):
    """One unit, sampled from the policy `softmax(logits)`: eq. 2 of the paper, without any gradient through the scores.

    Train it by REINFORCE (eq. 6): `model.compile(..., skip_reward=rk.SkipReward(0.0, estimator="reinforce"))`, which
    `compile` does by itself where no `skip_reward` is given. At inference it is the unit with the largest logit.

    Args:
        seed: Integer or `None`. Default `None`.
        sampled: Boolean, whether the unit is sampled in training. `False`: it is the unit with the largest logit there
            too, and the controllers learn nothing, to train units along fixed routes. Default `True`.

    Examples:
        >>> scorer = HardScorer(seed=1)
        >>> [int(i) for i in keras.ops.sum(scorer(keras.ops.zeros((3, 6)), training=True), axis=-1)]
        [1, 1, 1]
    """

    has_gradient = False
    zeros_have_gradient = False

    def __init__(self, seed: int | None = None, sampled: bool = True, **kwargs: Any) -> None:
        super().__init__(seed=seed, **kwargs)
        self.samples_units = sampled

    def call(self, logits: Tensor, training: bool | None = None) -> Tensor:
        noisy = bool(training) and self.samples_units
        return ops.stop_gradient(one_hot_of_largest(self.noisy_logits(logits, noisy)))

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "sampled": self.samples_units}
        # `__init__` does not take it: no temperature changes which score is the largest.
        del config["temperature"]
        return config


SCORERS: dict[str, type[Scorer]] = {
    "softmax": SoftmaxScorer,
    "gumbel_softmax": GumbelSoftmaxScorer,
    "gumbel_st": GumbelSTScorer,
    "top_k": TopKScorer,
    "hard": HardScorer,
}


def get_scorer(scorer: "str | Scorer") -> Scorer:
    """A new scorer by name, or the given one.

    Args:
        scorer: `"softmax"`, `"gumbel_softmax"`, `"gumbel_st"`, `"top_k"`, `"hard"`, or a `Scorer`.

    Raises:
        ValueError: the name is unknown.
    """
    if isinstance(scorer, Scorer):
        return scorer
    if not isinstance(scorer, str) or scorer not in SCORERS:
        raise ValueError(f"`scorer` must be one of {sorted(SCORERS)} or a Scorer. Received: scorer={scorer!r}")
    return SCORERS[scorer](name="scorer")


def new_scorer(scorer: "str | Scorer", index: int) -> Scorer:
    """A scorer of a module's own, by name or as the given one: one seed given for all is a different one for each."""
    scorer = get_scorer(scorer)
    config = {**scorer.get_config(), "name": "scorer"}
    if config["seed"] is not None:
        config["seed"] += index
    return layer_like(scorer, config)
