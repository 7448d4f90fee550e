from typing import Any

import keras
from keras import ops

from reset_keras.argument_checks import check_integer
from reset_keras.layers.allowed import FORBIDDEN
from reset_keras.layers.controller import Controller, LogitsLayer

Tensor = Any
CLOSED = FORBIDDEN / 10
"""Logit of the zero unit where a unit must run.

It is above `FORBIDDEN`: where the mask forbids all units, the zero unit still runs.
"""


@keras.saving.register_keras_serializable("reset_keras")
class PolicyController(Controller):
    """A policy that sees the image once, before the first unit: that of BlockDrop (Wu et al., 2018).

    Its module is called with a context, features that a policy network has computed of the whole image. From these one
    dense layer makes the logits of all iterations; the units do not change them. One policy network may serve all
    modules of a model: `ReSetNet(controller="policy")` has one. The authors' modules have `allowed="sequential"` and
    `scorer="hard"`, trained with `DropReward`.

    For a curriculum, the first `open_iterations` iterations must run a unit: their gate stays open, and they cannot
    choose the zero unit. It is a weight that no optimizer trains; `DropCurriculum` lowers it along a training.

    Args:
        num_scores: Integer, number of logits: the pool's units, plus one where there is a zero unit.
        num_iterations: Integer, iterations of the module it controls.
        kernel_regularizer: Keras regularizer of the kernels, or `None`. Default `None`.

    Call arguments:
        inputs: Not used: tensor of shape `(batch, ..., channels)`.
        state: List of the context, a tensor of shape `(batch, features)`.
        iteration: Integer in `[0, num_iterations)`. Default 0.

    Returns:
        A pair: logits of shape `(batch, num_scores)`, float32, and the same state.

    Raises:
        ValueError: a number is not positive, or the module has more iterations.

    Examples:
        >>> images = keras.Input((32, 32, 16))
        >>> context = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3, 4)(images))
        >>> module = ReSet(5, 5, PolicyController(6, 5), "hard", allowed="sequential")
        >>> module(images, context).shape
        (None, 32, 32, 16)
    """

    takes_context = True
    _has_zero_unit = True  # until a module says so

    def __init__(self, num_scores: int, num_iterations: int, kernel_regularizer: Any = None, **kwargs: Any) -> None:
        super().__init__(num_scores, **kwargs)
        self.num_iterations = check_integer("num_iterations", num_iterations, least=1)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.dense = LogitsLayer(
            self.num_iterations * self.num_scores,
            kernel_initializer="he_normal",
            kernel_regularizer=self.kernel_regularizer,
            name="dense",
            dtype=self.dtype_policy,
        )

    def check_module(self, module: Any) -> None:
        self._check_iterations(module, self.num_iterations)
        self._has_zero_unit = module.zero_unit

    def build(self, inputs_shape: tuple, state_shape: Any = None) -> None:
        if not state_shape:
            self.check_context(is_given=False)  # which always raises here
        self.open_iterations = self.add_weight(name="open_iterations", shape=(), initializer="zeros", trainable=False)
        self.dense.build(tuple(state_shape[0]))

    def call(self, inputs: Tensor, state: list[Tensor], iteration: int = 0) -> tuple[Tensor, list[Tensor]]:
        is_closed = self.is_closed(iteration)
        first = iteration * self.num_scores
        logits = self.dense(state[0])[:, first : first + self.num_scores]
        return ops.where(is_closed, CLOSED, logits), state

    def is_closed(self, iteration: int) -> Tensor:
        """Of each score, whether it is the zero unit's in an iteration that must run a unit."""
        check_integer("iteration", iteration, least=0, most=self.num_iterations - 1)
        zero_unit = self.num_scores - 1 if self._has_zero_unit else -1  # which no score has
        return ops.logical_and(ops.arange(self.num_scores) == zero_unit, iteration < self.open_iterations)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_iterations": self.num_iterations,
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }
