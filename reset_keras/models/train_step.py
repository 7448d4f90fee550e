"""The TensorFlow training step of a `RoutedModel`: what Keras's own step does not do."""

from typing import Any

import keras
import tensorflow as tf

Tensor = Any


class TensorFlowTrainStep:
    """Batch replication, and a gradient-norm clip over all replicas, around an ordinary training step.

    The loss, all its terms and their logs are `compute_loss`'s. Keras's optimizers clip each replica's gradient before
    the replicas' gradients are summed; here the norm is that of the sum, so that two replicas train as one does.
    """

    gradient_clip_norm: float | None
    batch_replication: int

    def train_step(self: Any, data: Any) -> dict[str, Tensor]:
        x, y, sample_weight = (
            _replicated(part, self.batch_replication) for part in keras.utils.unpack_x_y_sample_weight(data)
        )
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred, sample_weight, training=True)
            scaled_loss = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        gradients = tape.gradient(scaled_loss, variables)
        if self.gradient_clip_norm is not None:
            gradients = _clip_across_replicas(gradients, self.gradient_clip_norm)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        self._track_loss(loss, batch=tf.shape(keras.tree.flatten(x)[0])[0])
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def _track_loss(self: Any, loss: Tensor, batch: Tensor) -> None:
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss * replicas, sample_weight=batch)


def _replicated(nest: Any, times: int) -> Any:
    """Every image `times` times in a row, in each tensor of the nest."""
    if nest is None or times == 1:
        return nest
    return keras.tree.map_structure(lambda tensor: tf.repeat(tensor, times, axis=0), nest)


def _clip_across_replicas(gradients: list[Tensor | None], clip_norm: float) -> list[Tensor | None]:
    """Gradients whose sum over the replicas has at most the norm `clip_norm`."""
    present = [gradient for gradient in gradients if gradient is not None]
    strategy, context = tf.distribute.get_strategy(), tf.distribute.get_replica_context()
    replicas = strategy.num_replicas_in_sync
    summed = context.all_reduce(tf.distribute.ReduceOp.SUM, present) if replicas > 1 else present
    clipped, _ = tf.clip_by_global_norm(summed, clip_norm)
    remaining = iter(clipped)
    return [None if gradient is None else next(remaining) / replicas for gradient in gradients]
