"""A batch's images in groups by the unit that each takes, and back, where no image is in two groups.

Plain `take` and `scatter` do the same, but adding is what their other halves do: the gradient of one, and the other
forward, take four times as long on a CPU as copying. Here both directions copy, each by the inverse of the other.
"""

from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

Tensor = Any


def groups_of(scores: Tensor, units: Iterable[int]) -> list[Tensor]:
    """For each of these units the images that have a score for it, as their places in the batch, integers."""
    return [ops.where(scores[:, unit] != 0)[0] for unit in units]


def in_groups(inputs: Tensor, groups: list[Tensor]) -> list[Tensor]:
    """The images of each group.

    Args:
        inputs: Tensor of shape `(batch, ...)`.
        groups: From `groups_of`.
    """
    inverse = _places_in_groups(groups, ops.shape(inputs)[0])

    @ops.custom_gradient
    def take(x: Tensor) -> Any:
        return [ops.take(x, group, axis=0) for group in groups], lambda *parts: _joined(parts, inverse)

    return list(take(inputs))


def in_order(parts: list[Tensor], groups: list[Tensor], batch_size: Tensor | int) -> Tensor:
    """The inverse of `in_groups`: a tensor of shape `(batch, ...)`, zeros for images that are in no group."""
    inverse = _places_in_groups(groups, batch_size)

    @ops.custom_gradient
    def join(*parts: Tensor) -> Any:
        return _joined(parts, inverse), lambda upstream: [ops.take(upstream, group, axis=0) for group in groups]

    return join(*parts)


def permuted(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """`x[order]`, where `inverse` is `order`'s inverse. On TensorFlow its gradient copies, too; XLA needs no help."""
    if keras.backend.backend() != "tensorflow":
        return ops.take(x, order, axis=0)

    @ops.custom_gradient
    def take(x: Tensor) -> Any:
        return ops.take(x, order, axis=0), lambda upstream: ops.take(upstream, inverse, axis=0)

    return take(x)


def parted(x: Tensor, count: Tensor | int) -> list[Tensor]:
    """The first `count` images, and the others; the gradient joins them, where a slice's fills a batch with zeros."""
    if keras.backend.backend() != "tensorflow":
        return [x[:count], x[count:]]

    @ops.custom_gradient
    def part(x: Tensor) -> Any:
        return [x[:count], x[count:]], lambda *upstream: ops.concatenate(upstream)

    return list(part(x))


def _places_in_groups(groups: list[Tensor], batch_size: Tensor | int) -> Tensor:
    """Where each image stands in the groups one after the other; behind their end if it is in none."""
    images = ops.cast(ops.concatenate(groups), "int32")
    count = ops.shape(images)[0]
    # Scattered as negative numbers, so that the 0 of images in no group becomes `count`: the row of zeros in `_joined`.
    places = ops.scatter(images[:, None], ops.arange(count, dtype="int32") - count, (batch_size,))
    return places + count


def _joined(parts: Any, places: Tensor) -> Tensor:
    nothing = ops.zeros((1, *parts[0].shape[1:]), parts[0].dtype)
    return ops.take(ops.concatenate([*parts, nothing]), places, axis=0)
