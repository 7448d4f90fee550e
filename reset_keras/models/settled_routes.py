"""A routed network that may choose only what images do choose."""

import numpy as np
from keras import ops

from reset_keras.argument_checks import check_real
from reset_keras.layers import HaltingController, ReSet
from reset_keras.layers.allowed import Allowed
from reset_keras.models.one_route import hard_scores
from reset_keras.models.routed_model import RoutedModel, check_routed


def with_settled_routes(model: RoutedModel, images: np.ndarray, least_share: float = 0.001) -> RoutedModel:
    """A model of the same weights that may choose only what images do choose.

    A trained network often takes the same unit for every image in many of its iterations, and asks its controller all
    the same. Here choices that hardly any image makes are forbidden (`allowed` of `ReSet`). Where one is left, the
    iteration is settled: in a frozen or exported network it costs what it does in a static one, and no controller runs
    where nothing more is decided. Exported files become smaller, as they hold only what may be chosen.

    Args:
        model: A `RoutedModel` whose scorers choose one unit, without `halting` and without a `HaltingController`.
        images: Array of the model's inputs whose choices are counted; no test images.
        least_share: Float from 0 to below 0.5. A choice that a smaller share of the images makes in an iteration is
            forbidden there; with 0 only one that no image makes, so that no route of these images changes. Default
            0.001.

    Returns:
        A new model of the same class that is not compiled and shares no variable with `model`. What is not trainable in
        `model` is not trainable in it. Files keep its masks. With `allowed="any"` in its config a `ReSetNet` may choose
        everything again.

    Raises:
        ValueError: the model does not route, or its images halt, or a scorer does not choose one unit, or there are no
            images, or `least_share` is out of its range; or a controller of your own does not accept the masks.

    Examples:
        >>> from reset_keras.models import ReSetNet
        >>> model = ReSetNet((2,), input_shape=(8, 8, 1), scorer="hard", controller=FixedController(3, [1, 2]))
        >>> images = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype("float32")
        >>> with_settled_routes(model, images).allowed
        [[False, True, False], [False, False, True]]
    """
    check_real("least_share", least_share, least=0, below=0.5)
    check_routed(model)
    halting = [
        module.name
        for module in model.routed_modules
        if module.halting is not None or isinstance(module.controller, HaltingController)
    ]
    if halting:
        raise ValueError(f"Where images halt, what they skip cannot be settled. Received: {halting}, whose images halt")
    all_scores = hard_scores(model, images)
    settled = type(model).from_config(model.get_config())
    for old, new in zip(model.weights, settled.weights, strict=True):
        new.assign(ops.convert_to_numpy(old))  # a copy: on JAX, training frees the buffers it was given
    masks: dict[ReSet, np.ndarray] = {}
    for module, scores in zip(settled.routed_modules, all_scores, strict=True):
        shares = scores.mean(axis=0)
        # The most frequent choice stays in any case: among very many, each may be rare.
        mask = (shares > 0) & (shares >= least_share) | (shares == shares.max(axis=1, keepdims=True))
        masks[module] = mask | masks.get(module, False)  # a module may be called several times
    for module, mask in masks.items():
        module.allowed = Allowed(mask, module.num_iterations, module.pool.num_units, module.zero_unit)
        module.controller.check_module(module)  # a file could not be loaded that it does not accept
    return settled
