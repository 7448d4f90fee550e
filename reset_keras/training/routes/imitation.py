import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from reset_keras.argument_checks import check_images, check_integer, check_real
from reset_keras.distribution import replicas_of, strategy_scope, undistributed
from reset_keras.layers import ReSet, RNNController
from reset_keras.layers.controller import mean_features
from reset_keras.layers.frozen_parts import freeze_parts, frozen_parts
from reset_keras.models import ReSetNet
from reset_keras.models.routed_model import check_routed
from reset_keras.training.routes.trainable import train_everything

Tensor = Any
BATCH_SIZE = 128


def imitate_sequence(model: ReSetNet, images: np.ndarray, epochs: int = 30, label_smoothing: float = 0.0) -> None:
    """Teaches recurrent controllers the ResNet's own order of its blocks: unit k at iteration k.

    On this route a ReSet made of a trained ResNet (`resnet_to_reset`) is that ResNet, and its hard-routed accuracy is
    the ResNet's. Section 5.1 of the paper lets the task loss find the route, which takes thousands of batches and stays
    soft.

    Args:
        model: A `ReSetNet` whose modules have an `RNNController`, and as many units as iterations or more.
        images: Array of normalized images, shape `(count, height, width, channels)`.
        epochs: As in `imitate_routes`. Default 30.
        label_smoothing: As in `imitate_routes`. Default 0.

    Raises:
        ValueError: there is no image, a controller is of another kind, a module has fewer units than iterations, or
            `epochs` or `label_smoothing` is out of its range.

    Examples:
        >>> from reset_keras.models import ReSetNet
        >>> model = ReSetNet((2,), input_shape=(8, 8, 1), scorer="gumbel_st")
        >>> images = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("float32")
        >>> imitate_sequence(model, images)
        >>> [int(unit) for unit in model.predict_routes(images, verbose=0)[0]["logits"][0].argmax(axis=-1)]
        [0, 1]
    """
    check_recurrent(model)
    for module in model.routed_modules:
        if module.pool.num_units < module.num_iterations:
            raise ValueError(
                "The ResNet's order needs at least as many units as iterations. Received: module "
                f"'{module.name}' with {module.pool.num_units} units and {module.num_iterations} iterations"
            )
    sequence = [np.tile(np.arange(module.num_iterations), (len(images), 1)) for module in model.routed_modules]
    imitate_routes(model, images, sequence, epochs, label_smoothing)


def imitate_routes(
    model: ReSetNet,
    images: np.ndarray,
    routes: Sequence[np.ndarray],
    epochs: int = 30,
    label_smoothing: float = 0.0,
) -> None:
    """Teaches recurrent controllers the routes of some images, so that they choose similar ones for all others.

    Only the controllers change, one module after the other. They see only features averaged over positions, which are
    computed once, along the given routes in the module itself and along those that the network takes in the modules
    before it; the training takes seconds.

    Args:
        model: A `ReSetNet` whose modules have an `RNNController`.
        images: Array of normalized images, shape `(count, height, width, channels)`.
        routes: For each module an integer array of shape `(count, num_iterations)`: the score that is to be the
            largest, a unit's index, or the number of units for the zero unit.
        epochs: Integer, passes over the images' features. Default 30.
        label_smoothing: Float in [0, 1), the share of the policy that is spread evenly over all scores. Without it,
            controllers are so sure of these routes that a training which draws units hardly ever tries another one, and
            gets no gradient that would change them. Default 0.

    Raises:
        ValueError: there is no image, a controller is of another kind, the routes are not of these images and this
            model, or hold what `allowed` forbids, or `epochs` or `label_smoothing` is out of its range.

    Examples:
        >>> from reset_keras.models import ReSetNet
        >>> model = ReSetNet((2,), input_shape=(8, 8, 1), scorer="gumbel_st")
        >>> images = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("float32")
        >>> imitate_routes(model, images, [np.tile([1, 2], (64, 1))])
        >>> [int(unit) for unit in model.predict_routes(images, verbose=0)[0]["logits"][0].argmax(axis=-1)]
        [1, 2]
    """
    check_recurrent(model)
    modules = model.routed_modules
    if len(routes) != len(modules):
        raise ValueError(f"`routes` must have an array for each of {len(modules)} modules. Received: {len(routes)}")
    check_images(images)
    epochs = check_integer("epochs", epochs, least=1)
    label_smoothing = check_real("label_smoothing", label_smoothing, least=0, below=1)
    routes = [_checked(module, choices, len(images)) for module, choices in zip(modules, routes, strict=True)]
    for module, choices in zip(modules, routes, strict=True):
        entrance = keras.Model(model.input, module.input)
        batches = [slice(start, start + BATCH_SIZE) for start in range(0, len(images), BATCH_SIZE)]
        features = [_features(module, entrance(images[part], training=False), choices[part]) for part in batches]
        chosen = np.eye(module.num_scores)[choices]
        targets = (1 - label_smoothing) * chosen + label_smoothing / module.num_scores
        _fit(model, module, np.concatenate(features), targets, epochs)


