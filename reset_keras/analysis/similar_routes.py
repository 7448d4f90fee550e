"""Which images take the most similar routes."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist

from reset_keras.argument_checks import check_integer, integers


@dataclasses.dataclass(frozen=True)
class SimilarRoutes:
    """The images whose routes are most similar to that of one image. Made by `similar_routes`.

    Args:
        query: Integer, the image's index.
        neighbours: Indices of the others, the nearest first; of equally near ones, the lower index first.
        distances: Manhattan distances of their routes to the query's.
        left_out: Integer, how many more images are exactly as near as the last neighbour: hard routes are often equal.
    """

    query: int
    neighbours: tuple[int, ...]
    distances: tuple[float, ...]
    left_out: int


def first_of_classes(labels: np.ndarray, count: int) -> list[int]:
    """Indices of the first images that show a new class, of at most `count` classes.

    Args:
        labels: Integer array of shape `(images,)`.
        count: Integer, number of classes.

    Examples:
        >>> import numpy as np
        >>> first_of_classes(np.array([3, 3, 0, 3, 5, 0]), 2)
        [0, 2]
    """
    return sorted(np.unique(labels, return_index=True)[1].tolist())[:count]


def similar_routes(scores: Sequence[np.ndarray], queries: Sequence[int], count: int = 5) -> list[SimilarRoutes]:
    """Finds the images with the routes most similar to those of some of them (section 5.6).

    A route is the concatenation of the score vectors of all iterations of all modules; routes are compared by the
    Manhattan distance. An image is not its own neighbour.

    Args:
        scores: For each module an array of shape `(images, num_iterations, num_scores)`.
        queries: Indices of images.
        count: Integer, neighbours of each. Default 5; fewer where there are no more images.

    Raises:
        ValueError: a query is no image's index, `count` is not positive, or `scores` are no sequence.

    Examples:
        >>> import numpy as np
        >>> found = similar_routes([np.array([0.0, 0.3, 1.0, 0.2]).reshape(4, 1, 1)], queries=[0], count=2)[0]
        >>> found.neighbours
        (3, 1)
    """
    if not isinstance(scores, Sequence):
        raise ValueError(
            f"`scores` must be the scores of each module, of `Routes` its `scores`. Received: a {type(scores).__name__}"
        )
    images = len(scores[0])
    check_integer("count", count, least=1)
    indices = integers(queries, least=0, most=images - 1)
    if indices is None:
        raise ValueError(f"`queries` must be indices of the {images} images. Received: queries={queries!r}")
    routes = np.concatenate([part.reshape(images, -1) for part in scores], axis=1)
    distances = cdist(routes[list(indices)], routes, "cityblock")
    return [_nearest(query, row, count) for query, row in zip(indices, distances, strict=True)]


def _nearest(query: int, distances: np.ndarray, count: int) -> SimilarRoutes:
    order = np.argsort(distances, kind="stable")
    # Not `order[1:]`: images with the same route are as near as the query itself, and may come before it.
    order = order[order != query]
    near, left = order[:count], order[count:]
    left_out = int(np.sum(distances[left] == distances[near].max(initial=0.0)))
    return SimilarRoutes(query, tuple(near.tolist()), tuple(distances[near].tolist()), left_out)
