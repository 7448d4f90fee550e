import numpy as np
import pytest

from reset_keras.analysis import Routes
from reset_keras.analysis.similar_routes import first_of_classes, similar_routes

RNG = np.random.default_rng(0)
SOFT = [RNG.dirichlet(np.ones(4), size=(40, 3)), RNG.dirichlet(np.ones(3), size=(40, 2))]
HARD = [np.eye(3)[RNG.integers(0, 3, (60, 2))]]


def by_hand(scores, query):
    """All other images as (distance, index), sorted."""
    distances = []
    for image in range(len(scores[0])):
        total = sum(np.abs(part[image].astype(float) - part[query].astype(float)).sum() for part in scores)
        if image != query:
            distances.append((total, image))
    return sorted(distances)


@pytest.mark.parametrize("query", [0, 17, 39])
def test_neighbours_are_those_of_the_manhattan_distance_over_all_modules(query):
    (found,) = similar_routes(SOFT, [query])
    expected = by_hand(SOFT, query)[:5]
    assert found.query == query
    assert found.neighbours == tuple(image for _, image in expected)
    np.testing.assert_allclose(found.distances, [distance for distance, _ in expected], rtol=1e-12)
    assert found.left_out == 0


@pytest.mark.parametrize("query", range(8))
def test_equally_near_images_come_in_their_order_and_the_rest_is_counted(query):
    (found,) = similar_routes(HARD, [query])
    others = by_hand(HARD, query)
    assert list(zip(found.distances, found.neighbours, strict=True)) == others[:5]
    assert found.left_out == sum(distance == others[4][0] for distance, _ in others[5:])


def test_hard_routes_tie_in_this_data():
    assert any(found.left_out for found in similar_routes(HARD, range(8)))


def test_an_image_is_not_its_own_neighbour_even_if_all_routes_are_equal():
    (found,) = similar_routes([np.ones((9, 2, 3))], [1], count=3)
    assert found.neighbours == (0, 2, 3)
    assert found.distances == (0.0, 0.0, 0.0)
    assert found.left_out == 5


def test_fewer_images_than_neighbours():
    (found,) = similar_routes([np.ones((3, 1, 2))], [0], count=5)
    assert found.neighbours == (1, 2)


def test_a_single_image_has_no_neighbour():
    (found,) = similar_routes([np.ones((1, 1, 2))], [0], count=5)
    assert (found.neighbours, found.distances, found.left_out) == ((), (), 0)


def test_queries_show_different_classes():
    labels = np.array([7, 7, 2, 7, 2, 0, 1])
    assert first_of_classes(labels, 3) == [0, 2, 5]
    assert first_of_classes(labels, 9) == [0, 2, 5, 6]


def test_routes_as_a_whole_are_no_scores():
    routes = Routes([{"scores": np.zeros((4, 1, 1))}], (False,))
    with pytest.raises(ValueError, match=r"of `Routes` its `scores`. Received: a Routes"):
        similar_routes(routes, [0])
