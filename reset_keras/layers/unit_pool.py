import inspect
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from reset_keras.argument_checks import check_integer
from reset_keras.layers.frozen_parts import freeze_all_parts, freeze_parts, frozen_parts

Tensor = Any


class Pool(keras.layers.Layer):
    """A set of computational units, applied to the same features and summed by their scores (eq. 3).

    What `ReSet` asks of a pool: `num_units`, and a call that takes features, scores and the iteration. Scores may have
    one column more than there are units: the score of the zero unit, whose output is nothing. Layers that a pool makes
    in `__init__` are built by its module, which calls it once for each iteration; a `build` is needed only for
    weights of the pool itself. Where a controller runs units in their order, a pool may also have `run_unit`, as
    `UnitPool` does; a `HaltingController` needs it.

    Call arguments:
        inputs: Tensor of shape `(batch, ..., channels)`.
        scores: Tensor of shape `(batch, num_units)` or `(batch, num_units + 1)`.
        iteration: Integer, the module's current iteration. Default 0.

    Returns:
        Tensor of the inputs' shape, `sum_i scores[:, i] * F_i(inputs)`.

    Examples:
        >>> class DensePool(Pool):  # all units in one product; for files it also needs a `get_config`
        ...     def __init__(self, num_units, width, **kwargs):
        ...         super().__init__(**kwargs)
        ...         self.num_units = num_units
        ...         self.dense = keras.layers.Dense(num_units * width)
        ...
        ...     def call(self, inputs, scores, iteration=0):
        ...         outputs = keras.ops.reshape(self.dense(inputs), (-1, self.num_units, inputs.shape[-1]))
        ...         return keras.ops.einsum("bu,buw->bw", scores[:, : self.num_units], outputs)
        >>> module = ReSet(DensePool(5, 16))
        >>> tuple(module(keras.random.normal((2, 16))).shape)
        (2, 16)
    """

    num_units: int

    def build(self, inputs_shape: tuple, scores_shape: tuple | None = None) -> None:
        """Makes no weights: layers from `__init__` are built where `call` uses them."""

    def check_scores(self, scores: Tensor) -> None:
        """Raises `ValueError` unless `scores` has a column for each unit and at most one more."""
        columns = scores.shape[-1]
        if columns not in (self.num_units, self.num_units + 1):
            raise ValueError(
                f"Pool '{self.name}' has {self.num_units} units and expects scores of shape (batch, {self.num_units}), "
                f"or (batch, {self.num_units + 1}) with a zero unit. Received: scores of shape {tuple(scores.shape)}"
            )

    def compute_output_shape(self, inputs_shape: tuple, scores_shape: tuple | None = None) -> tuple:
        return tuple(inputs_shape)


def weighted(features: Tensor, scores: Tensor, unit: int) -> Tensor:
    """`features` of one unit times its scores, broadcast over all axes but the batch's."""
    weight = ops.reshape(scores[:, unit], (-1,) + (1,) * (len(features.shape) - 1))
    return features * ops.cast(weight, features.dtype)


@keras.saving.register_keras_serializable("reset_keras")
class UnitPool(Pool):
    """A pool of any shape-preserving Keras layers, run one after the other.

    Use it for units that are not ResNet blocks: dense blocks, attention blocks, convolutions of other kinds. Each must
    return F(x) without the shortcut, which the module adds. A unit whose `call` has an `iteration` argument
    receives the module's iteration (for separate statistics per iteration).

    Args:
        units: Non-empty sequence of Keras layers, all different objects, each of which keeps the shape of its input.

    Raises:
        ValueError: there is no unit, a unit is twice in the list, changes the shape, or returns more than a tensor.

    Examples:
        >>> pool = UnitPool([keras.layers.Dense(8, activation="relu"), keras.layers.Dense(8, activation="tanh")])
        >>> tuple(pool(keras.random.normal((2, 8)), keras.ops.ones((2, 3)) / 3).shape)
        (2, 8)
    """

    def __init__(self, units: Sequence[keras.layers.Layer], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        units = list(units)
        if not units:
            raise ValueError("`units` must hold at least one layer. Received: an empty sequence")
        for unit in units:
            if not isinstance(unit, keras.layers.Layer):
                raise ValueError(f"`units` must be Keras layers. Received: {unit!r} of type {type(unit).__name__}")
        if len({id(unit) for unit in units}) != len(units):
            raise ValueError(
                "`units` holds the same layer object more than once; build a new layer for each unit. "
                f"Received: {[unit.name for unit in units]}"
            )
        self.units = units
        self.num_units = len(units)
        freeze_all_parts(self)
        self._takes_iteration = ["iteration" in inspect.signature(unit.call).parameters for unit in units]

    def build(self, inputs_shape: tuple, scores_shape: tuple | None = None) -> None:
        inputs_shape = tuple(inputs_shape)
        for index, unit in enumerate(self.units):
            # Run symbolically, a layer is built and shows its output's shape, whatever methods it has.
            output_shape = tuple(self.run_unit(index, keras.KerasTensor(inputs_shape, dtype=self.compute_dtype)).shape)
            if output_shape != inputs_shape:
                raise ValueError(
                    f"A unit must keep the shape of its input, {inputs_shape}. Received: unit {index} ('{unit.name}') "
                    f"whose output has the shape {output_shape}. Choose its width and strides so that they agree."
                )

    def call(self, inputs: Tensor, scores: Tensor, iteration: int = 0) -> Tensor:
        self.check_scores(scores)
        outputs = [weighted(self.run_unit(index, inputs, iteration), scores, index) for index in range(self.num_units)]
        return sum(outputs[1:], start=outputs[0])

    def run_unit(self, index: int, inputs: Tensor, iteration: int = 0, training: bool | None = None) -> Tensor:
        """`F_index(inputs)`, of the inputs' shape and the pool's type, whatever the unit's own.

        Units learn by Keras whether they are called in training: by their module's call.
        """
        check_integer("index", index, least=0, most=self.num_units - 1)
        kwargs = {"iteration": iteration} if self._takes_iteration[index] else {}
        output = self.units[index](inputs, **kwargs)
        if not hasattr(output, "shape"):
            raise ValueError(
                f"A unit must return one tensor, of the shape of its input. Received: unit {index} "
                f"('{self.units[index].name}') returns a {type(output).__name__}"
            )
        return ops.cast(output, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        units = [keras.saving.serialize_keras_object(unit) for unit in self.units]
        return {**super().get_config(), "units": units}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "UnitPool":
        units = [keras.saving.deserialize_keras_object(unit) for unit in config["units"]]
        frozen = [frozen_parts(unit) for unit in units]
        pool = super().from_config({**config, "units": units})
        for unit, parts in zip(units, frozen, strict=True):
            freeze_parts(unit, parts)  # a pool that is frozen may have units that are not
        return pool
