"""The forms in which a frozen module runs its units: a class for each, whose one method computes an iteration."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from reset_keras.inference.frozen.frozen_pool import constant
from reset_keras.layers.allowed import Allowed
from reset_keras.layers.unit_pool import weighted

Tensor = Any


@dataclasses.dataclass(frozen=True)
class Form:
    """What all forms know.

    Args:
        pool: The units, a `FrozenPool`.
        activation: Function that follows the addition.
        threshold: Float; units whose score is not above it in size are left out.
        allowed: What each iteration may choose.
    """

    pool: Any
    activation: Callable[[Tensor], Tensor]
    threshold: float
    allowed: Allowed
    name: ClassVar[str]

    def step(self, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
        """The next features, `activation(x + sum_i scores_i F_i(x))`, of the shape of `x`."""
        raise NotImplementedError


class Dense(Form):
    """All units, weighted, in few operations."""

    name = "dense"

    def step(self, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
        if self.threshold:
            scores = ops.where(ops.abs(scores) > self.threshold, scores, 0.0)
        units = self.allowed.units(iteration)
        return self.activation(x + self.pool.dense(x, scores, iteration, units)) if units else self.activation(x)


class Groups(Form):
    """Each image through the one unit that was chosen for it, on TensorFlow.

    Where all images take the same unit nothing is moved; otherwise they are sorted by unit, and back.
    """

    name = "sparse"

    def step(self, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
        import tensorflow as tf

        num_units = self.pool.num_units
        units = chosen(logits)
        first, last = tf.reduce_min(units), tf.reduce_max(units)  # of no image they differ
        branches = [functools.partial(self._run, unit, x, iteration) for unit in range(num_units + 1)]
        branches.append(functools.partial(self._in_groups, x, units, iteration))
        outputs = tf.switch_case(tf.where(first == last, first, num_units + 1), branches)
        return tf.ensure_shape(outputs, x.shape)

    def _run(self, unit: int, x: Tensor, iteration: int) -> Tensor:
        """The next features of images that take one unit."""
        if unit < self.pool.num_units:
            return self.activation(x + self.pool.run_unit(unit, x, iteration))
        is_rectified = iteration > 0 and self.activation is keras.activations.relu  # by the iteration before
        return x if is_rectified else self.activation(x)

    def _in_groups(self, x: Tensor, units: Tensor, iteration: int) -> Tensor:
        import tensorflow as tf

        groups = tf.dynamic_partition(tf.range(tf.shape(x)[0]), units, self.pool.num_units + 1)
        parts = [self._run(unit, tf.gather(x, group), iteration) for unit, group in enumerate(groups)]
        return tf.dynamic_stitch(groups, parts)


class ScoredGroups(Form):
    """Each unit for the images that have a score for it above the threshold, on TensorFlow."""

    name = "sparse"

    def step(self, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
        import tensorflow as tf

        total = tf.zeros_like(x)
        for index in self.allowed.units(iteration):
            rows = tf.where(tf.abs(scores[:, index]) > self.threshold)
            weights = tf.reshape(tf.gather_nd(scores[:, index], rows), [-1] + [1] * (len(x.shape) - 1))
            part = self.pool.run_unit(index, tf.gather_nd(x, rows), iteration) * tf.cast(weights, x.dtype)
            total = tf.tensor_scatter_nd_add(total, rows, part)
        return self.activation(x + tf.ensure_shape(total, x.shape))


class Branch(Form):
    """One image through the unit that was chosen for it, whose kernels are looked up; residual units only."""

    name = "branch"

    def step(self, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
        index = chosen(logits)[0]
        return ops.cond(
            index < self.pool.num_units,
            lambda: self.activation(x + self.pool.indexed(x, index, iteration)),
            lambda: self.activation(x),
        )


class ChosenBranches(Form):
    """One image through the unit that was chosen for it, whose branch is found by bisection; any units."""

    name = "branches"

    def step(self, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
        index = chosen(logits)[0]

        def between(low: int, high: int) -> Tensor:
            if high - low > 1:
                middle = (low + high) // 2
                return ops.cond(index < middle, lambda: between(low, middle), lambda: between(middle, high))
            return self.activation(x + self.pool.run_unit(low, x, iteration) if low < self.pool.num_units else x)

        return between(0, self.pool.num_units + 1)


class ScoredBranches(Form):
    """One image, with a branch around each unit."""

    name = "branches"

    def step(self, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
        total = ops.zeros_like(x)
        for index in self.allowed.units(iteration):
            score = ops.cast(scores[0, index], x.dtype)
            total = ops.cond(
                ops.abs(scores[0, index]) > self.threshold,
                lambda total=total, i=index, s=score: total + self.pool.run_unit(i, x, iteration) * s,
                lambda total=total: total,
            )
        return self.activation(x + total)


class InOrder(Form):
    """Unit k in iteration k, computed for all images and left out of those that skip it."""

    name = "dense"

    def step(self, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
        return self.activation(x + weighted(self.pool.run_unit(iteration, x, iteration), scores, iteration))


class InOrderGroups(Form):
    """Unit k in iteration k for the images that do not skip it, on TensorFlow."""

    name = "sparse"

    def step(self, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
        import tensorflow as tf

        rows = tf.where(scores[:, iteration] > 0)
        count = tf.shape(rows)[0]

        def run(part: Tensor) -> Tensor:
            return self.activation(part + self.pool.run_unit(iteration, part, iteration))

        def some() -> Tensor:
            return tf.tensor_scatter_nd_update(self.activation(x), rows, run(tf.gather_nd(x, rows)))

        def none() -> Tensor:
            return self.activation(x)

        # Most often all images go on, or, where a budget ends, none: then nothing is moved.
        outputs = tf.case([(count == tf.shape(x)[0], lambda: run(x)), (count == 0, none)], default=some)
        return tf.ensure_shape(outputs, x.shape)


class InOrderBranch(Form):
    """One image through unit k in iteration k, unless it skips it."""

    name = "branch"

    def step(self, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
        return ops.cond(
            scores[0, iteration] > 0,
            lambda: self.activation(x + self.pool.run_unit(iteration, x, iteration)),
            lambda: self.activation(x),
        )


@dataclasses.dataclass(frozen=True)
class OneRoute(Form):
    """The unit of a route that is the same for all images."""

    name = "static"
    route: Sequence[int] = ()

    def step(self, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
        unit = self.route[iteration]
        return self.activation(x + self.pool.run_unit(unit, x, iteration) if unit < self.pool.num_units else x)


class Kernel(Form):
    """Each image through the one unit that was chosen for it, which a GPU kernel looks up, on JAX; residual units."""

    name = "kernel"

    def step(self, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
        fused = self.activation is keras.activations.relu
        outputs = self._add_unit(x, logits, iteration, fused)
        return outputs if fused else self.activation(outputs)

    def _add_unit(self, x: Tensor, logits: Tensor, iteration: int, activation: bool) -> Tensor:
        """`x + F(x)` of the chosen units, with a ReLU or without."""
        from reset_keras.inference.gpu.routed_units import routed_units

        weights = (constant(array[iteration], self.pool.dtype) for array in self.pool.folded)
        return routed_units(x, chosen(logits), *weights, activation=activation)


class ScoredKernel(Kernel):
    """The same with the chosen unit weighted by its score, the largest."""

    def step(self, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
        score = ops.max(scores, axis=-1)[:, None, None, None]
        weighted = score * self._add_unit(x, logits, iteration, activation=False) + (1.0 - score) * x
        return self.activation(ops.cast(weighted, x.dtype))


def chosen(logits: Tensor) -> Tensor:
    """The unit with the largest logit, int32, of shape `(batch,)`."""
    return ops.cast(ops.top_k(logits, 1)[1][:, 0], "int32")
