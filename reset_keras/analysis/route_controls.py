"""What routes are worth that depend on the image: the same network along the routes of others, and along one route."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from reset_keras.argument_checks import check_integer, labels_of
from reset_keras.batches_ahead import predicted
from reset_keras.distribution import undistributed
from reset_keras.inference import compute_fractions
from reset_keras.models import RoutedModel
from reset_keras.models.one_route import are_hard, most_frequent_route
from reset_keras.models.parts_between import parts_between
from reset_keras.models.routed_model import check_routed

Tensor = Any
BATCH_SIZE = 128


@dataclasses.dataclass(frozen=True)
class Along:
    """What a network gets right along some routes. Part of `RouteControls`.

    Args:
        right: Boolean array of shape `(images,)`.
        compute: Float, mean compute fraction of the routes.
    """

    right: np.ndarray
    compute: float

    @property
    def accuracy(self) -> float:
        """The share of the images that it gets right, in [0, 1]."""
        return float(self.right.mean())


@dataclasses.dataclass(frozen=True)
class RouteControls:
    """A network along its own routes and along others. Made by `route_controls`.

    Args:
        own: Along the route that it chooses for each image.
        shuffled: Along the route that it chooses for another image, drawn at random. These cost the same on average.
        one_for_all: Along one route for all images: where all scores are 0 or 1, the most frequent route of each
            module, elsewhere the mean of the scores, by which all units run that some image runs.
    """

    own: Along
    shuffled: Along
    one_for_all: Along


@undistributed()  # a last batch need not divide among the devices
def route_controls(model: RoutedModel, images: np.ndarray, labels: np.ndarray, seed: int = 0) -> RouteControls:
    """Compares a network along its own routes with the same network along the routes of other images.

    A network whose routes are as good for other images as for their own has learned a static network.

    Args:
        model: A `RoutedModel` whose modules follow one another, without `halting`, and whose output has a number for
            each of two classes or more.
        images: Array of normalized images.
        labels: Integer array of shape `(images,)` or `(images, 1)`.
        seed: Integer, of the random order of the routes. Default 0.

    Returns:
        A `RouteControls`.

    Raises:
        ValueError: the model does not route, a module has `halting`, a path leads around a module, a layer's operations
            cannot be counted, the output is another, labels are no integers, one for each image, or `seed` is no
            integer from 0 on.

    Examples:
        >>> from reset_keras.models import ReSetNet
        >>> model = ReSetNet((2,), num_classes=4, input_shape=(8, 8, 1), width=4)
        >>> found = route_controls(model, np.zeros((6, 8, 8, 1)), np.arange(6) % 4)
        >>> found.own.accuracy == found.shuffled.accuracy  # images that are all the same
        True
    """
    check_routed(model)
    halting = [module.name for module in model.routed_modules if module.halting is not None]
    if halting:
        raise ValueError(f"Routes can be given to modules that have no `halting`. Received: {halting} with halting")
    seed = check_integer("seed", seed, least=0)
    labels = labels_of(images, labels)
    along = AlongRoutes(model)
    shapes = [tuple(output.shape) for output in keras.tree.flatten(model.output)]
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] == 1:
        raise ValueError(
            "What is right is told by one output with a number for each of two classes or more. Received: outputs of "
            f"shape {shapes}"
        )
    own = [route["scores"] for route in model.predict_routes(images, batch_size=BATCH_SIZE, verbose=0)]
    order = np.random.default_rng(seed).permutation(len(images))

    def outcome(scores: list[np.ndarray]) -> Along:
        outputs = predicted(along, [images, *scores], BATCH_SIZE, verbose=0)
        compute = compute_fractions(model, [{"scores": part} for part in scores]).mean()
        return Along(outputs.argmax(axis=-1) == labels, float(compute))

    one = [np.broadcast_to(one_route(part), part.shape) for part in own]
    return RouteControls(outcome(own), outcome([part[order] for part in own]), outcome(one))


def one_route(scores: np.ndarray) -> np.ndarray:
    """The route that stands for all: the most frequent where scores are 0 and 1, else their mean.

    Args:
        scores: Array of shape `(images, num_iterations, num_scores)`.

    Returns:
        Array of shape `(num_iterations, num_scores)`.
    """
    return most_frequent_route(scores) if are_hard([scores]) else scores.mean(axis=0)


class AlongRoutes(keras.Model):
    """A network whose scores are given.

    Args:
        model: A `RoutedModel` whose modules follow one another, without `halting`.

    Call arguments:
        inputs: List of the images, and for each module the scores, `(batch, num_iterations, num_scores)`.

    Returns:
        What the model returns for these images along these routes.
    """

    def __init__(self, model: RoutedModel) -> None:
        super().__init__(dtype="float32")  # its parts compute in their own types
        self.routed = model.routed_modules
        self.between = parts_between(model)

    def call(self, inputs: list[Tensor]) -> Tensor:
        x, *scores = inputs
        for module, entrance, own in zip(self.routed, self.between, scores, strict=False):
            # As `ReSet.call` does, which is not called here.
            x = ops.cast(entrance(x, training=False), module.compute_dtype)
            for k in range(module.num_iterations):
                x = module.activation(x + module.update(x, own[:, k], k, training=False))
        return self.between[-1](x, training=False)
