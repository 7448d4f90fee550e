from typing import Any

import keras
from keras import ops

from reset_keras.argument_checks import check_integer
from reset_keras.layers.controller import Controller, LogitsLayer, mean_features
from reset_keras.layers.frozen_parts import KeepsPartSettings, freeze_all_parts
from reset_keras.layers.iteration_batch_normalization import IterationBatchNormalization
from reset_keras.layers.residual_unit import plain_conv

Tensor = Any


@keras.saving.register_keras_serializable("reset_keras")
class CNNController(KeepsPartSettings, Controller):
    """A convolutional controller: conv 3x3, batch norm, ReLU, global average pooling, dense (figure 2a of the paper).

    It has no biases and no state; only its batch norm, whose statistics and parameters are its own for each iteration,
    tells one iteration from another (section 4).

    Args:
        num_scores: Integer, number of logits: the pool's units, plus one where there is a zero unit.
        num_iterations: Integer, iterations of the module it controls.
        filters: Integer, channels of the convolution. Default 16.
        kernel_regularizer: Keras regularizer of both kernels, or `None`. Default `None`.

    Call arguments:
        inputs: Tensor of shape `(batch, height, width, channels)`.
        state: An empty list.
        iteration: Integer in `[0, num_iterations)`. Default 0.
        training: Boolean, passed to the batch norm.

    Returns:
        A pair: logits of shape `(batch, num_scores)`, float32, and the empty state.

    Raises:
        ValueError: an argument is not positive, the module has more iterations, or the input is not an image.

    Examples:
        >>> controller = CNNController(num_scores=6, num_iterations=5)
        >>> logits, state = controller(keras.random.normal((2, 32, 32, 16)), [], iteration=4)
        >>> tuple(logits.shape)
        (2, 6)
    """

    def __init__(
        self,
        num_scores: int,
        num_iterations: int,
        filters: int = 16,
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_scores, **kwargs)
        self.num_iterations = check_integer("num_iterations", num_iterations, least=1)
        self.filters = check_integer("filters", filters, least=1)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        options = {"kernel_regularizer": self.kernel_regularizer, "dtype": self.dtype_policy}
        self.conv = plain_conv(self.filters, 3, name="conv", **options)
        self.norm = IterationBatchNormalization(
            self.num_iterations, per_iteration_affine=True, name="norm", dtype=self.dtype_policy
        )
        self.dense = LogitsLayer(
            self.num_scores, use_bias=False, kernel_initializer="he_normal", name="dense", **options
        )
        freeze_all_parts(self)

    def check_module(self, module: Any) -> None:
        self._check_iterations(module, self.num_iterations)

    def build(self, inputs_shape: tuple, state_shape: Any = None) -> None:
        if len(inputs_shape) != 4:
            raise ValueError(
                "A convolutional controller works on images, (batch, height, width, channels). Received: an input of "
                f"shape {tuple(inputs_shape)}. Use controller='rnn' for other features."
            )
        self.conv.build(inputs_shape)
        self.norm.build((*inputs_shape[:-1], self.filters))
        self.dense.build((inputs_shape[0], self.filters))

    def call(
        self, inputs: Tensor, state: list[Tensor], iteration: int = 0, training: bool | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        x = self.norm(self.conv(inputs), iteration=iteration, training=training)
        return self.dense(mean_features(ops.relu(x))), state

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_iterations": self.num_iterations,
            "filters": self.filters,
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }
