"""Keeps routes at a requested cost while the features that controllers see change."""

import numpy as np
from keras import ops
from scipy.optimize import brentq

from reset_keras.argument_checks import check_images
from reset_keras.distribution import undistributed
from reset_keras.inference import compute_fractions
from reset_keras.models import ReSetNet
from reset_keras.training.routes.fixing import check_hard_routes
from reset_keras.training.routes.imitation import check_recurrent
from reset_keras.training.routes.pruning import check_compute_target

BATCH_SIZE = 256
FIRST_SHIFT = 0.0625
"""Of a logit, that is tried first: from one epoch to the next routes drift little."""
GROWTH = 8
"""By which factor the next one is larger, while it is too small."""
LARGEST_SHIFT = 2.0**20
"""Beyond which there is nothing left to decide, however sure a controller is."""
TOLERANCE = 0.001
"""To which the shift is found, unless a cost is near enough before."""
NEAR = 0.002
"""How far from the target a compute fraction is taken for it."""


def hold_compute(model: ReSetNet, images: np.ndarray, compute_target: float) -> None:
    """Has a hard-routed network skip more, or less, until its routes cost what is requested.

    One number is added to the bias of all zero units' logits, so that only the decisions change that the controllers
    are least certain of. Routes that cost less than requested without skipping anything stay as they are.

    Args:
        model: A `ReSetNet` with recurrent controllers and zero units whose scorers choose one unit.
        images: Array of normalized images, shape `(count, height, width, channels)`, over which the cost is averaged.
        compute_target: Float above 0, the mean compute fraction (`rk.inference.compute_fractions`).

    Raises:
        ValueError: there is no image, scores are not hard, a module has no zero unit or another controller, or the
            target cannot be reached however much is skipped, or is above what the most expensive routes cost.

    Examples:
        >>> from reset_keras.models import ReSetNet
        >>> model = ReSetNet((2, 2), input_shape=(8, 8, 1), scorer="hard")
        >>> images = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("float32")
        >>> hold_compute(model, images, compute_target=0.75)
        >>> round(float(compute_fractions(model, model.predict_routes(images, verbose=0)).mean()), 2)
        0.75
    """
    check_images(images)
    check_holdable(model, compute_target)
    biases = [module.controller.dense.bias for module in model.routed_modules]
    given = [ops.convert_to_numpy(bias) for bias in biases]

    def shift_by(shift: float) -> None:
        for bias, values in zip(biases, given, strict=True):
            bias.assign(np.append(values[:-1], values[-1] + np.float32(shift)))

    seen: dict[float, float] = {}

    def excess(shift: float) -> float:
        if shift not in seen:  # `brentq` asks for both ends of its interval again
            shift_by(shift)
            with undistributed():  # a last batch need not divide among the devices
                routes = model.predict_routes(images, batch_size=BATCH_SIZE, verbose=0)
            seen[shift] = float(compute_fractions(model, routes).mean()) - compute_target
        return seen[shift] if abs(seen[shift]) > NEAR else 0.0  # which ends the search

    try:
        start = excess(0.0)
        if not start:
            return
        before, end = 0.0, float(np.sign(start)) * FIRST_SHIFT
        while start * excess(end) > 0:
            if abs(end) >= LARGEST_SHIFT:
                shift_by(0.0)
                return
            before, end = end, end * GROWTH
        brentq(excess, before, end, xtol=TOLERANCE)
        # It returns a shift near which the sign changes. As costs change in steps, another may be nearer to the target.
        shift_by(min(seen, key=lambda shift: abs(seen[shift])))
    except BaseException:  # Ctrl-C too: the largest shift would stay
        shift_by(0.0)
        raise


def check_holdable(model: ReSetNet, compute_target: float) -> None:
    """Raises `ValueError` unless a model's routes can be held at a mean compute fraction."""
    check_hard_routes(model)
    check_compute_target(model, compute_target)
    check_recurrent(model)
