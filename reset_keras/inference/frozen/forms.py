"""The forms in which a frozen module runs its units: a function for each, which computes an iteration.

They take the module, its features, the iteration's logits and scores, and its number, and return the next features,
`activation(x + sum_i scores_i F_i(x))`.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from reset_keras.inference.frozen.frozen_pool import constant

Tensor = Any


def dense(module: Any, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
    """All units, weighted, in few operations."""
    if module.threshold:
        scores = ops.where(ops.abs(scores) > module.threshold, scores, 0.0)
    units = module.allowed.units(iteration)
    return module.activation(x + module.pool.dense(x, scores, iteration, units) if units else x)


def chosen_groups(module: Any, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
    """Each image through the one unit that was chosen for it, on TensorFlow.

    Where all images take the same unit nothing is moved; otherwise they are sorted by unit, and back.
    """
    # TensorFlow is imported where it is used: this module loads on JAX too.
    import tensorflow as tf

    choices, places = module.choices(iteration), _places(module, scores, iteration)
    # Of an empty batch these are the largest and the smallest integer, so it goes to the groups.
    first, last = tf.reduce_min(places), tf.reduce_max(places)
    branches = [functools.partial(next_features, module, unit, x, iteration) for unit in choices]
    branches.append(functools.partial(_in_groups, module, x, places, iteration))
    outputs = tf.switch_case(tf.where(first == last, first, len(choices)), branches)
    return tf.ensure_shape(outputs, x.shape)


def _in_groups(module: Any, x: Tensor, places: Tensor, iteration: int) -> Tensor:
    import tensorflow as tf

    choices = module.choices(iteration)
    groups = tf.dynamic_partition(tf.range(tf.shape(x)[0]), places, len(choices))
    parts = [
        next_features(module, unit, tf.gather(x, rows), iteration) for unit, rows in zip(choices, groups, strict=True)
    ]
    return tf.dynamic_stitch(groups, parts)


def scored_groups(module: Any, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
    """Each unit for the images that have a score for it above the threshold, on TensorFlow."""
    import tensorflow as tf

    total = tf.zeros_like(x)
    for index in module.allowed.units(iteration):
        rows = tf.where(tf.abs(scores[:, index]) > module.threshold)
        weights = tf.reshape(tf.gather_nd(scores[:, index], rows), [-1] + [1] * (len(x.shape) - 1))
        part = module.pool.run_unit(index, tf.gather_nd(x, rows), iteration) * tf.cast(weights, x.dtype)
        # Added, not stitched: an image may have several units.
        total = tf.tensor_scatter_nd_add(total, rows, part)
    return module.activation(x + tf.ensure_shape(total, x.shape))


def chosen_kernels(module: Any, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
    """One image through the unit that was chosen for it, whose kernels are looked up; residual units only."""
    index = _largest(logits)[0]
    return ops.cond(
        index < module.pool.num_units,
        lambda: module.activation(x + module.pool.indexed(x, index, iteration)),
        lambda: next_features(module, module.pool.num_units, x, iteration),
    )


def chosen_branch(module: Any, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
    """One image through the unit that was chosen for it, found by bisection, or all through the only choice."""
    choices = module.choices(iteration)
    if len(choices) == 1:
        return next_features(module, choices[0], x, iteration)
    place = _places(module, scores, iteration)[0]

    # LiteRT's converter takes branches, but no switch.
    def between(low: int, high: int) -> Tensor:
        if high - low == 1:
            return next_features(module, choices[low], x, iteration)
        middle = (low + high) // 2
        return ops.cond(place < middle, lambda: between(low, middle), lambda: between(middle, high))

    return between(0, len(choices))


def scored_branches(module: Any, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
    """One image, with a branch around each unit."""
    total = ops.zeros_like(x)
    for index in module.allowed.units(iteration):
        score = ops.cast(scores[0, index], x.dtype)
        total = ops.cond(
            ops.abs(scores[0, index]) > module.threshold,
            lambda total=total, i=index, s=score: total + module.pool.run_unit(i, x, iteration) * s,
            lambda total=total: total,
        )
    return module.activation(x + total)


def gpu_kernel(module: Any, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
    """Each image through its one unit, which a GPU kernel looks up, weighted by its score; residual units on JAX."""
    # That module needs JAX, which TensorFlow users may not have.
    from reset_keras.inference.gpu.routed_units import routed_units

    weights = (constant(array[iteration], module.pool.dtype) for array in module.pool.folded)
    fused = module.one_hot and module.activation is keras.activations.relu
    outputs = routed_units(x, _largest(logits), *weights, activation=fused)
    if fused:
        return outputs
    if not module.one_hot:
        # x + score * F(x), from the x + F(x) that the kernel returns.
        score = ops.max(scores, axis=-1)[:, None, None, None]
        outputs = ops.cast(score * outputs + (1.0 - score) * x, x.dtype)
    return module.activation(outputs)


Form = Callable[[Any, Tensor, Tensor, Tensor, int], Tensor]
FORMS_OF_ONE_UNIT: dict[str, Form] = {
    "static": chosen_branch,
    "dense": dense,
    "sparse": chosen_groups,
    "branch": chosen_kernels,
    "branches": chosen_branch,
    "kernel": gpu_kernel,
}
FORMS_OF_SCORES = FORMS_OF_ONE_UNIT | {"sparse": scored_groups, "branches": scored_branches}
"""By name, for modules whose images run the one unit that was chosen, and for those whose units are weighted."""


def next_features(module: Any, unit: int, x: Tensor, iteration: int) -> Tensor:
    """The next features of images that take one unit, or the zero unit."""
    if unit < module.pool.num_units:
        return module.activation(x + module.pool.run_unit(unit, x, iteration))
    is_rectified = iteration > 0 and module.activation is keras.activations.relu  # by the iteration before
    return x if is_rectified else module.activation(x)


def _places(module: Any, scores: Tensor, iteration: int) -> Tensor:
    """The place of each image's unit, whose score is 1, among the choices of an iteration: int32, `(batch,)`."""
    places = np.cumsum(np.isin(np.arange(module.num_scores), module.choices(iteration)), dtype="float32") - 1.0
    return ops.cast(ops.sum(ops.where(scores > 0.5, places, 0.0), axis=-1), "int32")  # a place also where it is NaN


def _largest(logits: Tensor) -> Tensor:
    """The index of the largest logit, int32, of shape `(batch,)`."""
    return ops.cast(ops.top_k(logits, 1)[1][:, 0], "int32")
