"""The type that networks compute in."""

import pathlib

import keras

from reset_keras.distribution import has_gpu
from reset_keras.keras_internals import settings_kept

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
"""Keras dtype policies by the name of a precision."""
CPU_INFO = pathlib.Path("/proc/cpuinfo")
CPU_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}
AMPERE = 8.0
"""Compute capability of the first GPUs with instructions for bfloat16."""


def choose_precision(name: str) -> str:
    """The precision that a name stands for on this machine.

    With `"bfloat16"` computations of features and kernels are in bfloat16. Variables, the statistics of batch norms,
    controllers, scores, losses and the classifier stay float32.

    Args:
        name: `"float32"`, `"bfloat16"`, or `"auto"`: bfloat16 where the processor or the GPU has instructions for it,
            else float32, which is faster without them.

    Returns:
        `"float32"` or `"bfloat16"`.

    Raises:
        ValueError: the name is unknown, or it is bfloat16 and the backend cannot convolve in it here.

    Examples:
        >>> choose_precision("float32")
        'float32'
    """
    if name == "auto":
        name = "bfloat16" if _has_fast_bfloat16() else "float32"
    if name not in POLICIES:
        raise ValueError(f"`precision` must be 'auto' or one of {list(POLICIES)}. Received: {name!r}")
    if name == "bfloat16":
        _check_bfloat16()
    return name


def set_precision(precision: str) -> None:
    """Makes new layers compute in a precision, by Keras's global dtype policy.

    Args:
        precision: `"float32"` or `"bfloat16"`, as `choose_precision` returns it.

    Raises:
        ValueError: the precision is unknown, or `"auto"`.

    Examples:
        >>> set_precision("float32")
        >>> keras.config.dtype_policy().name
        'float32'
    """
    if precision not in POLICIES:
        resolve = ". Resolve 'auto' with `choose_precision('auto')` first" if precision == "auto" else ""
        raise ValueError(f"`precision` must be one of {list(POLICIES)}. Received: precision={precision!r}{resolve}")
    keras.config.set_dtype_policy(POLICIES[precision])


def forget_networks() -> None:
    """Clears Keras's state, so that names of layers start anew, and keeps what users have set.

    That is the precision of new layers, custom objects, a distribution, what is printed, and whether files may hold
    code.

    Examples:
        >>> forget_networks()
        >>> keras.layers.Dense(1).name
        'dense'
    """
    with settings_kept():
        keras.backend.clear_session()


def _has_fast_bfloat16() -> bool:
    """Whether the device that the backend computes on has instructions for bfloat16."""
    if has_gpu():
        return _compute_capability() >= AMPERE
    return bool(CPU_INSTRUCTIONS & cpu_instructions())


def cpu_instructions() -> set[str]:
    """Names of the processor's sets of instructions, as Linux has them; none elsewhere."""
    if not CPU_INFO.exists():
        return set()
    flags = next((line for line in CPU_INFO.read_text().splitlines() if line.startswith("flags")), "")
    return set(flags.split())


def _compute_capability() -> float:
    """That of the least able GPU."""
    if keras.backend.backend() == "jax":
        import jax

        return min(float(gpu.compute_capability) for gpu in jax.local_devices())
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = (tf.config.experimental.get_device_details(gpu) for gpu in gpus)
    return min(float("{}.{}".format(*detail.get("compute_capability", (0, 0)))) for detail in details)


def _check_bfloat16() -> None:
    images, kernel = keras.ops.ones((1, 8, 8, 16), "bfloat16"), keras.ops.ones((3, 3, 16, 16), "bfloat16")
    try:
        # The values are asked for because JAX computes later than it is called, and may fail only then.
        keras.ops.convert_to_numpy(keras.ops.conv(images, kernel, padding="same", data_format="channels_last"))
    except Exception as error:  # each backend has its own
        raise ValueError(
            f"precision bfloat16 is not available: {keras.backend.backend()} cannot convolve in it on this machine "
            f"({str(error).splitlines()[0]}); take float32"
        ) from error
