import functools
from collections.abc import Callable
from typing import Any

import keras

Tensor = Any


class Compiled:
    """A function of a batch, compiled for the backend.

    XLA is tried first where `xla` is set, and given up at the first call in which it lacks an operation.

    Args:
        run: Function of a tensor.
        shape: Shape of the tensor, with `None` where any size goes.
        dtype: Its type.
        xla: Boolean, whether XLA compiles on TensorFlow.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], shape: tuple, dtype: str, xla: bool) -> None:
        self.run, self.shape, self.dtype = run, shape, dtype
        self.xla = xla and keras.backend.backend() == "tensorflow"
        self._call = self._compile()

    def __call__(self, inputs: Tensor) -> Tensor:
        try:
            return self._call(inputs)
        except Exception as error:
            # TensorFlow has no class for it: it is an InvalidArgumentError, as for inputs that do not fit.
            if not self.xla or "unsupported operations" not in str(error):
                raise
        self.xla = False
        self._call = self._compile()
        return self._call(inputs)

    def _compile(self) -> Callable[[Tensor], Tensor]:
        if keras.backend.backend() == "jax":
            import jax

            # A new function each time: for the same one JAX reuses the program with the old weights as constants.
            return jax.jit(functools.partial(self.run))
        import tensorflow as tf

        # XLA compiles for each batch size anyway; knowing it, modules choose their form by it.
        signature = None if self.xla else [tf.TensorSpec(self.shape, self.dtype)]
        return tf.function(self.run, input_signature=signature, jit_compile=self.xla)