def check_recurrent(model: ReSetNet) -> None:
    """Raises `ValueError` unless a model's controllers are recurrent."""
    check_routed(model)
    for module in model.routed_modules:
        if not isinstance(module.controller, RNNController):
            raise ValueError(
                "Routes can be imitated, and their cost held, where controllers are recurrent. Received: module "
                f"'{module.name}' with a {type(module.controller).__name__}. Make the model by "
                "`rk.resnet_to_reset(resnet, 'rnn', 'gumbel_st')`"
            )


def _checked(module: ReSet, choices: Any, count: int) -> np.ndarray:
    choices, expected = np.asarray(choices), (count, module.num_iterations)
    is_integer = np.issubdtype(choices.dtype, np.integer)
    if not is_integer or choices.shape != expected or choices.min() < 0 or choices.max() >= module.num_scores:
        span = f", from {choices.min()} to {choices.max()}" if is_integer and choices.size else ""
        raise ValueError(
            f"The routes of module '{module.name}' must be an array of integers of shape {expected}, scores from 0 to "
            f"{module.num_scores - 1}. Received: {choices.dtype} of shape {choices.shape}{span}"
        )
    allowed = module.allowed.mask[np.arange(module.num_iterations), choices]
    if not allowed.all():
        image, iteration = np.argwhere(~allowed)[0]
        raise ValueError(
            f"The routes of module '{module.name}' must be allowed in it. Received: in iteration {iteration} of image "
            f"{image} the choice {choices[image, iteration]}, which allowed={module.allowed.config!r} forbids"
        )
    return choices


def _features(module: ReSet, x: Tensor, choices: np.ndarray) -> np.ndarray:
    """What the controller sees along the chosen routes, `(images, iterations, channels)`."""
    seen = []
    for k in range(module.num_iterations):
        seen.append(mean_features(ops.cast(x, "float32")))  # controllers see float32 whatever the features' type
        scores = ops.one_hot(choices[:, k], module.num_scores, dtype="float32")
        x = module.activation(x + module.update(x, scores, k, training=False))
    return ops.convert_to_numpy(ops.stack(seen, axis=1))


class ControllerAlone(keras.Model):
    """A controller by itself: the features of all iterations to the logits of all."""

    def __init__(self, controller: RNNController) -> None:
        super().__init__(dtype="float32")  # or Keras rounds the features to the type of the global policy
        self.controller = controller

    def call(self, features: Tensor) -> Tensor:
        state = self.controller.initial_state(ops.shape(features)[0])
        logits = []
        for k in range(features.shape[1]):
            step, state = self.controller(features[:, k], state, iteration=k)
            logits.append(step)
        return ops.stack(logits, axis=1)


def _fit(model: ReSetNet, module: ReSet, features: np.ndarray, targets: np.ndarray, epochs: int) -> None:
    replicas, batch_size = replicas_of(model), BATCH_SIZE
    if replicas > 1:  # each must have as many of every batch: images are repeated until they do
        batch_size = replicas * math.ceil(BATCH_SIZE / replicas)
        count = batch_size * math.ceil(len(features) / batch_size)
        features, targets = (np.resize(array, (count, *array.shape[1:])) for array in (features, targets))
    frozen = frozen_parts(module.controller)
    if not module.controller.trainable_variables:  # as where units are trained along its routes
        train_everything(module.controller)
    try:
        with undistributed(), strategy_scope(model):
            student = ControllerAlone(module.controller)
            student.compile(keras.optimizers.Adam(0.01), keras.losses.CategoricalCrossentropy(from_logits=True))
            student.fit(features, targets, batch_size=batch_size, epochs=epochs, verbose=0)
    finally:
        freeze_parts(module.controller, frozen)
