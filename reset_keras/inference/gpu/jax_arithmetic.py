"""Controllers of a trained network, and the arithmetic that they share with it, as JAX functions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reset_keras.inference.frozen.folding import fold
from reset_keras.layers import CNNController, Controller, FixedController, RNNController

Array = Any
Step = Callable[[Array, Any, int], tuple[Array, Any]]


def controller_step(controller: Controller) -> Step:
    """A function of the features, the state (`None` at first) and the iteration; logits and next state."""
    if type(controller) is RNNController:
        return _rnn_controller(controller)
    if type(controller) is CNNController:
        return _cnn_controller(controller)
    if type(controller) is FixedController:
        rows = jnp.eye(controller.num_scores, dtype=jnp.float32)[np.array(controller.route)] * controller.logit
        return lambda x, state, iteration: (jnp.tile(rows[iteration], (x.shape[0], 1)), None)
    raise ValueError(
        "The controller must be an RNNController, a CNNController or a FixedController. "
        f"Received: a {type(controller).__name__}"
    )


def _rnn_controller(controller: RNNController) -> Step:
    kernel, recurrent, gates_bias = controller.cell.get_weights()
    joined = jnp.concatenate([kernel, recurrent])
    weights, bias = map(jnp.array, controller.dense.get_weights())

    def step(x: Array, state: Any, iteration: int) -> tuple[Array, Any]:
        inputs = pooled(x) if state is None else jnp.concatenate([pooled(x), state[0]], axis=-1)
        # The first state is zero: its rows of the product are left out.
        gates = product(inputs, joined[: inputs.shape[-1]]) + gates_bias
        input_gate, forget_gate, candidate, output_gate = jnp.split(gates, 4, axis=-1)
        cell = jax.nn.sigmoid(input_gate) * jnp.tanh(candidate)
        if state is not None:
            cell += jax.nn.sigmoid(forget_gate) * state[1]
        hidden = jax.nn.sigmoid(output_gate) * jnp.tanh(cell)
        return product(hidden, weights) + bias, (hidden, cell)

    return step


def _cnn_controller(controller: CNNController) -> Step:
    folded = (fold(controller.conv.kernel, controller.norm, k) for k in range(controller.num_iterations))
    convolutions = [cast("float32", *arrays) for arrays in folded]
    (weights,) = map(jnp.array, controller.dense.get_weights())

    def step(x: Array, state: Any, iteration: int) -> tuple[Array, Any]:
        kernel, bias = convolutions[iteration]
        hidden = jax.nn.relu(convolution(x.astype(jnp.float32), kernel, precision="highest") + bias)
        return product(pooled(hidden), weights), None

    return step


def convolution(x: Array, kernel: Array, strides: int = 1, precision: str | None = None) -> Array:
    """Convolution of images by a kernel `(size, size, in, out)`, zeros around the image."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (strides, strides), "SAME", dimension_numbers=layout, precision=precision
    )


def pooled(x: Array) -> Array:
    """Mean over the pixels, float32."""
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


def product(x: Array, weights: Array) -> Array:
    """Matrix product in full float32, also on a GPU: small differences decide routes, and this costs nothing."""
    return jnp.matmul(x, weights, precision="highest")


def cast(dtype: str, *arrays: np.ndarray) -> list[Array]:
    """Arrays on JAX's device, of a type."""
    return [jnp.array(array, dtype) for array in arrays]
