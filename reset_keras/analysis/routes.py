"""What a network's modules decided for many images, and what can be read off it."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import keras
import numpy as np
from scipy.special import entr, softmax

from reset_keras.argument_checks import check_integer, class_labels
from reset_keras.array_files import read_arrays, write_arrays
from reset_keras.layers.halting_run import HALTING_ROUTES
from reset_keras.models import RoutedModel
from reset_keras.models.routed_model import check_routed
from reset_keras.models.routed_outputs import by_module, in_order_of_modules

CHUNK = 4096
"""Images of an array that are on the device at a time, at most."""


@dataclasses.dataclass(frozen=True)
class Routes:
    """The routes of some images, and statistics of them.

    Args:
        modules: For each module a dict of arrays, as `RoutedModel.predict_routes` returns it: `"scores"` and, except in
            routes read from a file, `"logits"`, each of shape `(images, num_iterations, num_scores)`; where it has
            halting also `"active"` and `"ponder"`, `(images, num_iterations)`.
        zero_units: For each module, whether its last score is the zero unit's.
        labels: Integer array of shape `(images,)` or `(images, 1)`, the images' classes, or `None`. Default `None`.

    Raises:
        ValueError: there is no module, the numbers of images, labels and zero units do not fit, or labels are no
            integers.

    Examples:
        >>> scores = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.0, 1.0]]])
        >>> routes = Routes([{"scores": scores}], zero_units=(True,))
        >>> routes.vectors().tolist()
        [[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.0, 1.0]]
        >>> routes.mean_scores()[0].tolist()
        [[0.75, 0.25], [0.0, 1.0]]
    """

    modules: Sequence[dict[str, np.ndarray]]
    zero_units: Sequence[bool]
    labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        counts = {len(array) for module in self.modules for array in module.values()}
        if self.labels is not None:
            object.__setattr__(self, "labels", class_labels(self.labels))
            counts.add(len(self.labels))
        if len(counts) != 1 or len(self.zero_units) != len(self.modules):
            raise ValueError(
                "`modules` must hold at least one module's routes, of as many images as there are labels, and "
                f"`zero_units` an entry for each. Received: {len(self.modules)} modules, {len(self.zero_units)} "
                f"entries in `zero_units`, numbers of images and labels {sorted(counts)}"
            )

    def __len__(self) -> int:
        return len(self.scores[0])

    @property
    def scores(self) -> list[np.ndarray]:
        """Each module's scores, `(images, num_iterations, num_scores)`."""
        return [module["scores"] for module in self.modules]

    @property
    def num_classes(self) -> int:
        """One more than the largest label; 0 without labels."""
        return 0 if self.labels is None else int(self.labels.max()) + 1

    def vectors(self) -> np.ndarray:
        """The routes as embeddings: all scores of an image in a row, float32, `(images, all iterations and units)`."""
        return np.concatenate([part.reshape(len(self), -1) for part in self.scores], axis=1).astype(np.float32)

    def policies(self) -> list[np.ndarray]:
        """Each module's `softmax(logits)`.

        Raises:
            ValueError: there are no logits, as in routes read from a file.
        """
        if any("logits" not in module for module in self.modules):
            raise ValueError(
                "policies, and their entropies, need routes with `logits`, which a file does not hold: take those that "
                f"`collect_routes` returns. Received: {[sorted(module) for module in self.modules]}"
            )
        return [softmax(module["logits"], axis=-1) for module in self.modules]

    def choices(self) -> np.ndarray:
        """The unit with the largest score: integers, `(images, iterations of all modules)`."""
        return np.concatenate([part.argmax(axis=-1) for part in self.scores], axis=1)

    def skips(self) -> np.ndarray:
        """Where no unit runs at all: booleans, `(images, iterations of all modules)`."""
        units = [
            part[..., : part.shape[-1] - int(zero)] for part, zero in zip(self.scores, self.zero_units, strict=True)
        ]
        return np.concatenate([~np.any(part, axis=-1) for part in units], axis=1)

    def mean_scores(self) -> list[np.ndarray]:
        """How much each unit is used: for each module `(num_iterations, num_scores)`."""
        # Along the first axis NumPy adds the images up one by one, which in float32 loses digits.
        return [part.mean(axis=0, dtype=np.float64) for part in self.scores]

    def mean_scores_by_class(self) -> list[np.ndarray]:
        """The mean route of each class: for each module `(classes, num_iterations, num_scores)`, NaN without an image.

        Raises:
            ValueError: there are no labels.
        """
        if self.labels is None:
            raise ValueError("mean routes of classes need routes with `labels`. Received: labels=None")
        counts = np.bincount(self.labels, minlength=self.num_classes)
        members = np.eye(self.num_classes)[self.labels].T
        with np.errstate(invalid="ignore"):
            return [np.tensordot(members, part, axes=1) / counts[:, None, None] for part in self.scores]

    def deviations(self) -> list[np.ndarray]:
        """Standard deviations of the scores over the images (figure 4), in the shapes of `mean_scores`."""
        return [np.std(part, axis=0, dtype=np.float64) for part in self.scores]

    def entropies_within(self) -> list[np.ndarray]:
        """Mean entropy of an image's policy, in nats (eq. 13): for each module `(num_iterations,)`.

        Raises:
            ValueError: there are no logits.
        """
        return [entr(policy).sum(axis=-1).mean(axis=0, dtype=np.float64) for policy in self.policies()]

    def entropies_across(self) -> list[np.ndarray]:
        """Entropy of the mean policy, in nats (eq. 13): for each module `(num_iterations,)`.

        Raises:
            ValueError: there are no logits.
        """
        return [entr(policy.mean(axis=0, dtype=np.float64)).sum(axis=-1) for policy in self.policies()]

    def mean_entropy(self) -> float:
        """Mean entropy of the policies over images and iterations, in nats.

        Raises:
            ValueError: there are no logits.
        """
        return float(np.concatenate(self.entropies_within()).mean())

    def first(self, count: int) -> "Routes":
        """The routes of the first `count` images."""
        return self.of(slice(check_integer("count", count, least=0)))

    def of(self, images: "slice | np.ndarray") -> "Routes":
        """The routes of some of the images, by a slice or an array of their indices."""
        modules = [{name: array[images] for name, array in module.items()} for module in self.modules]
        return Routes(modules, self.zero_units, None if self.labels is None else self.labels[images])

    def save(self, path: str | os.PathLike) -> None:
        """Writes all but logits to a compressed `.npz` file; scores and what halting adds are rounded to float16.

        What is not zero stays so, as it says what has been computed.
        """
        labels = {} if self.labels is None else {"labels": self.labels}
        scores = by_module(map(_as_float16, self.scores))
        of_halting = {
            f"{name}_of_module_{index}": _as_float16(module[name])
            for index, module in enumerate(self.modules)
            for name in HALTING_ROUTES
            if name in module
        }
        write_arrays(pathlib.Path(path), {"zero_units": self.zero_units, **scores, **of_halting, **labels})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Routes":
        """Reads what `save` wrote.

        Raises:
            ValueError: the file is missing, damaged or another one.
        """
        try:
            arrays = read_arrays(pathlib.Path(path))
            zero_units = arrays["zero_units"].tolist()
            modules = [{"scores": part.astype(np.float32)} for part in in_order_of_modules(arrays)]
            for index, module in enumerate(modules):
                found = {name: arrays.get(f"{name}_of_module_{index}") for name in HALTING_ROUTES}
                module |= {name: part.astype(np.float32) for name, part in found.items() if part is not None}
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path} holds no routes that can be read ({error}): run the stage again") from error
        return cls(modules, zero_units, arrays.get("labels"))


