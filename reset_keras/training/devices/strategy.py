import os
from typing import Any

import keras

STRATEGIES = ("auto", "none", "mirrored", "multihost")


def get_strategy(name: str) -> Any:
    """The strategy of a run, by which several devices train one network: an object with a `scope()`.

    Args:
        name: `"none"`, one device; `"mirrored"`, a replica on each device of this machine; `"auto"`, mirrored where
            there are two GPUs or more: `tf.distribute` strategies. `"multihost"`: a `keras.distribution.DataParallel`
            over the devices of all processes, which on the JAX backend may be on several machines. Every one of them
            must call this, before anything is computed.

    Raises:
        ValueError: the name is unknown, Keras has another backend, or the other processes are not named.

    Examples:
        >>> with get_strategy("none").scope():
        ...     model = ResNet((1,), num_classes=2, input_shape=(8, 8, 1), width=4)
    """
    import tensorflow as tf

    if name not in STRATEGIES:
        raise ValueError(f"`strategy` must be one of {STRATEGIES}. Received: {name!r}")
    backend = keras.backend.backend()
    if name == "multihost":
        if backend != "jax":
            raise ValueError(f"strategy 'multihost' needs KERAS_BACKEND=jax; received KERAS_BACKEND={backend}")
        return _over_all_processes()
    if backend != "tensorflow":
        raise ValueError(
            f"strategy {name!r} needs TensorFlow; received KERAS_BACKEND={backend}: unset it, or on JAX take strategy "
            "'multihost'"
        )
    # Logical devices: a physical one may have been split into several, as the tests of replicas do.
    gpus = tf.config.list_logical_devices("GPU")
    if name == "none" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def check_batch_size(batch_size: int, strategy: Any) -> None:
    """Raises `ValueError` unless a batch can be dealt out evenly to the devices of a strategy."""
    is_multihost = isinstance(strategy, keras.distribution.DataParallel)
    devices = strategy.num_model_replicas if is_multihost else strategy.num_replicas_in_sync
    if batch_size % devices:
        raise ValueError(
            f"the batch size must be a multiple of the number of devices, {devices}. Received: {batch_size} (recipes: "
            "--batch-size)"
        )


def _over_all_processes() -> Any:
    import tensorflow as tf

    try:
        keras.distribution.initialize()
    except ValueError as error:
        given = {name: value for name, value in os.environ.items() if name.startswith("KERAS_DISTRIBUTION_")}
        raise ValueError(
            f"strategy 'multihost' cannot find the other processes ({error}): set KERAS_DISTRIBUTION_JOB_ADDRESSES "
            "(host:port of process 0), KERAS_DISTRIBUTION_NUM_PROCESSES and KERAS_DISTRIBUTION_PROCESS_ID, or start "
            f"them with Slurm's srun. Received: {given}"
        ) from error
    tf.config.set_visible_devices([], "GPU")  # TensorFlow only reads the data, but would take all of the memory
    return keras.distribution.DataParallel()
