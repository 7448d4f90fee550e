from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from reset_keras.distribution import global_mean

Tensor = Any
ESTIMATORS = ("straight_through", "reinforce")


@keras.saving.register_keras_serializable("reset_keras")
class SkipReward:
    """The reward for skipping, which hybrid reinforcement learning maximizes: `sum_k R_k skip_k` (eq. 9).

    `skip_k` is the zero unit's score at iteration k. (The paper writes "min" above the reward and maximizes it in the
    text; this maximizes it.) Two estimators of its gradient:

    - `"straight_through"`: through the zero unit's score, as far as the scorer lets a gradient through.
    - `"reinforce"`: the score function (eq. 6). The return of iteration k counts the task loss and the rewards from k
      on, as in SkipNet (Wang et al., 2018); a running mean per iteration, which starts at the first batch's, is its
      baseline. With a scorer that lets the
      task loss through this is the hybrid of section 3.4, with `scorer="hard"` it is plain REINFORCE, also at
      reward 0.

    The rewards become a variable when a model is compiled with this object, so that `skip_reward.reward.assign(...)`
    also reaches a compiled step.

    Args:
        reward: Float or sequence of floats, R_k in units of the loss: one for all iterations, or one for each iteration
            of all modules, in order. Default 0.
        estimator: `"straight_through"` or `"reinforce"`. Default `"straight_through"`.
        baseline_momentum: Float in [0, 1), weight of the past in the running baseline, per batch. Default 0.9.

    Raises:
        ValueError: the estimator is unknown, or the number of rewards is not the number of iterations.

    Example:

    >>> reward = SkipReward(0.1)
    >>> model.compile("sgd", "sparse_categorical_crossentropy", skip_reward=reward)  # doctest: +SKIP
    """

    def __init__(
        self,
        reward: float | Sequence[float] = 0.0,
        estimator: str = "straight_through",
        baseline_momentum: float = 0.9,
    ) -> None:
        if estimator not in ESTIMATORS:
            raise ValueError(f"`estimator` must be one of {ESTIMATORS}. Received: estimator={estimator!r}")
        if not 0.0 <= baseline_momentum < 1.0:
            raise ValueError(f"`baseline_momentum` must be in [0, 1). Received: baseline_momentum={baseline_momentum}")
        self._initial_reward = [float(r) for r in reward] if isinstance(reward, Sequence) else float(reward)
        self.reward: Any = self._initial_reward
        self.estimator = estimator
        self.baseline_momentum = baseline_momentum
        self.baseline: Any = None
        self.updates: Any = None
        self.variables: list[Any] = []

    def build(self, num_iterations: int) -> None:
        """Makes the variables for a model whose modules have `num_iterations` iterations in all, once."""
        if self.variables:
            return
        rewards = self.reward if isinstance(self.reward, list) else [self.reward] * num_iterations
        if len(rewards) != num_iterations:
            raise ValueError(
                f"`reward` must be one number, or one for each of the model's {num_iterations} iterations. "
                f"Received: {len(rewards)} numbers"
            )
        options = {"trainable": False, "dtype": "float32"}
        self.reward = keras.Variable(rewards, name="skip_reward", **options)
        self.baseline = keras.Variable([0.0] * num_iterations, name="skip_baseline", aggregation="mean", **options)
        self.updates = keras.Variable(0.0, name="skip_baseline_updates", aggregation="mean", **options)
        self.variables = [self.reward, self.baseline, self.updates]

    def total(self, skips: Tensor) -> Tensor:
        """The reward of a batch, `mean_batch sum_k R_k skip_k`: a float32 scalar.

        Args:
            skips: Tensor of shape `(batch, num_iterations)`, the zero unit's scores, 0 where there is no zero unit.
        """
        return ops.sum(ops.mean(skips, axis=0) * self.reward)

    def reinforce(self, skips: Tensor, log_probabilities: Tensor, task_losses: Tensor) -> Tensor:
        """A scalar whose gradient is the score function's estimate (eq. 6); it updates the baseline.

        Args:
            skips: Tensor of shape `(batch, num_iterations)`.
            log_probabilities: Tensor of shape `(batch, num_iterations)`, of the choices taken.
            task_losses: Tensor of shape `(batch,)`.
        """
        rewards = skips * self.reward
        to_go = ops.flip(ops.cumsum(ops.flip(rewards, axis=1), axis=1), axis=1)
        returns = ops.stop_gradient(to_go - ops.expand_dims(task_losses, axis=1))
        mean_returns = global_mean(returns)
        baseline = ops.where(self.updates.value > 0, self.baseline.value, mean_returns)
        momentum = self.baseline_momentum
        self.baseline.assign(baseline * momentum + mean_returns * (1.0 - momentum))
        self.updates.assign(self.updates.value + 1.0)
        advantages = returns - baseline
        return -ops.mean(ops.sum(advantages * log_probabilities, axis=1))

    def get_config(self) -> dict[str, Any]:
        return {
            "reward": self._initial_reward,
            "estimator": self.estimator,
            "baseline_momentum": self.baseline_momentum,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SkipReward":
        return cls(**config)


def skip_scores(all_scores: list[Tensor], zero_units: Sequence[bool]) -> Tensor:
    """The zero unit's score at every iteration of every module: float32, `(batch, total iterations)`.

    Args:
        all_scores: For each module a tensor of shape `(batch, num_iterations, num_scores)`.
        zero_units: For each module, whether its last score is the zero unit's; where not, nothing is ever skipped.
    """
    columns = [
        scores[..., -1] if zero_unit else ops.zeros_like(scores[..., -1])
        for scores, zero_unit in zip(all_scores, zero_units, strict=True)
    ]
    return ops.cast(ops.concatenate(columns, axis=1), "float32")


def choice_log_probabilities(all_logits: list[Tensor], all_scores: list[Tensor]) -> Tensor:
    """`log policy_k[choice_k]` of the one-hot choices taken: float32, `(batch, total iterations)`."""
    columns = [
        ops.sum(ops.stop_gradient(scores) * ops.log_softmax(ops.cast(logits, "float32"), axis=-1), axis=-1)
        for logits, scores in zip(all_logits, all_scores, strict=True)
    ]
    return ops.concatenate(columns, axis=1)
