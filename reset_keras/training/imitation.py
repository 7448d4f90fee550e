from typing import Any

import keras
import numpy as np
from keras import ops

from reset_keras.distribution import undistributed
from reset_keras.layers import ReSet, RNNController
from reset_keras.models import ReSetNet

Tensor = Any
BATCH_SIZE = 128


def imitate_sequence(model: ReSetNet, images: np.ndarray, skip_probability: float = 0.0, epochs: int = 30) -> None:
    """Teaches recurrent controllers the ResNet's own order of its blocks: unit k at iteration k.

    A ReSet made of a trained ResNet (`resnet_to_reset`) is that ResNet on this route, so that its hard-routed accuracy
    is the ResNet's from there on; section 5.1 of the paper lets the task loss find the route, which takes thousands of
    batches and stays soft. Only the controllers change. They see pooled features alone, which are computed once, along
    that route; the training takes seconds.

    Args:
        model: A `ReSetNet` whose modules have an `RNNController`, and as many units as iterations or more.
        images: Array of normalized images, shape `(count, height, width, channels)`.
        skip_probability: Float in [0, 1), probability that the policy is to leave to the zero unit at every iteration,
            so that a training with noise goes on to explore skipping. Default 0.
        epochs: Integer, passes over the images' features. Default 30.

    Raises:
        ValueError: a controller is of another kind, a module has fewer units than iterations, or there is no zero unit
            that a positive `skip_probability` could go to.

    Example:

    >>> from reset_keras.models import ReSetNet
    >>> model = ReSetNet((2, 2), input_shape=(8, 8, 1), scorer="gumbel_st")
    >>> images = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("float32")
    >>> imitate_sequence(model, images)
    >>> [int(unit) for unit in model.predict_routes(images, verbose=0)[0]["logits"][0].argmax(axis=-1)]
    [0, 1]
    """
    if not 0.0 <= skip_probability < 1.0:
        raise ValueError(f"`skip_probability` must be in [0, 1). Received: skip_probability={skip_probability}")
    for module in model.routed_modules:
        _check(module, skip_probability)
    for module in model.routed_modules:
        entrance = keras.Model(model.network.input, module.input)
        features = [_features(module, entrance(part, training=False)) for part in _batches(images)]
        policy = _sequential_policy(module, skip_probability)
        _fit(module, np.concatenate(features), policy, epochs)


def _check(module: ReSet, skip_probability: float) -> None:
    if not isinstance(module.controller, RNNController) or module.pool.num_units < module.num_iterations:
        raise ValueError(
            "Imitation needs recurrent controllers, and at least as many units as iterations. Received: module "
            f"'{module.name}' with a {type(module.controller).__name__}, {module.pool.num_units} units and "
            f"{module.num_iterations} iterations"
        )
    if skip_probability and not module.zero_unit:
        raise ValueError(
            f"`skip_probability` needs a zero unit, which module '{module.name}' lacks. "
            f"Received: skip_probability={skip_probability}"
        )


def _batches(images: np.ndarray) -> list[np.ndarray]:
    return [images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)]


def _features(module: ReSet, x: Tensor) -> np.ndarray:
    """What the controller sees along the sequential route, `(images, iterations, channels)`."""
    seen = []
    for k in range(module.num_iterations):
        seen.append(ops.mean(x, axis=(1, 2)))
        choice = ops.one_hot(ops.full((ops.shape(x)[0],), k, dtype="int32"), module.num_scores, dtype="float32")
        x = module.activation(x + module.pool(x, choice, iteration=k, training=False))
    return ops.convert_to_numpy(ops.stack(seen, axis=1))


def _sequential_policy(module: ReSet, skip_probability: float) -> np.ndarray:
    """The policy to be learned, `(iterations, scores)`."""
    policy = (1.0 - skip_probability) * np.eye(module.num_iterations, module.num_scores)
    policy[:, -1] += skip_probability
    return policy


class ControllerAlone(keras.Model):
    """A controller by itself: the features of all iterations to the logits of all."""

    def __init__(self, controller: RNNController) -> None:
        super().__init__()
        self.controller = controller

    def call(self, features: Tensor) -> Tensor:
        state = self.controller.initial_state(ops.shape(features)[0])
        logits = []
        for k in range(features.shape[1]):
            step, state = self.controller(features[:, k], state, iteration=k)
            logits.append(step)
        return ops.stack(logits, axis=1)


def _fit(module: ReSet, features: np.ndarray, policy: np.ndarray, epochs: int) -> None:
    targets = np.broadcast_to(policy, (len(features), *policy.shape))
    with undistributed():
        student = ControllerAlone(module.controller)
        student.compile(keras.optimizers.Adam(0.01), keras.losses.CategoricalCrossentropy(from_logits=True))
        student.fit(features, targets, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
