from typing import Any

import keras

from reset_keras.argument_checks import check_integer
from reset_keras.layers.controller import Controller, LogitsLayer, mean_features

Tensor = Any


@keras.saving.register_keras_serializable("reset_keras")
class RNNController(Controller):
    """A recurrent controller: features averaged over positions, an LSTM cell, a dense layer to the logits (figure 2b).

    Its state tells it how far a route has come, which the convolutional controller does not know: on a ResNet's blocks
    in a pool it learns their order (section 5.1 of the paper).

    Args:
        num_scores: Integer, number of logits: the pool's units, plus one where there is a zero unit.
        hidden_size: Integer, width of the LSTM's state. Default 64.
        kernel_regularizer: Keras regularizer of all kernels, or `None`. Default `None`.

    Call arguments:
        inputs: Tensor of shape `(batch, ..., channels)`.
        state: List of two tensors of shape `(batch, hidden_size)`.
        iteration: Not used: the state holds it.

    Returns:
        A pair: logits of shape `(batch, num_scores)`, float32, and the next state.

    Raises:
        ValueError: `num_scores` or `hidden_size` is not positive.

    Examples:
        >>> controller = RNNController(num_scores=6)
        >>> logits, state = controller(keras.random.normal((2, 32, 32, 16)), controller.initial_state(2))
        >>> tuple(logits.shape)
        (2, 6)
    """

    def __init__(self, num_scores: int, hidden_size: int = 64, kernel_regularizer: Any = None, **kwargs: Any) -> None:
        super().__init__(num_scores, **kwargs)
        self.hidden_size = check_integer("hidden_size", hidden_size, least=1)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        regularizer = self.kernel_regularizer
        options = {"kernel_initializer": "he_normal", "kernel_regularizer": regularizer, "dtype": self.dtype_policy}
        self.cell = keras.layers.LSTMCell(self.hidden_size, recurrent_regularizer=regularizer, name="cell", **options)
        self.dense = LogitsLayer(self.num_scores, name="dense", **options)

    def build(self, inputs_shape: tuple, state_shape: Any = None) -> None:
        batch, channels = inputs_shape[0], inputs_shape[-1]
        self.cell.build((batch, channels))
        self.dense.build((batch, self.hidden_size))

    def initial_state(self, batch_size: Tensor | int) -> list[Tensor]:
        return list(self.cell.get_initial_state(batch_size))

    def call(self, inputs: Tensor, state: list[Tensor], iteration: int = 0) -> tuple[Tensor, list[Tensor]]:
        output, next_state = self.cell(mean_features(inputs), state)
        return self.dense(output), list(next_state)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hidden_size": self.hidden_size,
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }
