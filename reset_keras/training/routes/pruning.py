"""Routes that leave out what an image can do without."""

from typing import Any

import keras
import numpy as np
from keras import ops

from reset_keras.argument_checks import check_images
from reset_keras.batches_ahead import predicted
from reset_keras.distribution import undistributed
from reset_keras.inference.costs.macs import compute_fractions
from reset_keras.models import ReSetNet
from reset_keras.models.operations import count_operations
from reset_keras.models.parts_between import parts_between
from reset_keras.models.routed_model import check_routed
from reset_keras.training.routes.fixing import with_fixed_routes

Tensor = Any
BATCH_SIZE = 64
TEMPERATURE = 4.0
"""Of the outputs that are compared; at 1 those of training images differ too little, as most are certain."""


@undistributed()  # a last batch need not divide among the devices
def prune_routes(model: ReSetNet, images: np.ndarray, compute_target: float) -> list[np.ndarray]:
    """Routes of some images, pruned to a requested cost: units are left out of them.

    Starts from the routes that a hard-routed network takes. In each round one more unit is left out: the one without
    which the network's outputs change least, by the Kullback-Leibler divergence from its outputs on the whole route, on
    average over the images that have it. In the last round only as many images lose it as the target asks for, those
    whose outputs change least. So routes differ in few places. If each were the best for its own image, controllers
    could not tell them apart.

    Nothing is trained: then teach controllers the routes by `imitate_routes`, and train units along them by
    `with_fixed_routes`.

    Args:
        model: A `ReSetNet` with zero units whose scorers choose one unit: `"gumbel_st"` or `"hard"`.
        images: Array of normalized images, shape `(count, height, width, channels)`.
        compute_target: Float above 0, the mean compute fraction (`rk.inference.compute_fractions`).

    Returns:
        For each module an integer array of shape `(count, num_iterations)`: unit, or the number of units where the
        iteration is skipped.

    Raises:
        ValueError: there is no image, scores are not hard, a module has no zero unit or has halting, or the target
            cannot be reached however much is skipped, or is above what the most expensive routes cost.

    Examples:
        >>> from reset_keras.models import ReSetNet
        >>> model = ReSetNet((2, 2), input_shape=(8, 8, 1), scorer="gumbel_st")
        >>> images = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("float32")
        >>> routes = prune_routes(model, images, compute_target=0.7)
        >>> [choices.shape for choices in routes]
        [(64, 2), (64, 2)]
    """
    check_images(images)
    check_compute_target(model, compute_target)
    halting = [module.name for module in model.routed_modules if module.halting is not None]
    if halting:
        raise ValueError(
            "Routes of modules with halting cannot be pruned: an output is a mean over iterations. "
            f"Received: {halting} with halting"
        )
    # Pools that compute only chosen units: with all of them, every variant of a route would cost the whole pool.
    fixed = with_fixed_routes(model)
    modules, probe = fixed.routed_modules, RoutesWithoutOne(fixed)
    taken = fixed.predict_routes(images, batch_size=BATCH_SIZE, verbose=0)
    choices = np.concatenate([route["scores"].argmax(axis=-1) for route in taken], axis=1)
    zero_units = np.repeat([module.pool.num_units for module in modules], [module.num_iterations for module in modules])
    may_be_skipped = np.concatenate([module.allowed.mask[:, -1] for module in modules])
    places = np.cumsum([module.num_iterations for module in modules])[:-1]

    def costs(choices: np.ndarray) -> np.ndarray:
        parts = zip(np.split(choices, places, axis=1), modules, strict=True)
        return compute_fractions(fixed, [{"scores": np.eye(module.num_scores)[part]} for part, module in parts])

    whole = None
    while (spent := costs(choices)).mean() > compute_target:
        outputs = predicted(probe, [images, choices], BATCH_SIZE, verbose=0)
        # From the first round on: later ones are compared with the whole routes too, not with the round before.
        whole = _log_softmax(outputs[:, 0]) if whole is None else whole
        # An image that has no unit there that it may lose counts in no mean, and is the last in the order.
        kept = (choices == zero_units) | ~may_be_skipped
        divergences = np.ma.masked_array(_divergences(whole, outputs[:, 1:]), kept)
        unit = divergences.mean(axis=0).argmin()
        shorter = np.where(np.arange(len(zero_units)) == unit, zero_units, choices)
        saved = (spent - costs(shorter)) / len(images)
        by_loss = divergences[:, unit].argsort(kind="stable")
        still_above = spent.mean() - compute_target > np.cumsum(saved[by_loss]) - saved[by_loss]
        chosen = by_loss[still_above]
        choices[chosen] = shorter[chosen]
    return np.split(choices, places, axis=1)


class RoutesWithoutOne(keras.Model):
    """A network's logits on a given route, and on each that lacks one of its units.

    Call arguments:
        inputs: Images of shape `(batch, height, width, channels)`, and integer choices of shape
            `(batch, total iterations)`.

    Returns:
        Tensor of shape `(batch, 1 + total iterations, num_classes)`.
    """

    def __init__(self, model: ReSetNet) -> None:
        super().__init__(dtype="float32")  # its parts compute in their own types
        self.routed = model.routed_modules
        self.between = parts_between(model)

    def call(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        images, choices = inputs
        count, variants, iteration = ops.shape(images)[0], 1, 0
        x = images
        for module, entrance in zip(self.routed, self.between, strict=False):  # one part more: after the last module
            # As `ReSet.call` does, which is not called here.
            x = ops.cast(entrance(x, training=False), module.compute_dtype)
            for k in range(module.num_iterations):
                scores = ops.one_hot(ops.tile(choices[:, iteration], [variants]), module.num_scores)
                # A variant begins at the iteration that it lacks: until then it is the whole route, the first `count`.
                without = module.activation(x[:count])
                x = module.activation(x + module.update(x, ops.cast(scores, "float32"), k, training=False))
                x = ops.concatenate([x, without])
                variants, iteration = variants + 1, iteration + 1
        logits = self.between[-1](x, training=False)
        return ops.transpose(ops.reshape(logits, (variants, -1, logits.shape[-1])), (1, 0, 2))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(ops.log_softmax(logits / TEMPERATURE, axis=-1))


def _divergences(whole: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """What the loss of each unit changes for each image, `(images, iterations)`."""
    expected = whole[:, None]
    return np.sum(np.exp(expected) * (expected - _log_softmax(outputs)), axis=-1)


def check_compute_target(model: ReSetNet, compute_target: float) -> None:
    """Raises `ValueError` unless a model's routes can be pruned to a mean compute fraction.

    Args:
        model: A `ReSetNet`.
        compute_target: Float, the fraction.
    """
    check_routed(model)
    for module in model.routed_modules:
        if not module.zero_unit:
            raise ValueError(f"Routes can be pruned where there are zero units. Received: '{module.name}' has none")
    count_operations(model.network, model.routed_modules).check_fraction("compute_target", compute_target)
