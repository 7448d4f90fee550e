import hashlib
import weakref
from operator import itemgetter
from typing import Any

import keras
import numpy as np

from reset_keras.analysis.routes import Routes
from reset_keras.argument_checks import class_labels
from reset_keras.inference import compute_fractions
from reset_keras.models import RoutedModel
from reset_keras.models.routed_model import check_routed

BATCH_SIZE = 512


class RouteProbe:
    """Some images whose routes are watched along a training.

    The routes are computed once for each state of the weights, however many callbacks ask. The images go through the
    network layer by layer: compiling it would take longer than a few dozen batches.

    Args:
        images: Array of normalized images; for a model of several inputs a dict, list or tuple of arrays.
        labels: Integer array of shape `(images,)` or `(images, 1)`, their classes, or `None`. Default `None`.

    Raises:
        ValueError: there are no images, another number of labels, or labels that are no integers.

    Examples:
        >>> probe = RouteProbe(np.zeros((4, 8, 8, 1)))
        >>> model = ReSetNet((1,), num_classes=2, input_shape=(8, 8, 1), width=4)
        >>> len(probe.routes(model))
        4
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray | None = None) -> None:
        self.images = images
        if len(self) == 0 or (labels is not None and len(labels) != len(self)):
            raise ValueError(
                "`images` must hold an image, and `labels` as many labels. "
                f"Received: {len(self)} images, {'no' if labels is None else len(labels)} labels"
            )
        self.labels = None if labels is None else class_labels(labels)
        self._seen: tuple[Any, bytes] | None = None
        self._routes: Any = None

    def __len__(self) -> int:
        return min(map(len, keras.tree.flatten(self.images)), default=0)

    def routes(self, model: RoutedModel) -> Routes:
        """The images' routes through a model, as it is now; `ValueError` for a model without any."""
        check_routed(model)
        # Not by the optimizer's steps: callbacks, checkpoints and users also change weights without one.
        seen, digest = self._seen or (lambda: None, b"")
        now = _digest(model)
        if seen() is not model or digest != now:
            parts = [itemgetter(slice(start, start + BATCH_SIZE)) for start in range(0, len(self), BATCH_SIZE)]
            inputs = [keras.tree.map_structure(part, self.images) for part in parts]
            batches = [model(part, training=False, return_routes=True).routes for part in inputs]
            arrays = keras.tree.map_structure(
                lambda *parts: np.concatenate([keras.ops.convert_to_numpy(part) for part in parts]), *batches
            )
            self._routes, self._seen = Routes(arrays, model.zero_units, self.labels), (weakref.ref(model), now)
        return self._routes

    def compute_fraction(self, model: RoutedModel) -> float:
        """The images' mean compute fraction (`rk.inference.compute_fractions`)."""
        return float(compute_fractions(model, self.routes(model).modules).mean())


def _digest(model: RoutedModel) -> bytes:
    """A checksum of all weights, which costs far less than a look at the images."""
    digest = hashlib.blake2b(digest_size=16)
    for weight in model.weights:
        digest.update(keras.ops.convert_to_numpy(weight).tobytes())
    return digest.digest()


def as_probe(images: "np.ndarray | RouteProbe") -> RouteProbe:
    """The probe itself, or a new one for an array of images."""
    return images if isinstance(images, RouteProbe) else RouteProbe(images)
