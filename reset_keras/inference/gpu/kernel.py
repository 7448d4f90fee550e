"""Whether a network can run by the GPU kernel for routed units, and a callable that does."""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

Tensor = Any


def jax_sees_a_gpu() -> bool:
    """Whether JAX is installed and has a GPU; it is imported to find out.

    Unless the environment says otherwise, JAX takes the GPU's memory as it needs it, since it may share it with
    TensorFlow.
    """
    if importlib.util.find_spec("jax") is None:
        return False
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    return bool(jax.default_backend() == "gpu")


def kernel_network(model: keras.Model) -> Callable[[Tensor], Tensor]:
    """A function of a batch of images, of any size, that returns a hard-routed network's outputs.

    It runs on JAX whatever backend trained the model, in bfloat16 for a model of mixed precision and in float32
    otherwise.

    Raises:
        ValueError: JAX sees no GPU, or the network cannot be run in this way (`jax_network`).
    """
    if not jax_sees_a_gpu():
        raise ValueError("execution='kernel' needs JAX with a GPU: pip install 'jax[cuda12]'. Received: no such device")
    from reset_keras.inference.gpu.jax_network import jax_network

    reduced = any(module.compute_dtype == "bfloat16" for module in getattr(model, "routed_modules", []))
    network = jax_network(model, "bfloat16" if reduced else "float32")

    def run(images: Tensor) -> Tensor:
        arrays = images if keras.backend.backend() == "jax" else np.asarray(images)
        return network(arrays)[0]

    return run
