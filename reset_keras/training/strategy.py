from typing import Any

STRATEGIES = ("auto", "none", "mirrored")


def get_strategy(name: str) -> Any:
    """The `tf.distribute` strategy of a run.

    Args:
        name: `"none"`, one device; `"mirrored"`, a replica on each device of this machine; `"auto"`, mirrored where
            there are two GPUs or more.

    Raises:
        ValueError: the name is unknown.
    """
    import tensorflow as tf

    if name not in STRATEGIES:
        raise ValueError(f"`strategy` must be one of {STRATEGIES}. Received: {name!r}")
    several_gpus = len(tf.config.list_logical_devices("GPU")) > 1
    if name == "none" or (name == "auto" and not several_gpus):
        return tf.distribute.get_strategy()
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return tf.distribute.MirroredStrategy([device.name for device in tf.config.list_logical_devices(kind)])
