"""A frozen module with a `HaltingController`, on TensorFlow: what has halted is neither computed nor moved again."""

import functools
from collections.abc import Callable
from typing import Any

from keras import ops

from reset_keras.inference.frozen.forms import next_features
from reset_keras.layers.reset import SEEN

Tensor = Any


def run_together(module: Any, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """A single image, or a batch whose images all halt at the same depth: each iteration is inside the one before."""
    controller, count = module.controller, module.num_iterations

    def from_iteration(k: int, x: Tensor) -> tuple[Tensor, ...]:
        """The module's features, the units that ran, and what the head sees in each iteration that is left."""
        if k == count:
            return x, ops.convert_to_tensor(count, "float32")
        features = controller.seen_features(x, k == 0)
        halts = controller.is_too_deep(k) if module.is_never_sure else controller.halts(features, k)[0]

        def stop() -> tuple[Tensor, ...]:
            # Not `x` itself: of an image that runs no unit the activation is still to come.
            ended = next_features(module, module.pool.num_units, x, k)
            return ended, ops.convert_to_tensor(k, "float32"), *[features] * (count - k)

        def go_on() -> tuple[Tensor, ...]:
            ended, depth, *seen = from_iteration(k + 1, next_features(module, k, x, k))
            return ended, depth, features, *seen

        return ops.cond(halts, stop, go_on)

    x, depth, *seen = from_iteration(0, inputs)
    return x, _routes(module, ops.broadcast_to(depth, ops.shape(x)[:1]), seen)


def run_each(module: Any, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """A batch whose images halt one by one, and then stay where they are until all have."""
    # TensorFlow is imported where it is used: this module loads on JAX too.
    import tensorflow as tf

    controller, size = module.controller, tf.shape(inputs)[0]
    x, places = inputs, tf.range(size)
    ended: list[Tensor] = []
    ended_places: list[Tensor] = []
    seen: list[Tensor] = []
    seen_at_end: list[Tensor] = []
    for k in range(module.num_iterations):
        features = controller.seen_features(x, k == 0)
        seen.append(tf.dynamic_stitch([*ended_places, places], [*seen_at_end, features]))
        halts = tf.cast(controller.halts(features, k), tf.int32)
        going, stopping = tf.dynamic_partition(tf.range(tf.size(places)), halts, 2)
        ended_places.append(tf.gather(places, stopping))
        seen_at_end.append(tf.gather(features, stopping))
        part = functools.partial(_parted, x, stopping, going)
        stopped, x = _if_any(stopping, part, lambda x=x: (x[:0], x))
        ended.append(next_features(module, module.pool.num_units, stopped, k))
        places = tf.gather(places, going)
        x = _if_any(places, lambda x=x, k=k: next_features(module, k, x, k), lambda x=x: x)
    stopped_before = tf.concat(ended_places, axis=0)
    parts = [*ended_places, places]
    x = _if_any(stopped_before, lambda: tf.dynamic_stitch(parts, [*ended, x]), lambda: x)
    depths = [tf.fill(tf.shape(part), float(k)) for k, part in enumerate(parts)]
    return tf.ensure_shape(x, inputs.shape), _routes(module, tf.dynamic_stitch(parts, depths), seen)


def _parted(x: Tensor, *groups: Tensor) -> tuple[Tensor, ...]:
    import tensorflow as tf

    return tuple(tf.gather(x, group) for group in groups)


def _if_any(images: Tensor, then: Callable, otherwise: Callable) -> Any:
    """Nothing is copied or computed where there are no such images."""
    import tensorflow as tf

    return tf.cond(tf.size(images) > 0, then, otherwise)


def _routes(module: Any, depths: Tensor, seen: list[Tensor]) -> dict[str, Tensor]:
    """What the module returns for images of these depths: the compiler leaves it out where it is not asked for."""
    logits = []
    for k in range(module.num_iterations):
        chosen = module.controller.chosen(ops.cast(depths <= k, "float32"), k)
        logits.append(module.allowed.masked(chosen, k))
    scores = [module.scorer(of_iteration, training=False) for of_iteration in logits]
    by_name = {"logits": logits, "scores": scores, SEEN: seen}
    return {name: ops.stack(parts, axis=1) for name, parts in by_name.items()}
