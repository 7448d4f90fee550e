"""Whether routes group images by meaning (section 5.6).

Measures, each beside controls without which it would mean nothing.
"""

import contextlib
import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import rel_entr

from reset_keras.analysis.routes import Routes
from reset_keras.argument_checks import check_integer
from reset_keras.layer_copies import layer_like
from reset_keras.models import RoutedModel
from reset_keras.models.policy_network import policy_layers
from reset_keras.models.routed_model import check_routed

NEIGHBOURS = 5


@dataclasses.dataclass(frozen=True)
class Controlled:
    """A measure, beside its values for routes that say nothing about classes. Part of a `RouteMeaning`.

    Args:
        value: Float, of the routes.
        shuffled: Float, its mean with the labels in random orders.
        random_controller: Float, of a random controller's routes through the same units, or `None`: not measured.
    """

    value: float
    shuffled: float
    random_controller: float | None = None


@dataclasses.dataclass(frozen=True)
class RouteMeaning:
    """What routes say about the images' classes. Made by `route_meaning`.

    Args:
        mutual_information: In bits, between an iteration's unit, drawn by the scores, and the class: mean over
            iterations.
        neighbour_accuracy: Share of images whose class is the one that most of their nearest neighbours by Manhattan
            distance of the routes have.
        majority: Float, share of the largest class, which guessing reaches.
        images: Integer, number of images.
    """

    mutual_information: Controlled
    neighbour_accuracy: Controlled
    majority: float
    images: int


def route_meaning(
    routes: Routes,
    random_routes: Routes | None = None,
    *,
    neighbours: int = NEIGHBOURS,
    shuffles: int = 10,
    most_images: int = 2000,
    seed: int = 0,
) -> RouteMeaning:
    """Measures how much routes say about classes, each measure beside its controls.

    A number without controls would mislead: with few images mutual information is above 0 by chance, and any function
    of an image, even a random controller's route, says something about its class.

    Args:
        routes: Routes with labels.
        random_routes: Routes of the same images in the same order, collected within `random_controllers`, or `None` to
            go without this control. Default `None`.
        neighbours: Integer, how many nearest routes vote. Default 5.
        shuffles: Integer, random orders of the labels. Default 10.
        most_images: Integer, how many images are looked at, at most, more than `neighbours`: distances of all pairs are
            taken. Default 2000.
        seed: Integer, not negative. Default 0.

    Raises:
        ValueError: there are no labels, not more images than `neighbours`, `random_routes` are of other images, or
            in another order, or a number is out of its range.

    Examples:
        >>> scores = np.tile([[[1.0, 0.0]], [[0.0, 1.0]]], (10, 1, 1))
        >>> meaning = route_meaning(Routes([{"scores": scores}], (False,), labels=np.tile([0, 1], 10)))
        >>> meaning.mutual_information.value, meaning.neighbour_accuracy.value
        (1.0, 1.0)
    """
    neighbours = check_integer("neighbours", neighbours, least=1)
    shuffles = check_integer("shuffles", shuffles, least=1)
    most_images = check_integer("most_images", most_images, least=neighbours + 1)
    seed = check_integer("seed", seed, least=0)
    if routes.labels is None or len(routes) <= neighbours:
        raise ValueError(
            f"`routes` must have labels, and more images than the {neighbours} neighbours. Received: {len(routes)} "
            f"images, labels={'None' if routes.labels is None else 'given'}"
        )
    if random_routes is not None and len(random_routes) != len(routes):
        raise ValueError(
            f"`random_routes` must be those of the same {len(routes)} images. Received: routes of {len(random_routes)}"
        )
    if random_routes is not None and random_routes.labels is not None:
        others = int(np.sum(random_routes.labels != routes.labels))
        if others:
            raise ValueError(
                f"`random_routes` must be those of the same images, in the same order. Received: {others} of "
                f"{len(routes)} labels that differ. Collect both from an array, or from a dataset that is not shuffled"
            )
    rng = np.random.default_rng(seed)
    # In random order, even if all are kept: of equally near images the search prefers some by their place.
    kept = rng.permutation(len(routes))[:most_images]
    labels = routes.labels[kept]
    orders = [labels, *(rng.permutation(labels) for _ in range(shuffles))]
    information, accuracy = _measure(routes, kept, orders, neighbours)
    control = None if random_routes is None else _measure(random_routes, kept, orders[:1], neighbours)
    return RouteMeaning(
        Controlled(information[0], float(np.mean(information[1:])), control and control[0][0]),
        Controlled(accuracy[0], float(np.mean(accuracy[1:])), control and control[1][0]),
        majority=float(np.bincount(labels).max() / len(labels)),
        images=len(labels),
    )


