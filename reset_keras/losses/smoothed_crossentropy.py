from typing import Any

import keras
from keras import ops

from reset_keras.argument_checks import check_real

Tensor = Any


@keras.saving.register_keras_serializable("reset_keras")
class SmoothedCrossentropy(keras.losses.SparseCategoricalCrossentropy):
    """Cross entropy of logits with smoothed labels, given as integers; Keras smooths only labels given as vectors.

    With a smoothing s, the label's class has the probability `1 - s + s / classes`, and each other one `s / classes`
    (Szegedy et al., 2016). Short trainings overfit less by it.

    Args:
        label_smoothing: Float in [0, 1). Default 0.1.
        reduction: As of any Keras loss. Default `"sum_over_batch_size"`.
        name: String, or `None`. Default `"smoothed_crossentropy"`.
        dtype: As of any Keras loss. Default `None`.

    Call arguments:
        y_true: Integer tensor of shape `(batch,)`.
        y_pred: Logits of shape `(batch, classes)`.

    Raises:
        ValueError: `label_smoothing` is out of its range.

    Examples:
        >>> loss = SmoothedCrossentropy(label_smoothing=0.5)
        >>> round(float(loss(keras.ops.array([0]), keras.ops.array([[0.0, 0.0]]))), 4)  # log 2
        0.6931
    """

    def __init__(
        self,
        label_smoothing: float = 0.1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "smoothed_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(from_logits=True, reduction=reduction, name=name, dtype=dtype)
        self.label_smoothing = check_real("label_smoothing", label_smoothing, least=0.0, below=1.0)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        of_label = super().call(y_true, y_pred)
        of_all = -ops.mean(ops.log_softmax(y_pred, axis=-1), axis=-1)
        return (1.0 - self.label_smoothing) * of_label + self.label_smoothing * of_all

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        # Keras's config also has arguments that this class does not take.
        kept = {name: config[name] for name in ("name", "reduction", "dtype") if name in config}
        return {**kept, "label_smoothing": self.label_smoothing}
