from typing import Any

from keras import ops

Tensor = Any
LEAST = -1e30
"""In place of the logarithm of 0: times a probability of 0 it is 0, where minus infinity is not a number."""


def log_policy(logits: Tensor) -> Tensor:
    """The logarithm of a policy, `softmax(logits)`: float32; a controller may forbid units by logits of `-inf`."""
    return ops.maximum(ops.log_softmax(ops.cast(logits, "float32"), axis=-1), LEAST)
