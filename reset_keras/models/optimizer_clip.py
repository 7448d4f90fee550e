"""The limit to the whole gradient's norm where the optimizer keeps it: on JAX, and where it adds up several batches."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras


def clips_by_itself(optimizer: Any) -> bool:
    """Whether the limit is the optimizer's, not the training step's.

    TensorFlow's step knows the gradients of all replicas, but not those of earlier batches, to which an optimizer with
    `gradient_accumulation_steps` adds them; Keras has no such optimizer for several replicas.
    """
    adds_up = (getattr(_that_clips(optimizer), "gradient_accumulation_steps", None) or 1) > 1
    return adds_up or keras.backend.backend() != "tensorflow"


def check_clip(optimizer: Any, norm: float | None) -> None:
    """Raises `ValueError` where an optimizer, or one of that name, clips in a way that Keras does not combine."""
    if norm is None:
        return
    optimizer = _that_clips(keras.optimizers.get(optimizer))
    clipnorm, clipvalue = (getattr(optimizer, name, None) for name in ("clipnorm", "clipvalue"))
    if clipnorm is not None or clipvalue is not None:
        raise ValueError(
            "`gradient_clip_norm` needs an optimizer without `clipnorm` and `clipvalue` here. Received: "
            f"gradient_clip_norm={norm}, clipnorm={clipnorm}, clipvalue={clipvalue}. Make the optimizer "
            "without them, or compile without `gradient_clip_norm`"
        )


def clip_in_optimizer(optimizer: Any, norm: float | None) -> None:
    """Limits the global gradient norm of an optimizer to `norm`, besides the limit that it was made with.

    Args:
        optimizer: A Keras optimizer that `check_clip` takes, or `None`.
        norm: Float above 0. With `None` only the limit that the optimizer was made with is left.
    """
    optimizer = _that_clips(optimizer)
    if optimizer is None:
        return
    # The optimizer's norm may be what an earlier `compile` set here; if it has been changed since, it is the user's.
    given, set_here = getattr(optimizer, "routed_clipnorms", (None, None))
    if optimizer.global_clipnorm != set_here:
        given = optimizer.global_clipnorm
    optimizer.global_clipnorm = min((limit for limit in (given, norm) if limit is not None), default=None)
    optimizer.routed_clipnorms = given, optimizer.global_clipnorm


@contextlib.contextmanager
def without_clip(optimizer: Any) -> Iterator[None]:
    """Inside, an optimizer has the norm that it was given: what a file should say."""
    optimizer = _that_clips(optimizer)
    if optimizer is None or not hasattr(optimizer, "routed_clipnorms"):
        yield
        return
    given, current = optimizer.routed_clipnorms[0], optimizer.global_clipnorm
    optimizer.global_clipnorm = given if current == optimizer.routed_clipnorms[1] else current
    try:
        yield
    finally:
        optimizer.global_clipnorm = current


def _that_clips(optimizer: Any) -> Any:
    """The optimizer that clips: of a `LossScaleOptimizer`, which does not, the one within."""
    return getattr(optimizer, "inner_optimizer", optimizer)
