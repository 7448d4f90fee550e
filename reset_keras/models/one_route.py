"""The static network that a routed one is along a single route."""

from collections.abc import Sequence

import keras
import numpy as np

from reset_keras.distribution import undistributed
from reset_keras.layers import FixedController, HardScorer
from reset_keras.layers.frozen_parts import part_settings, set_parts, without_part_settings
from reset_keras.models.reset_net import ReSetNet
from reset_keras.models.routed_model import RoutedModel


def with_one_route(model: ReSetNet, images: np.ndarray) -> ReSetNet:
    """A network of the same weights that takes one route for all images, each module's most frequent one.

    For a network whose routes turn out not to matter (`rk.analysis.route_controls`): without controllers it is a static
    network, and frozen and exported it takes a static network's time.

    Args:
        model: A `ReSetNet` whose scorers choose one unit, without `halting`.
        images: Array of normalized images whose routes are counted; no test images.

    Returns:
        A new `ReSetNet` of `FixedController`s that is not compiled and shares no variable with `model`. What is not
        trainable in `model` is not trainable in it.

    Raises:
        ValueError: the model is no `ReSetNet`, or has `halting`, or a scorer that does not choose one unit, or there
            are no images.

    Examples:
        >>> model = ReSetNet((2,), input_shape=(8, 8, 1), scorer="gumbel_st", width=4)
        >>> static = with_one_route(model, np.zeros((3, 8, 8, 1)))
        >>> len(static.routed_modules[0].controller.route)
        2
    """
    halts = any(module.halting is not None for module in getattr(model, "routed_modules", []))
    if not isinstance(model, ReSetNet) or halts:
        kind = f"{type(model).__name__}{' with halting' if halts else ''}"
        raise ValueError(
            f"`model` must be a ReSetNet without `halting`. Received: a {kind}. In a model of your own make the module "
            "by FixedController(num_scores, route) and HardScorer(sampled=False)"
        )
    routes = [most_frequent_route(part).argmax(axis=-1) for part in hard_scores(model, images)]
    modules = zip(model.routed_modules, routes, strict=True)
    controllers = [FixedController(module.num_scores, [int(unit) for unit in route]) for module, route in modules]
    serialized = keras.saving.serialize_keras_object
    changes = {
        "controller": [serialized(controller) for controller in controllers],
        "scorer": serialized(HardScorer(sampled=False)),
        "policy_blocks": None,
    }
    # Of parts: their places are those in `model`, and new controllers have others. Parts that stay are set below.
    config, _ = without_part_settings(model.get_config())
    static = ReSetNet.from_config({**config, **changes})
    for layer in static.layers:
        twin = model.get_layer(layer.name)
        new, old = (layer.pool, twin.pool) if hasattr(layer, "pool") else (layer, twin)  # but no controller, no scorer
        new.set_weights(old.get_weights())
        set_parts(new, part_settings(old))
    return static


def hard_scores(model: RoutedModel, images: np.ndarray) -> list[np.ndarray]:
    """The scores of images in each module, `(images, num_iterations, num_scores)`.

    Raises:
        ValueError: there are no images, or an iteration does not choose one unit.
    """
    if len(images) == 0:
        raise ValueError("`images` must hold an image, whose route can be taken. Received: 0 images")
    with undistributed():  # a last batch need not divide among the devices
        scores = [route["scores"] for route in model.predict_routes(images, verbose=0)]
    if not are_hard(scores):
        scorers = sorted({type(module.scorer).__name__ for module in model.routed_modules})
        raise ValueError(f"Each iteration must choose one unit, as 'gumbel_st' and 'hard' do. Received: {scorers}")
    return scores


def are_hard(scores: Sequence[np.ndarray]) -> bool:
    """Whether all scores are 0 or 1."""
    return all(np.isin(part, (0.0, 1.0)).all() for part in scores)


def most_frequent_route(scores: np.ndarray) -> np.ndarray:
    """Of the routes of many images the one that most of them take.

    Args:
        scores: Array of shape `(images, num_iterations, num_scores)`.

    Returns:
        Array of shape `(num_iterations, num_scores)`.
    """
    routes, counts = np.unique(scores, axis=0, return_counts=True)
    return routes[counts.argmax()]
