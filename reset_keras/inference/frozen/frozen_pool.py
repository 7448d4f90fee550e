"""The units of a trained pool as constants."""

import tempfile
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops

from reset_keras.inference.frozen.folding import fold_pool
from reset_keras.keras_internals import all_layers, lambda_like
from reset_keras.layer_copies import layer_like, not_made, own_functions
from reset_keras.layers import Pool, ResidualPool, UnitPool
from reset_keras.layers.unit_pool import weighted

Tensor = Any
FreezeUnit: TypeAlias = Callable[[keras.layers.Layer], keras.layers.Layer | None]


class FrozenResidualPool:
    """A `ResidualPool` with its batch norms folded into the kernels of each iteration."""

    def __init__(self, pool: ResidualPool) -> None:
        self.num_units = pool.num_units
        self.dtype = pool.compute_dtype
        # Arrays, not weights: compiled programs and files hold them as constants.
        self.folded = fold_pool(pool)

    def run_unit(self, index: int, x: Tensor, iteration: int) -> Tensor:
        """`F_index(x)` for all of `x`, of its shape."""
        return residual(x, self.weights_of(index, iteration), self.dtype)

    def weights_of(self, index: int, iteration: int) -> list[np.ndarray]:
        """Kernel and bias of a unit's two convolutions."""
        return [array[iteration, index] for array in self.folded]

    def indexed(self, x: Tensor, index: Tensor, iteration: int) -> Tensor:
        """`F_index(x)` for all of `x`, the unit's index a scalar tensor below `num_units`."""
        weights = (ops.take(constant(array[iteration], self.dtype), index, axis=0) for array in self.folded)
        return residual(x, weights, self.dtype)

    def side_by_side(self, iteration: int, units: list[int]) -> list[np.ndarray]:
        """Kernels and biases of some units, as one that is `len(units)` times as wide inside; a last bias for each."""
        kernel1, bias1, kernel2, bias2 = (array[iteration][units] for array in self.folded)
        kernel1, kernel2 = np.moveaxis(kernel1, 0, -2), np.moveaxis(kernel2, 0, 2)
        channels = bias2.shape[-1]
        return [kernel1.reshape(3, 3, channels, -1), bias1.reshape(-1), kernel2.reshape(3, 3, -1, channels), bias2]

    def dense(self, x: Tensor, scores: Tensor, iteration: int, units: list[int]) -> Tensor:
        """`sum_i scores[:, i] * F_i(x)` over some units, all of which are computed.

        As two convolutions, `channels -> len(units) * channels -> channels`, the scores between them.
        """
        if len(units) == 1:
            return weighted(self.run_unit(units[0], x, iteration), scores, units[0])
        kernel1, bias1, kernel2, bias2 = self.side_by_side(iteration, units)
        weights = ops.take(scores, units, axis=-1)
        y = _conv(x, kernel1, bias1, self.dtype)
        y = ops.relu(y) * ops.cast(ops.repeat(weights, x.shape[-1], axis=-1), self.dtype)[:, None, None, :]
        # Summed in float32, then rounded.
        bias2 = ops.cast(ops.matmul(weights, bias2), self.dtype)
        y = ops.conv(y, constant(kernel2, self.dtype), padding="same", data_format="channels_last")
        return y + bias2[:, None, None, :]


class FrozenUnitPool:
    """A `UnitPool` of its units' frozen forms.

    Args:
        pool: A built pool.
        features: Symbolic tensor, like what the pool is given.
        num_iterations: Integer, its module's.
        freeze_unit: Function of a unit, which returns its frozen form, or `None` for one that is to be copied.
    """

    def __init__(self, pool: UnitPool, features: Tensor, num_iterations: int, freeze_unit: FreezeUnit) -> None:
        self.num_units = pool.num_units
        frozen = [freeze_unit(unit) for unit in pool.units]
        units = [
            copy_by_config(unit) if given is None else given for unit, given in zip(pool.units, frozen, strict=True)
        ]
        self.pool = UnitPool(units, name=pool.name, dtype=pool.dtype_policy)
        self.pool.build(features.shape)
        for index, (unit, given, copy) in enumerate(zip(pool.units, frozen, units, strict=True)):
            if given is not None:
                continue
            for iteration in range(1, num_iterations):
                if len(copy.weights) < len(unit.weights):  # it has parts for each iteration
                    self.pool.run_unit(index, features, iteration)
            copy_weights(unit, copy)
        # This class is no layer: what is set for the whole frozen graph does not get here.
        self.pool.trainable = False

    def run_unit(self, index: int, x: Tensor, iteration: int) -> Tensor:
        """`F_index(x)` for all of `x`, of its shape."""
        return self.pool.run_unit(index, x, iteration)

    def dense(self, x: Tensor, scores: Tensor, iteration: int, units: list[int]) -> Tensor:
        """`sum_i scores[:, i] * F_i(x)` over some units, all of which are computed."""
        outputs = [weighted(self.run_unit(unit, x, iteration), scores, unit) for unit in units]
        return sum(outputs[1:], start=outputs[0])


