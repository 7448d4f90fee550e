from typing import Any

import keras

from reset_keras.argument_checks import check_integer, check_real
from reset_keras.layers.controller import Controller, Dense, LogitsLayer, mean_features

Tensor = Any


@keras.saving.register_keras_serializable("reset_keras")
class GateController(Controller):
    """Feed-forward gates: a small network for each iteration, from mean features to logits.

    It is the gate of ConvNet-AIG (Veit and Belongie, 2018, section 3.2, without its batch norm): features averaged over
    positions, a dense layer, ReLU, a dense layer to the logits. With `allowed="sequential"`, where iteration k chooses
    between unit k and the zero unit, a ReSet has such a gate for each unit. SkipNet's feed-forward gates (Wang et al.,
    2018) also have convolutions. There is no state: no gate knows what those before it chose.

    Units run at first, as in both papers: the logits start near `open_bias` for each unit, and near 0 for the zero
    unit.

    Args:
        num_scores: Integer, number of logits: the pool's units, plus one where there is a zero unit.
        num_iterations: Integer, iterations of the module it controls.
        hidden_size: Integer, width of the first dense layer. Default 16.
        open_bias: Float, where the biases of all logits but the last start. A module without a zero unit takes only
            0. Default 2, with which a gate skips its unit for one image in eight.
        kernel_regularizer: Keras regularizer of all kernels, or `None`. Default `None`.

    Call arguments:
        inputs: Tensor of shape `(batch, ..., channels)`.
        state: An empty list.
        iteration: Integer in `[0, num_iterations)`. Default 0.

    Returns:
        A pair: logits of shape `(batch, num_scores)`, float32, and the empty state.

    Raises:
        ValueError: a size is not positive, `open_bias` is no number, or not 0 in a module without a zero unit, or the
            module has more iterations.

    Examples:
        >>> controller = GateController(num_scores=2, num_iterations=5)
        >>> logits, state = controller(keras.random.normal((2, 32, 32, 16)), [], iteration=4)
        >>> tuple(logits.shape)
        (2, 2)
    """

    def __init__(
        self,
        num_scores: int,
        num_iterations: int,
        hidden_size: int = 16,
        open_bias: float = 2.0,
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_scores, **kwargs)
        self.num_iterations = check_integer("num_iterations", num_iterations, least=1)
        self.hidden_size = check_integer("hidden_size", hidden_size, least=1)
        self.open_bias = check_real("open_bias", open_bias)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        options = {"kernel_regularizer": self.kernel_regularizer, "dtype": self.dtype_policy}
        bias = keras.initializers.Constant([self.open_bias] * (self.num_scores - 1) + [0.0])
        # Two flat lists, not one of pairs: on saving Keras can lose the weights of layers in nested lists (#20598).
        self.hidden = [
            Dense(self.hidden_size, "relu", kernel_initializer="he_normal", name=f"hidden_{k}", **options)
            for k in range(self.num_iterations)
        ]
        self.dense = [
            LogitsLayer(
                self.num_scores,
                kernel_initializer=keras.initializers.RandomNormal(stddev=0.001),  # the bias decides at first
                bias_initializer=bias,
                name=f"dense_{k}",
                **options,
            )
            for k in range(self.num_iterations)
        ]

    def check_module(self, module: Any) -> None:
        self._check_iterations(module, self.num_iterations)
        if self.open_bias and not module.zero_unit:
            raise ValueError(
                "Without a zero unit there is nothing that units are open against: build the GateController with "
                f"open_bias=0. Received: zero_unit=False, open_bias={self.open_bias}"
            )

    def build(self, inputs_shape: tuple, state_shape: Any = None) -> None:
        for hidden, dense in zip(self.hidden, self.dense, strict=True):
            hidden.build((inputs_shape[0], inputs_shape[-1]))
            dense.build((inputs_shape[0], self.hidden_size))

    def call(self, inputs: Tensor, state: list[Tensor], iteration: int = 0) -> tuple[Tensor, list[Tensor]]:
        check_integer("iteration", iteration, least=0, most=self.num_iterations - 1)
        return self.dense[iteration](self.hidden[iteration](mean_features(inputs))), state

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_iterations": self.num_iterations,
            "hidden_size": self.hidden_size,
            "open_bias": self.open_bias,
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }
