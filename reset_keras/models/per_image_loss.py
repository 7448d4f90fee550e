from typing import Any

import keras
from keras import ops

Tensor = Any


def per_image_loss(loss: Any, y: Tensor, outputs: Tensor, sample_weight: Tensor = None) -> Tensor:
    """The task loss of each image, which REINFORCE needs: the given loss without its reduction over the batch.

    Args:
        loss: The loss of `compile`: a name, a function or a `keras.losses.Loss`, of a single output.
        y: Labels, first axis the batch.
        outputs: Predictions, first axis the batch.
        sample_weight: Weights of shape `(batch,)`, or `None`.

    Returns:
        Float32 tensor of shape `(batch,)`.

    Raises:
        ValueError: there is no loss, or one for each of several outputs.
    """
    if loss is None or isinstance(loss, dict | list | tuple):
        raise ValueError(
            f"REINFORCE needs one loss of one output. Received: loss={loss!r}. Combine the outputs in one loss."
        )
    loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        unreduced = type(loss).from_config({**loss.get_config(), "reduction": None})
        values = unreduced(y, outputs, sample_weight=sample_weight)
    else:
        values = loss(y, outputs)
        if sample_weight is not None:
            values = values * ops.cast(sample_weight, values.dtype)
    axes = tuple(range(1, len(values.shape)))
    return ops.cast(ops.mean(values, axis=axes) if axes else values, "float32")