def collect_routes(model: RoutedModel, data: Any, labels: np.ndarray | None = None, batch_size: int = 256) -> Routes:
    """Routes of a whole dataset, gone through once, batch by batch: routes stay in memory, images do not.

    Args:
        model: The network.
        data: Array or tensor of normalized images; a dict of arrays, for a model of several inputs; or an iterable of
            batches, as a `tf.data.Dataset` is one: of images, or of tuples or lists that begin with images and labels.
        labels: Integer array of shape `(images,)`, the classes of an array of images. Default `None`.
        batch_size: Integer, images of an array that go through the network at a time. Default 256.

    Raises:
        ValueError: there are no images, `labels` are given for batches, which bring their own, or `batch_size` is not
            positive.

    Examples:
        >>> model = ReSetNet((1, 1), num_classes=2, input_shape=(8, 8, 1), width=4)
        >>> routes = collect_routes(model, np.zeros((3, 8, 8, 1)), labels=np.array([0, 1, 0]))
        >>> len(routes), routes.vectors().shape
        (3, (3, 4))
    """
    batch_size = check_integer("batch_size", batch_size, least=1)
    check_routed(model)
    if hasattr(data, "shape") or isinstance(data, dict):
        count = min(map(len, keras.tree.flatten(data)))
        chunks = [itemgetter(slice(start, start + CHUNK)) for start in range(0, count, CHUNK)]
        parts = [
            (model.predict_routes(keras.tree.map_structure(chunk, data), batch_size=batch_size, verbose=0), None)
            for chunk in chunks
        ]
    elif labels is None:
        parts = [_routes_of_batch(model, batch) for batch in data]
    else:
        raise ValueError(
            "`labels` go with an array of images; batches are tuples of images and labels. Received: labels, and data "
            f"of the type {type(data).__name__}. Leave `labels` out, or give the images as an array"
        )
    if not parts:
        raise ValueError("`data` must hold at least one image. Received: none")
    modules = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *(routes for routes, _ in parts))
    if any(found is not None for _, found in parts):
        labels = np.concatenate([np.asarray(found) for _, found in parts])
    return Routes(modules, model.zero_units, labels)


def _as_float16(array: np.ndarray) -> np.ndarray:
    rounded = array.astype(np.float16)
    is_lost = (rounded == 0) & (array != 0)
    return np.where(is_lost, np.copysign(np.finfo(np.float16).smallest_subnormal, rounded), rounded)


def _routes_of_batch(model: RoutedModel, batch: Any) -> tuple[list[dict[str, np.ndarray]], Any]:
    images, *others = batch if isinstance(batch, (tuple, list)) else [batch]
    try:
        labels = class_labels(others[0]) if others else None
    except ValueError as error:
        raise ValueError(f"{error}. For routes without labels give images only, data.map(lambda x, y: x)") from error
    return model.predict_routes_on_batch(images), labels
