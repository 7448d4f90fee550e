from typing import Any

import keras

from reset_keras.argument_checks import check_integer
from reset_keras.layers.frozen_parts import KeepsPartSettings, freeze_all_parts
from reset_keras.layers.iteration_batch_normalization import IterationBatchNormalization

Tensor = Any


@keras.saving.register_keras_serializable("reset_keras")
class ResidualUnit(KeepsPartSettings, keras.layers.Layer):
    """The residual branch F(x) of a ResNet block: conv 3x3, batch norm, ReLU, conv 3x3, batch norm.

    It returns F(x) **without** the shortcut, so that a block is `relu(x + unit(x))` and a pool can weight it.
    It is the computational unit of eq. 1-3 of the paper.

    Args:
        filters: Integer, number of output channels.
        strides: Integer, stride of the first convolution, in pixels. Default 1.
        num_iterations: Integer, number of iterations of the module that the unit serves: its batch norms keep
            statistics for each. Default 1.
        kernel_regularizer: Keras regularizer of both kernels, or `None`. Default `None`.

    Call arguments:
        inputs: Tensor of shape `(batch, height, width, channels)`.
        iteration: Integer in `[0, num_iterations)`, whose statistics are used. Default 0.
        training: Boolean, passed to the batch norms.

    Returns:
        Tensor of shape `(batch, ceil(height / strides), ceil(width / strides), filters)`.

    Raises:
        ValueError: an argument is not positive.

    Examples:
        >>> tuple(ResidualUnit(16)(keras.random.normal((2, 32, 32, 16))).shape)
        (2, 32, 32, 16)
    """

    def __init__(
        self,
        filters: int,
        strides: int = 1,
        num_iterations: int = 1,
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = check_integer("filters", filters, least=1)
        self.strides = check_integer("strides", strides, least=1)
        self.num_iterations = check_integer("num_iterations", num_iterations, least=1)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        options = {"kernel_regularizer": self.kernel_regularizer, "dtype": self.dtype_policy}
        self.conv1 = plain_conv(self.filters, 3, self.strides, name="conv1", **options)
        self.norm1 = IterationBatchNormalization(num_iterations, name="norm1", dtype=self.dtype_policy)
        self.conv2 = plain_conv(self.filters, 3, name="conv2", **options)
        self.norm2 = IterationBatchNormalization(num_iterations, name="norm2", dtype=self.dtype_policy)
        freeze_all_parts(self)

    def build(self, input_shape: tuple) -> None:
        hidden_shape = self.compute_output_shape(input_shape)
        self.conv1.build(input_shape)
        self.norm1.build(hidden_shape)
        self.conv2.build(hidden_shape)
        self.norm2.build(hidden_shape)

    def call(self, inputs: Tensor, iteration: int = 0, training: bool | None = None) -> Tensor:
        x = self.norm1(self.conv1(inputs), iteration=iteration, training=training)
        x = keras.ops.relu(x)
        return self.norm2(self.conv2(x), iteration=iteration, training=training)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return self.conv1.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "strides": self.strides,
            "num_iterations": self.num_iterations,
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }


def plain_conv(filters: int, size: int, strides: int = 1, **options: Any) -> keras.layers.Conv2D:
    """A convolution that a batch norm follows: without a bias, and padded so that only strides reduce its input."""
    options = {"padding": "same", "data_format": "channels_last", "use_bias": False, **options}
    return keras.layers.Conv2D(filters, size, strides, kernel_initializer="he_normal", **options)