def mutual_information(routes: Routes) -> list[np.ndarray]:
    """Mutual information between each iteration's unit, drawn by the scores, and the class, in bits.

    Args:
        routes: Routes with labels.

    Returns:
        For each module an array of shape `(num_iterations,)`.

    Raises:
        ValueError: there are no labels.

    Examples:
        >>> routes = Routes([{"scores": np.eye(2)[[[0], [1]]]}], (False,), labels=np.array([0, 1]))
        >>> [part.tolist() for part in mutual_information(routes)]
        [[1.0]]
    """
    if routes.labels is None:
        raise ValueError("mutual information needs routes with `labels`. Received: labels=None")
    return [_information(part, routes.labels) for part in routes.scores]


@contextlib.contextmanager
def random_controllers(model: RoutedModel, seed: int = 0) -> Iterator[None]:
    """A context in which a model's controllers are as before any training; afterwards they have their weights again.

    Halting scores count as a part of them, and a policy network, which sees the image for a `PolicyController`.

    Args:
        model: The network.
        seed: Integer, of the initial weights. Default 0.

    Raises:
        ValueError: the model does not route, or `seed` is no integer.

    Examples:
        >>> model = ReSetNet((2,), input_shape=(8, 8, 1))
        >>> with random_controllers(model):
        ...     control = model.predict_routes(np.ones((3, 8, 8, 1)), verbose=0)
        >>> control[0]["scores"].shape
        (3, 2, 3)
    """
    seed = check_integer("seed", seed)
    check_routed(model)
    modules = model.routed_modules
    others: list[Any] = [module.halting for module in modules if module.halting is not None]
    others += [layer for layer in policy_layers(model, modules) if layer.weights]
    layers = [*(module.controller for module in modules), *others]
    trained = [layer.get_weights() for layer in layers]
    drawn = random.getstate()  # Keras takes the seeds of initializers from here
    random.seed(seed)
    try:
        for module in modules:
            module.controller.set_weights(module.new_controller().get_weights())
        for layer in others:
            new = layer_like(layer)
            if not new.built:
                new.build_from_config(layer.get_build_config())
            layer.set_weights(new.get_weights())
        yield
    finally:
        random.setstate(drawn)
        for layer, weights in zip(layers, trained, strict=True):
            layer.set_weights(weights)


def _measure(
    routes: Routes, kept: np.ndarray, orders: list[np.ndarray], neighbours: int
) -> tuple[list[float], list[float]]:
    """Both measures of the kept images, for each order of their labels."""
    # Here, as they are slow to import.
    from scipy.stats import mode
    from sklearn.neighbors import NearestNeighbors

    scores = [part[kept] for part in routes.scores]
    information = [float(np.concatenate([_information(part, labels) for part in scores]).mean()) for labels in orders]
    search = NearestNeighbors(n_neighbors=neighbours, metric="manhattan", algorithm="brute")
    nearest = search.fit(routes.vectors()[kept]).kneighbors(return_distance=False)
    accuracy = [float(np.mean(mode(labels[nearest], axis=1).mode == labels)) for labels in orders]
    return information, accuracy


def _information(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mutual information of each iteration, in bits."""
    members = np.eye(int(labels.max()) + 1)[labels].T  # in a small integer type the sum could be too large
    shares = scores / np.maximum(scores.sum(axis=-1, keepdims=True), 1e-12)
    joint = np.tensordot(members, shares, axes=1).swapaxes(0, 1) / len(labels)
    independent = joint.sum(axis=2, keepdims=True) * joint.sum(axis=1, keepdims=True)
    return rel_entr(joint, independent).sum(axis=(1, 2)) / np.log(2)
