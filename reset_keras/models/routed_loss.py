"""The loss of a `RoutedModel`: the task's, and the terms that look at routes, each logged by itself."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from reset_keras.distribution import local_mean, num_replicas
from reset_keras.keras_internals import calls_of
from reset_keras.layers.reset import SEEN, ReSet
from reset_keras.losses.distillation import Distillation
from reset_keras.losses.drop_reward import DropReward, is_right
from reset_keras.losses.early_exits import EarlyExits
from reset_keras.losses.entropy import Entropy, entropies
from reset_keras.losses.ponder_cost import PonderCost, halting_sum
from reset_keras.losses.skip_reward import SkipReward, choice_log_probabilities, skip_scores
from reset_keras.losses.target_rate import TargetRate, unit_uses
from reset_keras.models.module_calls import module_calls
from reset_keras.models.operations import Operations
from reset_keras.models.per_image_loss import per_image_loss
from reset_keras.models.routed_outputs import RoutedOutputs

Tensor = Any
TERMS = ("task_loss", "entropy_across", "entropy_within", "skip_reward", "skip_fraction", "l2")
TARGET_TERMS = ("expected_compute", "skip_price")
PONDER_TERMS = {"ponder_cost": "ponder", "iterations": "active"}
RATE_TERMS = ("target_rate_loss", "unit_use")


class Batch(NamedTuple):
    """What the loss of one batch is computed from, on this replica."""

    x: Any
    y: Any
    prediction: RoutedOutputs
    sample_weight: Tensor | None


class Terms(NamedTuple):
    """What `compile` was given beside the loss of the outputs; `None` stands for what it was not."""

    entropy: Entropy | None
    skip_reward: SkipReward | None
    target_rate: TargetRate | None
    ponder_cost: PonderCost | None
    distillation: Distillation | None
    early_exits: EarlyExits | None


class RoutedLoss:
    """The terms of `compile`, and what is logged of them.

    It is made by each `compile`, so that it logs the terms that were given and no others.

    Args:
        zero_units: For each module whether it has a zero unit.
        loss: The loss of the outputs, as given to `compile`, and its weight.
        terms: All further terms.
        operations: The model's operations where the reward has a compute target, or `None`.
        classifier: The layer from the last module's mean features to the outputs, where there are early exits, or
            `None`.
        order: The iterations of all modules, which are counted in the order of their routes, in that in which they run.
    """

    def __init__(
        self,
        zero_units: tuple[bool, ...],
        loss: tuple[Any, float],
        terms: Terms,
        operations: Operations | None,
        classifier: Any,
        order: np.ndarray,
    ) -> None:
        self.zero_units = zero_units
        self.loss, self.loss_weight = loss
        self.entropy, self.skip_reward, self.target_rate, self.ponder_cost, self.distillation, self.early_exits = terms
        self.operations = operations
        self.classifier = classifier
        self.order = order
        names = [*TERMS]
        names += TARGET_TERMS if operations is not None else ()
        names += RATE_TERMS if self.target_rate is not None else ()
        names += ("distillation_loss",) if self.distillation is not None else ()
        names += ("early_exits_loss",) if self.early_exits is not None else ()
        names += PONDER_TERMS if self.ponder_cost is not None else ()
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}

    def with_terms(self, loss: Tensor, l2: Tensor, batch: Batch, training: bool) -> Tensor:
        """Adds all terms to the loss and logs each of them; returns this replica's share of the sum.

        Args:
            loss: Its share of the task loss and the regularizers.
            l2: The sum of all regularizers.
            batch: What the terms are computed from.
            training: Boolean, whether a step of training follows.
        """
        logits = [route["logits"] for route in batch.prediction.routes]
        scores = [route["scores"] for route in batch.prediction.routes]
        skips = skip_scores(scores, self.zero_units)
        # Keras has divided its loss by the number of replicas, and added the regularizers.
        task_loss = ops.cast(loss * num_replicas() - l2, "float32")
        terms = {"task_loss": task_loss, "l2": l2, "skip_fraction": ops.mean(local_mean(skips))}
        loss, divergences = self._shared_with_teacher_and_exits(loss, terms, batch)
        terms["entropy_across"], terms["entropy_within"] = entropies(logits)
        if self.entropy is not None:
            loss += _share(self.entropy(terms["entropy_across"], terms["entropy_within"]), loss)
        if self.target_rate is not None:
            uses = unit_uses(scores, self.zero_units)
            terms |= {"target_rate_loss": self.target_rate.deviation(uses), "unit_use": ops.mean(local_mean(uses))}
            loss += _share(self.target_rate(terms["target_rate_loss"]), loss)
        terms["skip_reward"] = ops.zeros((), "float32")
        if self.skip_reward is not None:
            terms["skip_reward"], losses = self._rewards(self.skip_reward, batch, skips, divergences)
            term = -terms["skip_reward"]
            # Not in an evaluation: only the gradient of this term has a meaning, and to compute it moves the baseline.
            if self.skip_reward.estimator == "reinforce" and training:
                log_probabilities = choice_log_probabilities(logits, scores)
                term = self.skip_reward.reinforce(skips, log_probabilities, losses(), self.order)
            loss += _share(term, loss)
            if self.operations is not None:
                fractions = self.operations.expected_fractions(batch.prediction.routes)
                # A copy of the price, as it is logged after the variable has moved.
                terms |= {"expected_compute": local_mean(fractions), "skip_price": ops.copy(self.skip_reward.price)}
                if training:  # this step's rewards are of the price before
                    self.skip_reward.update_price(fractions)
        if self.ponder_cost is not None:
            terms |= {term: halting_sum(batch.prediction.routes, name) for term, name in PONDER_TERMS.items()}
            loss += _share(self.ponder_cost(terms["ponder_cost"]), loss)
        for name, value in terms.items():
            # Weighted as Keras weights the loss: the last batch, or a replica's part of it, may have fewer images.
            self.trackers[name].update_state(value, sample_weight=ops.shape(skips)[0])
        return loss

    def _shared_with_teacher_and_exits(
        self, loss: Tensor, terms: dict[str, Tensor], batch: Batch
    ) -> tuple[Tensor, Tensor | None]:
        """The loss with the shares of teacher and early exits, which `terms` gets; and the teacher's by image."""
        divergence = divergences = None
        of_outputs = terms["task_loss"]
        if self.distillation is not None:
            divergence = self.distillation.of_images(batch.x)
            divergences = _divergences(divergence, batch, batch.prediction.outputs)
            terms["distillation_loss"] = local_mean(divergences)
            of_teacher = self.distillation.weight * (terms["distillation_loss"] - of_outputs)
            of_outputs += of_teacher
            loss += _share(of_teacher, loss)
        if self.early_exits is not None:
            terms["early_exits_loss"] = self._loss_of_early_exits(batch, divergence)
            loss += _share(self.early_exits.weight * (terms["early_exits_loss"] - of_outputs), loss)
        return loss, divergences

    def _loss_of_early_exits(self, batch: Batch, divergence: Callable | None) -> Tensor:
        """`mean_k L_k` of the classifier on what the last module's head sees in each iteration k."""
        seen = batch.prediction.routes[-1][SEEN]
        losses = []
        for k in range(seen.shape[1]):
            outputs = self.classifier(seen[:, k])
            of_teacher = None if divergence is None else _divergences(divergence, batch, outputs)
            losses.append(local_mean(self._losses_of_images(batch, outputs, of_teacher)))
        return ops.mean(ops.stack(losses))

    def _rewards(
        self, skip_reward: SkipReward, batch: Batch, skips: Tensor, divergences: Tensor | None
    ) -> tuple[Tensor, Callable[[], Tensor]]:
        """The mean reward, and what computes what REINFORCE wants to make small beside the rewards of iterations."""
        if not isinstance(skip_reward, DropReward):
            return skip_reward.total(skips), lambda: self._losses_of_images(
                batch, batch.prediction.outputs, divergences
            )
        rewards = skip_reward.of_images(skips, is_right(batch.y, batch.prediction.outputs))
        if batch.sample_weight is not None:
            rewards = rewards * ops.cast(ops.reshape(batch.sample_weight, (-1,)), rewards.dtype)
        return local_mean(rewards), lambda: -rewards

    def _losses_of_images(self, batch: Batch, outputs: Tensor, divergences: Tensor | None) -> Tensor:
        """The task loss of each image, and the teacher's share of it."""
        losses = self.loss_weight * per_image_loss(self.loss, batch.y, outputs, batch.sample_weight)
        losses = ops.cast(losses, "float32")
        if self.distillation is None:
            return losses
        return losses + self.distillation.weight * (divergences - losses)


def columns_as_run(network: keras.Model, modules: list[ReSet]) -> np.ndarray:
    """The iterations of all modules, which are counted in the order of their routes, in the order in which they run."""
    places = {id(call): place for place, call in enumerate(calls_of(network))}
    ends = itertools.accumulate(module.num_iterations for module in modules)
    columns = [range(end - module.num_iterations, end) for module, end in zip(modules, ends, strict=True)]
    # By its calls: a module may be called twice.
    ordered = sorted(zip(module_calls(network), columns, strict=True), key=lambda pair: places[id(pair[0])])
    return np.concatenate([own for _, own in ordered])


def _divergences(divergence: Callable, batch: Batch, outputs: Tensor) -> Tensor:
    # The outputs also in place of labels, at which a teacher does not look: there may be none.
    return per_image_loss(divergence, outputs, outputs, batch.sample_weight)


def _share(term: Tensor, loss: Tensor) -> Tensor:
    """This replica's share of a term, in the loss's type."""
    return ops.cast(term / num_replicas(), loss.dtype)
