"""Masks of what no image needs to choose."""

import numpy as np
from keras import ops

from reset_keras.argument_checks import check_images, check_real
from reset_keras.distribution import undistributed
from reset_keras.layers.allowed import Allowed
from reset_keras.models import RoutedModel
from reset_keras.training.routes.fixing import check_hard_routes

BATCH_SIZE = 256


def with_settled_routes(model: RoutedModel, images: np.ndarray, least_share: float = 0.001) -> RoutedModel:
    """A model of the same weights that may choose only what images do choose.

    A trained network often takes the same unit for every image in many of its iterations, and asks its controller all
    the same. Here choices that hardly any image takes are forbidden (`allowed` of `ReSet`). Where one is left, the
    iteration is settled: in a frozen or exported network it costs what it does in a static one, and no controller runs
    where nothing more is decided. Files that hold each unit as often as it may be run become smaller.

    Args:
        model: A `RoutedModel` without halting whose scorers choose one unit: `"gumbel_st"` or `"hard"`.
        images: Array of the model's inputs by which choices are counted: training images.
        least_share: Float from 0 to below 0.5. A choice that a smaller share of the images take in an iteration is
            forbidden there; with 0 only one that no image takes, so that no route of these images changes. Default
            0.001.

    Returns:
        A new model of the same class that is not compiled and shares no variable with `model`. A file keeps its masks.

    Raises:
        ValueError: there is no image, scores are not hard, a module has halting, or `least_share` is out of its range.

    Examples:
        >>> from reset_keras.models import ReSetNet
        >>> model = ReSetNet((2,), input_shape=(8, 8, 1), scorer="hard", controller=FixedController(3, [1, 2]))
        >>> images = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype("float32")
        >>> with_settled_routes(model, images).allowed
        [[False, True, False], [False, False, True]]
    """
    check_images(images)
    check_real("least_share", least_share, least=0, below=0.5)
    check_hard_routes(model)
    halting = [module.name for module in model.routed_modules if module.halting is not None]
    if halting:
        raise ValueError(
            "Routes of modules with halting are not settled: their outputs are means over iterations. "
            f"Received: {halting} with halting"
        )
    with undistributed():  # a last batch need not divide among the devices
        routes = model.predict_routes(images, batch_size=BATCH_SIZE, verbose=0)
    settled = type(model).from_config(model.get_config())
    for old, new in zip(model.weights, settled.weights, strict=True):
        new.assign(ops.convert_to_numpy(old))  # a copy: on JAX, training frees the buffers it was given
    for module, route in zip(settled.routed_modules, routes, strict=True):
        shares = (route["scores"] > 0).mean(axis=0)
        # The most frequent choice stays in any case: among very many, each may be rare.
        mask = (shares > 0) & (shares >= least_share) | (shares == shares.max(axis=1, keepdims=True))
        module.allowed = Allowed(mask, module.num_iterations, module.pool.num_units, module.zero_unit)
    return settled
