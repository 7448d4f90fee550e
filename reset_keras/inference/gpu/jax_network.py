"""A trained ReSet network that routes each image through one unit at a time, as one compiled JAX function."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from reset_keras.inference.frozen.folding import fold, fold_pool, fold_unit
from reset_keras.inference.frozen.frozen_reset import is_plain
from reset_keras.inference.gpu.jax_arithmetic import cast, controller_step, convolution, pooled, product
from reset_keras.inference.gpu.routed_units import routed_units
from reset_keras.layers import GumbelSTScorer, HardScorer, PadShortcut, ReSet, Scorer, TopKScorer
from reset_keras.models import ReSetNet
from reset_keras.models.backbone import block_name

Array = Any


def jax_network(
    model: ReSetNet, dtype: str = "bfloat16", interpret: bool = False
) -> Callable[[Array], tuple[Array, Array]]:
    """A function of the images that runs a hard-routed network with its batch norms folded in.

    Units run by `routed_units`: an image pays only for those on its route, at any batch size. The weights are copied
    out of the Keras model, which may live on any backend; later training does not change the function. Controllers and
    the classifier compute in float32.

    Args:
        model: A trained `ReSetNet` whose scorers choose one unit: `"gumbel_st"`, `"hard"`, or `"top_k"` with k = 1.
        dtype: `"float32"` or `"bfloat16"`, of the features and kernels. Default `"bfloat16"`.
        interpret: Boolean, whether the kernel runs without a GPU, slowly, to test it. Default `False`.

    Returns:
        A function compiled by `jax.jit`. It takes an array of shape `(batch, height, width, channels)` and returns a
        pair: logits of shape `(batch, num_classes)`, float32, and choices of shape `(batch, iterations)`, int32: the
        unit of every iteration of every module in turn; a module's `num_units` is its zero unit.

    Raises:
        ValueError: the model is no `ReSetNet`, has a scorer that mixes units, or a controller or activation that has no
            JAX form here; or `dtype` is unknown.
    """
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"`dtype` must be 'float32' or 'bfloat16'. Received: dtype={dtype!r}")
    if not isinstance(model, ReSetNet):
        raise ValueError(f"`model` must be a ReSetNet. Received: a {type(model).__name__}")
    stem = _stem(model, dtype)
    routed = iter(model.routed_modules)
    stages = [
        (_first_block(model, stage, dtype), _module(next(routed), dtype, interpret) if num_units else None)
        for stage, num_units in enumerate(model.units)
    ]
    weights, bias = map(jnp.array, model.get_layer("classifier").get_weights())

    def run(images: Array) -> tuple[Array, Array]:
        x = stem(jnp.asarray(images, dtype))
        choices: list[Array] = []
        for block, module in stages:
            x = block(x)
            if module is not None:
                x, chosen = module(x)
                choices += chosen
        return product(pooled(x), weights) + bias, jnp.stack(choices, axis=1)

    return jax.jit(run)


def _stem(model: ReSetNet, dtype: str) -> Callable[[Array], Array]:
    kernel, bias = cast(dtype, *fold(model.get_layer("stem_conv").kernel, model.get_layer("stem_norm")))

    def run(x: Array) -> Array:
        x = jax.nn.relu(convolution(x, kernel) + bias)
        if not model.backbone.stem_pooling:
            return x
        return jax.lax.reduce_window(x, np.array(-np.inf, x.dtype), jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")

    return run


def _first_block(model: ReSetNet, stage: int, dtype: str) -> Callable[[Array], Array]:
    """The fixed block of a stage, `relu(shortcut(x) + F(x))`."""
    name = block_name(stage, 0)
    unit = model.get_layer(name)
    kernel1, bias1, kernel2, bias2 = cast(dtype, *(array[0, 0] for array in fold_unit(unit)))
    shortcut = _shortcut(model, f"{name}_shortcut", dtype)

    def run(x: Array) -> Array:
        branch = jax.nn.relu(convolution(x, kernel1, unit.strides) + bias1)
        return jax.nn.relu(shortcut(x) + convolution(branch, kernel2) + bias2)

    return run


def _shortcut(model: ReSetNet, name: str, dtype: str) -> Callable[[Array], Array]:
    if name not in {layer.name for layer in model.network.layers}:
        return lambda x: x
    layer = model.get_layer(name)
    if isinstance(layer, PadShortcut):
        step, filters = layer.strides, layer.filters
        return lambda x: jnp.pad(x[:, ::step, ::step], [(0, 0)] * 3 + [(0, filters - x.shape[-1])])
    kernel, bias = cast(dtype, *fold(layer.kernel, model.get_layer(f"{name}_norm")))
    return lambda x: convolution(x, kernel, layer.strides[0]) + bias


def _module(module: ReSet, dtype: str, interpret: bool) -> Callable[[Array], tuple[Array, list[Array]]]:
    """Algorithm 1 with one unit per image: a function that returns the features and the choice of each iteration."""
    control, score = controller_step(module.controller), _score(module.scorer)
    activation = _activation(module)
    weights = _by_iteration(dtype, *fold_pool(module.pool))

    def add_unit(x: Array, choice: Array, iteration: int, activation: bool) -> Array:
        return routed_units(x, choice, *weights[iteration], activation=activation, interpret=interpret)

    def run(x: Array) -> tuple[Array, list[Array]]:
        state, choices = None, []
        for iteration in range(module.num_iterations):
            logits, state = control(x, state, iteration)
            choices.append(jnp.argmax(logits, axis=-1).astype(jnp.int32))
            weight = score(logits)
            if weight is None:
                x = add_unit(x, choices[-1], iteration, activation)
            else:  # x + weight * F(x), of the kernel's x + F(x)
                total = weight * add_unit(x, choices[-1], iteration, False) + (1.0 - weight) * x
                x = (jax.nn.relu(total) if activation else total).astype(x.dtype)
        return x, choices

    return run


def _activation(module: ReSet) -> bool:
    """Whether a ReLU follows the module's addition."""
    if module.activation not in (keras.activations.relu, keras.activations.linear):
        raise ValueError(f"The activation must be 'relu' or None. Received: {module.activation} in '{module.name}'")
    return module.activation is keras.activations.relu


def _score(scorer: Scorer) -> Callable[[Array], Array | None]:
    """The weight of the chosen unit, of shape `(batch, 1, 1, 1)`; `None` where it is 1."""
    if is_plain(scorer, GumbelSTScorer, HardScorer):
        return lambda logits: None
    if is_plain(scorer, TopKScorer) and scorer.k == 1:
        temperature = float(keras.ops.convert_to_numpy(scorer.temperature))
        return lambda logits: jnp.max(jax.nn.softmax(logits / temperature), axis=-1)[:, None, None, None]
    raise ValueError(
        "The scorer must choose one unit: 'gumbel_st', 'hard', or 'top_k' with k=1. "
        f"Received: a {type(scorer).__name__}. `with_scorer` gives the model another one, which may cost accuracy."
    )


def _by_iteration(dtype: str, *arrays: np.ndarray) -> list[list[Array]]:
    """One array for each iteration: no slice of a larger one has to be copied in a call."""
    return [cast(dtype, *parts) for parts in zip(*arrays, strict=True)]
