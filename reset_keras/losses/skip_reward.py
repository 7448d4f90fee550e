from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from reset_keras.argument_checks import check_integer, check_real
from reset_keras.distribution import global_mean, local_mean
from reset_keras.losses.log_policy import log_policy
from reset_keras.losses.loss_term import LossTerm

Tensor = Any
ESTIMATORS = ("straight_through", "reinforce")


@keras.saving.register_keras_serializable("reset_keras")
class SkipReward(LossTerm):
    """The reward for skipping, which hybrid reinforcement learning maximizes: `sum_k R_k skip_k` (eq. 9).

    `skip_k` is the zero unit's score at iteration k. (The paper writes "min" above the reward and maximizes it in the
    text; this maximizes it.) Two estimators of its gradient:

    - `"straight_through"`: through the zero unit's score, as far as the scorer lets a gradient through.
    - `"reinforce"`: the score function (eq. 6). The return of iteration k counts the task loss and the rewards from k
      on, as in SkipNet (Wang et al., 2018); a running mean per iteration, which starts at the first batch's, is its
      baseline. With a scorer that lets the task loss through this is the hybrid of section 3.4; with `scorer="hard"`
      it is plain REINFORCE, also at reward 0.

    The rewards become a variable when a model is compiled with this object, so that `skip_reward.reward.assign(...)`
    also reaches a compiled step.

    With a `target` the reward is found for you: the task loss is minimized subject to a mean compute fraction of at
    most `target`, and the constraint's Lagrange multiplier, `skip_reward.price`, is learned by dual ascent. After each
    training step it is `max(0, price + target_rate * (fraction - target))`, with the mean `fraction` of the step's
    global batch. Then `R_k` is the price times what skipping iteration k saves, relative to the mean iteration: all
    `R_k` are equal where all iterations cost the same. With scorers that run one unit or none (`"gumbel_st"`,
    `"hard"`) the fraction is that of `rk.inference.compute_fractions`. Other scorers run all units, whatever their
    scores; there it is what a unit drawn by the scores would cost. It is measured in the training step, with the
    scorers' noise: at inference, where the likeliest unit runs, it may be less or more. A policy that has become
    deterministic learns no more; `Entropy(across=...)` prevents this.

    Args:
        reward: Float or sequence of floats, R_k in units of the loss: one for all iterations, or one for each iteration
            of all modules, in order. With a `target` one float, not negative, the price at the start. Default 0.
        estimator: `"straight_through"` or `"reinforce"`. Default `"straight_through"`.
        baseline_momentum: Float in [0, 1), weight of the past in the running baseline, per batch. Default 0.9.
        target: Float above 0, the mean compute fraction to be kept, or `None` for constant rewards. Default `None`.
        target_rate: Float above 0, step of the dual ascent, in units of the loss per training step. Default 0.01.

    Raises:
        ValueError: an argument is out of its range, the number of rewards is not the number of iterations, or the
            target cannot be reached however much is skipped, or is above what the most expensive routes cost.

    Examples:
        >>> reward = SkipReward(0.1)
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("sgd", loss, skip_reward=reward)  # doctest: +SKIP

        >>> model = ReSetNet(input_shape=(8, 8, 1), scorer="gumbel_st")
        >>> model.compile("sgd", loss, skip_reward=SkipReward(target=0.7))
        >>> float(model.skip_reward.price)
        0.0
    """

    def __init__(
        self,
        reward: float | Sequence[float] = 0.0,
        estimator: str = "straight_through",
        baseline_momentum: float = 0.9,
        target: float | None = None,
        target_rate: float = 0.01,
    ) -> None:
        if estimator not in ESTIMATORS:
            raise ValueError(f"`estimator` must be one of {ESTIMATORS}. Received: estimator={estimator!r}")
        reward = reward.tolist() if isinstance(reward, np.ndarray) else reward
        self.reward: Any = (
            [check_real("reward", r) for r in reward]
            if isinstance(reward, list | tuple)
            else check_real("reward", reward)
        )
        self.estimator = estimator
        self.baseline_momentum = check_real("baseline_momentum", baseline_momentum, least=0.0, below=1.0)
        self.target = None if target is None else _checked_target(reward, target)
        self.target_rate = check_real("target_rate", target_rate, above=0.0)
        super().__init__(
            reward=self.reward,
            estimator=self.estimator,
            baseline_momentum=self.baseline_momentum,
            target=self.target,
            target_rate=self.target_rate,
        )
        self.price: Any = None
        self.baseline: Any = None
        self.updates: Any = None
        self._weights: Any = 1.0

    def check_iterations(self, num_iterations: int) -> None:
        """Raises `ValueError` where rewards were given for another number of iterations."""
        check_integer("num_iterations", num_iterations, least=1)
        rewards = self._config.get("reward")  # as it was given: a built reward is a variable. A `DropReward` has none
        if isinstance(rewards, list) and len(rewards) != num_iterations:
            raise ValueError(
                f"`reward` must be one number, or one for each of the model's {num_iterations} iterations. "
                f"Received: {len(rewards)} numbers"
            )

    def build(self, num_iterations: int, weights: np.ndarray | None = None) -> None:
        """Makes the variables for a model whose modules have `num_iterations` iterations in all, once.

        Args:
            num_iterations: Integer.
            weights: With a target, what skipping each iteration saves, with mean 1: float32, `(num_iterations,)`.

        Raises:
            ValueError: it was given, or built before, for another number of iterations.
        """
        self.check_iterations(num_iterations)
        if self.variables and self.baseline.shape[0] != num_iterations:
            raise ValueError(
                f"This SkipReward was compiled with a model of {self.baseline.shape[0]} iterations in all; one of "
                f"another number needs a new SkipReward. Received: a model of {num_iterations} iterations"
            )
        if weights is not None:
            # Also where the variables are there already: the term may now be compiled with another model.
            self._weights = weights
        if self.variables:
            return
        rewards = self.reward if isinstance(self.reward, list) else [self.reward] * num_iterations
        # Each replica assigns price, baseline and updates in its step: an aggregation keeps the replicas' copies equal.
        if self.target is None:
            self.reward = self._variable("skip_reward", rewards)
        else:
            self.price = self._variable("skip_price", self.reward, aggregation="mean")
        self.baseline = self._variable("skip_baseline", [0.0] * num_iterations, aggregation="mean")
        self.updates = self._variable("skip_baseline_updates", 0.0, aggregation="mean")

    @property
    def needs_zero_unit(self) -> bool:
        """Whether there is something to reward, which only a zero unit can earn."""
        return self.target is not None or bool(np.any(self._config["reward"]))

    def rewards(self) -> Tensor:
        """`R_k` of this step: float32, shape `(num_iterations,)`."""
        return self.reward if self.target is None else self.price * self._weights

    def update_price(self, fractions: Tensor) -> None:
        """A step of dual ascent.

        Args:
            fractions: Tensor of shape `(batch,)`, the images' compute fractions in a training step.
        """
        excess = ops.stop_gradient(global_mean(fractions)) - self.target
        self.price.assign(ops.maximum(self.price.value + self.target_rate * excess, 0.0))

    def total(self, skips: Tensor) -> Tensor:
        """The reward of a batch, `mean_batch sum_k R_k skip_k`: a float32 scalar.

        Args:
            skips: Tensor of shape `(batch, num_iterations)`, the zero unit's scores, 0 where there is no zero unit.
        """
        return ops.sum(local_mean(skips) * self.rewards())

    def reinforce(
        self, skips: Tensor, log_probabilities: Tensor, task_losses: Tensor, order: np.ndarray | None = None
    ) -> Tensor:
        """A scalar whose gradient is the score function's estimate (eq. 6); it updates the baseline.

        Args:
            skips: Tensor of shape `(batch, num_iterations)`.
            log_probabilities: Tensor of shape `(batch, num_iterations)`, of the choices taken.
            task_losses: Tensor of shape `(batch,)`.
            order: The iterations in the order in which they run. Default `None`: as they are.
        """
        rewards = skips * self.rewards()
        run = np.arange(rewards.shape[1]) if order is None else order
        is_as_run = np.array_equal(run, np.sort(run))
        to_go = rewards if is_as_run else ops.take(rewards, run, axis=1)
        to_go = ops.flip(ops.cumsum(ops.flip(to_go, axis=1), axis=1), axis=1)
        to_go = to_go if is_as_run else ops.take(to_go, np.argsort(run), axis=1)
        returns = ops.stop_gradient(to_go - ops.expand_dims(task_losses, axis=1))
        mean_returns = global_mean(returns)
        baseline = ops.where(self.updates.value > 0, self.baseline.value, mean_returns)
        momentum = self.baseline_momentum
        # `baseline` is of before this batch (except for the first): it must not depend on the choices that it judges.
        self.baseline.assign(baseline * momentum + mean_returns * (1.0 - momentum))
        self.updates.assign(self.updates.value + 1.0)
        advantages = returns - baseline
        return -local_mean(ops.sum(advantages * log_probabilities, axis=1))


def _checked_target(reward: float | Sequence[float], target: float) -> float:
    if isinstance(reward, Sequence) or reward < 0:
        raise ValueError(
            "With a `target`, `reward` must be one number that is not negative, the price at the start. "
            f"Received: reward={reward}"
        )
    return check_real("target", target, above=0.0)


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
        ops.sum(ops.stop_gradient(scores) * log_policy(logits), axis=-1)
        for logits, scores in zip(all_logits, all_scores, strict=True)
    ]
    return ops.concatenate(columns, axis=1)