FrozenPool = FrozenResidualPool | FrozenUnitPool


def freeze_pool(pool: Pool, features: Tensor, num_iterations: int, freeze_unit: FreezeUnit) -> FrozenPool:
    """The frozen form of a pool; the arguments are those of `FrozenUnitPool`.

    Raises:
        ValueError: the pool is of a class that cannot be frozen.
    """
    if type(pool).call is ResidualPool.call:
        return FrozenResidualPool(pool)
    if isinstance(pool, UnitPool) and (type(pool).call, type(pool).run_unit) == (UnitPool.call, UnitPool.run_unit):
        return FrozenUnitPool(pool, features, num_iterations, freeze_unit)
    raise ValueError(
        "Only a ResidualPool or a UnitPool can be frozen, not a pool of a class that overrides how it is computed. "
        f"Received: a {type(pool).__name__}"
    )


def copy_of(layer: Any, input_shape: tuple) -> Any:
    """A built layer of the same config and weights, which later training of the original does not reach."""
    copy = layer_like(layer)
    copy.build(input_shape)
    if len(copy.weights) < len(layer.weights):  # it has layers that its call builds
        keras.Operation.compute_output_spec(copy, keras.KerasTensor(input_shape, dtype="float32"))
    copy_weights(layer, copy)
    return copy


def copy_by_config(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A layer of the same config, also with a class or functions that are not registered, without its weights."""
    if type(layer) is keras.layers.Lambda:
        return lambda_like(layer)
    own = {type(layer).__name__: type(layer)}
    try:
        saved = keras.saving.serialize_keras_object(layer)
        saved.pop("build_config", None)  # by which Keras would take layers for built whose calls build their parts
        saved["config"].update(own_functions(layer, saved["config"]))
        # A `Lambda` in it is safe: its function is in this process already.
        return keras.saving.deserialize_keras_object(saved, custom_objects=own, safe_mode=False)
    except (TypeError, ValueError) as error:
        raise not_made(layer, error) from error


def copy_weights(layer: keras.layers.Layer, copy: keras.layers.Layer) -> None:
    """Gives a built copy of a layer its weights, and what Keras saves beside them, such as a vocabulary."""
    copy.set_weights(layer.get_weights())
    for part, copied in zip(all_layers(layer), all_layers(copy), strict=False):
        if hasattr(part, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                part.save_assets(folder)
                copied.load_assets(folder)
        if isinstance(copied, keras.layers.Normalization):
            copied.finalize_state()  # it computes with constants that are made of its weights


def residual(x: Tensor, weights: Iterable[Any], dtype: str, strides: int = 1) -> Tensor:
    """`F(x)` of a folded unit, by kernel and bias of its two convolutions, the first of which has the strides."""
    kernel1, bias1, kernel2, bias2 = weights
    return _conv(ops.relu(_conv(x, kernel1, bias1, dtype, strides)), kernel2, bias2, dtype)


def _conv(x: Tensor, kernel: Any, bias: Any, dtype: str, strides: int = 1) -> Tensor:
    y = ops.conv(x, constant(kernel, dtype), strides, padding="same", data_format="channels_last")
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.nn.bias_add(y, constant(bias, dtype))  # unlike an addition, always fused with what follows it
    return y + constant(bias, dtype)


def constant(array: Any, dtype: str) -> Tensor:
    """An array as a tensor of a type."""
    return ops.convert_to_tensor(array, dtype=dtype)
