"""The TensorFlow training step of a `RoutedModel`: what Keras's own step does not do."""

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from reset_keras.distribution import num_replicas
from reset_keras.keras_internals import loss_of
from reset_keras.models.optimizer_clip import clips_by_itself
from reset_keras.models.policy_network import policy_layers
from reset_keras.models.routed_outputs import RoutedOutputs
from reset_keras.models.routes_in_steps import RoutesInSteps

Tensor = Any
GROUPS = ("controllers", "pools", "others")
"""Parts of a network whose gradients are logged."""
UNKNOWN_LABEL = (
    re.compile(r"Received a label value of (\S+) which is outside the valid range of (\S+ [^\s.]+)"),
    re.compile(r"indices\[\d+\] = (\S+) is not in (\S+ \S+)\s[^\n]*SparseSoftmaxCrossEntropyWithLogits"),
)
"""What TensorFlow says of a label that is no class, and what its deterministic operations do."""
UNKNOWN_LABEL_IN_GRADIENT = re.compile(r"segment_ids\[\d+\] = [^\n]*\s[^\n]*SparseSoftmaxCrossEntropyWithLogits")
"""What the gradient of the latter says, where it happens to be computed before the loss itself."""


class TensorFlowTrainStep(RoutesInSteps):
    """Batch replication, and norms and a clip of the gradient over all replicas, around an ordinary training step.

    The loss, all its terms and their logs are `compute_loss`'s. Keras's optimizers clip each replica's gradient before
    the replicas' gradients are summed; here the norm is that of the sum, so that two replicas train as one does.
    """

    gradient_norms: tuple[str, ...] = tuple(f"gradient_norm_{group}" for group in GROUPS)
    gradient_clip_norm: float | None
    batch_replication: int
    network: keras.Model
    routed_loss: Any

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        self._make_state(x, y)
        with _labels_in_words():
            return super().fit(x, y, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with _labels_in_words(), self._evaluation():
            return super().evaluate(*args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        with _labels_in_words(), self._evaluation():
            return super().test_on_batch(*args, **kwargs)

    @contextlib.contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Inside, the model's metrics are those of an evaluation.

        A step that left some of `metrics` out would have Keras report the mean of what the replicas have each, in which
        images of a small part of the last batch count for more.
        """
        self.evaluates = True
        try:
            yield
        finally:
            self.evaluates = False

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        self._make_state(x, y)
        with _labels_in_words():
            return super().train_on_batch(x, y, *args, **kwargs)

    def _make_state(self, x: Any, y: Any) -> None:
        """Makes the variables of optimizer and metrics: made while the step is traced, they would have it traced twice.

        Under a strategy Keras does so itself.
        """
        labels = _labels_like(x, y) if self.compiled and _has_known_sizes(self.output) else None
        if labels is None or self.train_function is not None or self.distribute_strategy.num_replicas_in_sync > 1:
            return
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        x, prediction = (keras.tree.map_structure(_zeros_like, part) for part in (self.input, self.network.output))
        # Variables that are made in such a scope stay, what is assigned in it does not. A metric may fail for one image
        # of zeros: then all is made in the first step.
        with contextlib.suppress(Exception), keras.StatelessScope():
            self.compute_metrics(x, labels, RoutedOutputs.of_network(prediction))

    def train_step(self, data: Any) -> dict[str, Tensor]:
        x, y, sample_weight = (
            _replicated(part, self.batch_replication) for part in keras.utils.unpack_x_y_sample_weight(data)
        )
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True, return_routes=True)
            loss = loss_of(self, x, y, y_pred, sample_weight, training=True)
            scaled_loss = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        gradients = _summed_over_replicas(tape.gradient(scaled_loss, variables))
        # The factor by which gradients are still scaled: 1, or that of a LossScaleOptimizer, which unscales them later.
        scale = self.optimizer.scale_loss(tf.ones(()))
        self._track_gradients(gradients, variables, scale)
        if self.gradient_clip_norm is not None and not clips_by_itself(self.optimizer):
            limit = self.gradient_clip_norm * scale
            # The norm is given, as TensorFlow's own fails on gradients of several types.
            gradients, _ = tf.clip_by_global_norm(gradients, limit, use_norm=_global_norm(gradients))
        if variables:
            self.optimizer.apply_gradients(zip(_replica_share(gradients), variables, strict=True))
        else:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
        num_images = tf.shape(next(part for part in keras.tree.flatten(x) if part is not None))[0]
        # Keras's tracker of the loss is found by its name: Keras has no public attribute for it.
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss * num_replicas(), sample_weight=num_images)
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def _track_gradients(self, gradients: list[Tensor | None], variables: list[Any], scale: Tensor) -> None:
        """Logs the norm of each group's gradient, which the optimizer may have scaled."""
        modules = self.routed_modules
        deciding = [part for m in modules for part in (m.controller, m.halting) if part is not None]
        deciding += policy_layers(self, modules)
        group_of = {id(v): "controllers" for part in deciding for v in part.variables}
        group_of |= {id(v): "pools" for module in modules for v in module.pool.variables}
        groups: dict[str, list[Tensor | None]] = {group: [] for group in GROUPS}
        for gradient, variable in zip(gradients, variables, strict=True):
            groups[group_of.get(id(variable), "others")].append(gradient)
        norms = [_global_norm(group) / scale for group in groups.values()]
        # Of one that scales the loss: it takes no step where a gradient overflows, which is no fault.
        counts = tf.reduce_all(tf.math.is_finite(norms)) if hasattr(self.optimizer, "inner_optimizer") else True
        for name, norm in zip(self.gradient_norms, norms, strict=True):
            weight = tf.cast(counts, "float32")
            self.routed_loss.trackers[name].update_state(tf.where(counts, norm, 0.0), sample_weight=weight)

    def test_step(self, data: Any) -> dict[str, Tensor]:
        with self._routes():
            return super().test_step(data)


@contextlib.contextmanager
def _labels_in_words() -> Iterator[None]:
    """Inside, a label that is no class, in data that could not be looked at before, is named in one sentence."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = next(filter(None, (form.search(error.message) for form in UNKNOWN_LABEL)), None)
        if found is None and not UNKNOWN_LABEL_IN_GRADIENT.search(error.message):
            raise
        # The gradient's message has neither the label nor the number of classes.
        label, classes = found.groups() if found else ("a larger one", "the range of the outputs")
        raise ValueError(f"Labels must be classes in {classes}. Received: {label} in the data") from None


def _labels_like(x: Any, y: Any) -> Any:
    """Zeros of the shapes and types of one image's labels, or `None` where what `fit` is given does not tell them."""
    if isinstance(x, tf.data.Dataset):
        y = keras.utils.unpack_x_y_sample_weight(x.element_spec)[1]
    parts = keras.tree.flatten(y)
    known = all(isinstance(part, np.ndarray | tf.Tensor | tf.TensorSpec) for part in parts) and _has_known_sizes(parts)
    return keras.tree.map_structure(_zeros_like, y) if parts and known else None


def _has_known_sizes(batches: Any) -> bool:
    """Whether all axes but the first are known: metrics choose by them what they compute."""
    shapes = [tf.TensorShape(batch.shape) for batch in keras.tree.flatten(batches)]
    return all(shape.rank and shape[1:].is_fully_defined() for shape in shapes)


def _zeros_like(part: Any) -> Tensor:
    """One image's zeros, of the type and all but the first axis of a batch; sizes that are not known are 1."""
    return tf.zeros((1, *(size or 1 for size in tuple(part.shape)[1:])), part.dtype)


def _replicated(nest: Any, times: int) -> Any:
    if times == 1:
        return nest
    return keras.tree.map_structure(lambda part: None if part is None else tf.repeat(part, times, axis=0), nest)


def _global_norm(gradients: list[Tensor | None]) -> Tensor:
    """The norm of gradients whose types may differ, float32; 0 where there are none."""
    dense = [
        tf.cast(tf.convert_to_tensor(gradient), tf.float32)  # an embedding's may hold a row twice
        for gradient in gradients
        if gradient is not None
    ]
    return tf.linalg.global_norm(dense) if dense else tf.zeros(())


def _summed_over_replicas(gradients: list[Tensor | None]) -> list[Tensor | None]:
    """The gradient of the global batch, on every replica."""
    if num_replicas() == 1:
        return gradients
    dense = [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]  # an embedding's is not
    summed = iter(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, dense))
    return [None if gradient is None else next(summed) for gradient in gradients]


def _replica_share(gradients: list[Tensor | None]) -> list[Tensor | None]:
    """Gradients that the optimizer, which sums them over the replicas, sums up to `gradients`."""
    if num_replicas() == 1:
        return gradients
    return [None if gradient is None else gradient / num_replicas() for gradient in gradients]
