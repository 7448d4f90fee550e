"""What layers, losses and trainings must know about distribution, as functions that are trivial elsewhere.

On JAX a mean over the batch is already global and noise already differs between devices, so only TensorFlow needs
the replica context. It is imported inside the functions: this module loads on every backend.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

Tensor = Any


def num_replicas() -> int:
    """Number of replicas that share the current step: 1 outside `tf.distribute`."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def has_gpu() -> bool:
    """Whether the backend sees a GPU."""
    return any(device.startswith(("gpu", "cuda")) for device in keras.distribution.list_devices())


def _replica_context() -> Any:
    """That of one of several replicas, in a step; else `None`."""
    if num_replicas() == 1:
        return None
    import tensorflow as tf

    return tf.distribute.get_replica_context()


def replica_id() -> Tensor | int:
    """Index of the current replica: 0 outside `tf.distribute`."""
    context = _replica_context()
    return 0 if context is None else context.replica_id_in_sync_group


def global_mean(x: Tensor) -> Tensor:
    """Mean over axis 0 of the **global** batch, differentiable through the all-reduce.

    Args:
        x: Tensor of shape `(batch, ...)`, this replica's part of the batch.

    Returns:
        Tensor of shape `(...)`, equal on all replicas.
    """
    context = _replica_context()
    if context is None:
        return ops.mean(x, axis=0)
    # Summed too, as the replicas' parts of the last batch may differ in size.
    count = ops.cast(ops.shape(x)[0], x.dtype)
    total, count = context.all_reduce("SUM", [ops.sum(x, axis=0), count])
    return total / count


def local_mean(x: Tensor) -> Tensor:
    """Mean over axis 0 of this replica's part of the batch; 0 where it has no image, as in a small last batch.

    Args:
        x: Tensor of shape `(batch, ...)`.

    Returns:
        Tensor of shape `(...)`.
    """
    if num_replicas() == 1:
        return ops.mean(x, axis=0)
    return ops.sum(x, axis=0) / ops.cast(ops.maximum(ops.shape(x)[0], 1), x.dtype)


class ReplicaSeedGenerator(keras.random.SeedGenerator):
    """A seed generator whose draws differ between replicas.

    A mirrored seed state is equal on all replicas, so that every replica would draw the same noise. Here the replica's
    index is added to the first half of the drawn seed; on one replica nothing changes.

    Args:
        seed: Integer or `None` (a random one).

    Examples:
        >>> generator = ReplicaSeedGenerator(7)
        >>> noise = keras.random.uniform((2, 3), seed=generator)
    """

    def next(self, ordered: bool = True) -> Tensor:
        seed = super().next(ordered=ordered)
        if num_replicas() == 1:
            return seed
        return seed + ops.stack([ops.cast(replica_id(), seed.dtype), ops.zeros((), seed.dtype)])


@contextlib.contextmanager
def undistributed() -> Iterator[None]:
    """Inside, each process of `keras.distribution` computes whole batches by itself, on weights that all share."""
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def replicas_of(model: Any) -> int:
    """Number of replicas that share the steps of a model: 1 outside `tf.distribute`."""
    if keras.backend.backend() != "tensorflow":
        return 1
    return int(model.distribute_strategy.num_replicas_in_sync)


def strategy_scope(model: Any) -> contextlib.AbstractContextManager:
    """The scope in which variables must be made that belong to the model's training."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    return model.distribute_strategy.scope()
