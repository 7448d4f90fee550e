import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from reset_keras.keras_internals import mask_of, with_mask

Tensor = Any
NESTS = (dict, list, tuple)
MEANS = ("sum_over_batch_size", "mean")
"""Reductions of a Keras loss that leave all images the same weight."""


class _Unreduced(keras.losses.Loss):
    """A loss of labels and predictions, weighted as Keras does, without a reduction over the batch.

    Where some entries do not count, by a mask of the outputs or a loss with `ignore_class`, the others count for more,
    as in Keras's mean: over all entries the mean is the same.
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], dtype: Any, mask: Tensor | None) -> None:
        super().__init__(name="unreduced", reduction=None, dtype=dtype)
        self._loss = loss
        self._mask = mask

    def call(self, y: Tensor, outputs: Tensor) -> Tensor:
        values = self._loss(y, outputs)
        masks = [ops.cast(mask, "bool") for mask in (self._mask, mask_of(values)) if mask is not None]
        if not masks:
            return values
        counts = functools.reduce(ops.logical_and, masks)
        factor = ops.cast(ops.size(counts), values.dtype) / ops.maximum(ops.sum(ops.cast(counts, values.dtype)), 1)
        return with_mask(values * factor, mask_of(values))


def loss_of_one_output(loss: Any, outputs: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """The one loss that there is: a function, or a `keras.losses.Loss` that weights all images alike.

    Args:
        loss: The loss of `compile`: a name, a function or a `keras.losses.Loss`; also in a list or under the output's
            name, as Keras takes it, too.
        outputs: The model's output.

    Raises:
        ValueError: there is no loss, or one for each of several outputs, or one that is not reduced by a mean.
    """
    if isinstance(loss, NESTS) and len(loss) == 1:
        loss = keras.tree.flatten(loss)[0]
    if isinstance(outputs, NESTS) or loss is None or isinstance(loss, NESTS):
        count = f" and {len(outputs)} outputs" if isinstance(outputs, NESTS) else ""
        raise ValueError(
            f"REINFORCE, early exits and a teacher need one loss of one output. Received: loss={loss!r}{count}. Give "
            "the model one output."
        )
    loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss) and loss.reduction not in MEANS:
        raise ValueError(
            "REINFORCE, early exits and a teacher need a loss with reduction='sum_over_batch_size', the mean over the "
            f"batch, as Keras's losses have by default. Received: reduction={loss.reduction!r}. To weight the loss "
            "against them use `loss_weights`."
        )
    return loss


def per_image_loss(loss: Any, y: Tensor, outputs: Tensor, sample_weight: Tensor = None) -> Tensor:
    """The task loss of each image, for REINFORCE and early exits: the given loss without its reduction over the batch.

    Args:
        loss: The loss of `compile`, as `loss_of_one_output` takes it.
        y: Labels, first axis the batch.
        outputs: Predictions, first axis the batch.
        sample_weight: Weights of shape `(batch,)`, or `None`.

    Returns:
        Float32 tensor of shape `(batch,)`.

    Raises:
        ValueError: as in `loss_of_one_output`; or the loss is one of a batch as a whole.
    """
    if isinstance(loss, NESTS):
        y = keras.tree.flatten(y)[0]
    loss = loss_of_one_output(loss, outputs)
    if isinstance(loss, keras.losses.Loss):
        unreduced = _Unreduced(loss.call, loss.dtype, mask_of(outputs))
    else:
        unreduced = _Unreduced(lambda y, outputs: loss(*_of_one_rank(y, outputs)), None, mask_of(outputs))
    values = unreduced(y, outputs, sample_weight=sample_weight)
    if len(values.shape) == 0:
        raise ValueError(
            f"REINFORCE and early exits need the loss of each image. Received: loss={loss!r}, which returns one "
            "number for the batch. Leave out its mean over the first axis; Keras takes it."
        )
    axes = tuple(range(1, len(values.shape)))
    return ops.cast(ops.mean(values, axis=axes) if axes else values, "float32")


def _of_one_rank(y: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Both of one rank where one of them has a last axis of 1 more, as `compile` has them for a function."""
    shorter, longer = sorted((y, outputs), key=lambda tensor: len(tensor.shape))
    if len(longer.shape) != len(shorter.shape) + 1 or longer.shape[-1] != 1:
        return y, outputs
    if len(shorter.shape) == 1:
        shorter = ops.expand_dims(shorter, axis=-1)
    else:
        longer = ops.squeeze(longer, axis=-1)
    return (longer, shorter) if len(y.shape) > len(outputs.shape) else (shorter, longer)
