import dataclasses
from typing import Any

import keras
import numpy as np

from reset_keras.analysis.route_meaning import NEIGHBOURS, random_controllers, route_meaning
from reset_keras.analysis.routes import Routes
from reset_keras.analysis.sequentialness import sequentialness
from reset_keras.data import ImageDataset, LabelledImages, evaluation_batches
from reset_keras.distribution import replicas_of
from reset_keras.inference import device_name, macs, relative_inference_times, routed_macs, static_baseline
from reset_keras.models import ReSetNet, ResNet, RoutedModel

CONTROL_IMAGES = 2000
"""Test images, at most, whose routes are compared with a random controller's."""


def evaluate(
    model: keras.Model, dataset: ImageDataset, baseline: keras.Model | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray], Routes | None]:
    """Measures on the test sets what a run's table says of a stage's network.

    Args:
        model: A Keras model that returns a logit for each class.
        dataset: Its test sets are used.
        baseline: A network without modules that operations and time are compared with. Default `None`: for a `ReSetNet`
            or a `ResNet` a ResNet of its shape, for another model without modules that itself.

    Returns:
        - The row: `accuracy` (each test set's share of right answers, by the set's name), `parameters`
          (`count_params()`), `macs` (of an image, the mean), `compute_fraction`, `skip_fraction`, `policy_entropy`
          (nats), `sequential_probability` and `sequential_choice` (as `sequentialness` has them), `route_meaning` (as a
          dict; these four `None` where there is nothing to say, or too few images to say it), and `relative_time` and
          `relative_time_of_one` on `device`, of a batch and of an image. All that is measured on images, but the
          accuracies, is of the first test set; operations and time are over the baseline's.
        - For each test set the predicted classes, by the set's name, and the labels, by that name and `_labels`: int16.
        - Routes of the first test set, `None` where the network has no modules.
    """
    if baseline is None:
        check_comparable(model)
        baseline = static_baseline(model) if isinstance(model, ReSetNet | ResNet) else model
    predictions: dict[str, np.ndarray] = {}
    all_routes = []
    for name, part in dataset.tests.items():
        outputs, part_routes = _predict(model, dataset, part)
        predictions[name] = outputs.argmax(axis=-1).astype(np.int16)
        predictions[f"{name}_labels"] = part.labels.astype(np.int16)
        all_routes.append(part_routes)
    routes = all_routes[0]
    accuracies = {name: float(np.mean(predictions[name] == part.labels)) for name, part in dataset.tests.items()}
    images = dataset.normalize(dataset.test.images[:128])
    times = relative_inference_times(model, baseline, images)
    own = macs(model) if routes is None else routed_macs(model, routes.modules).mean()
    row = {
        "accuracy": accuracies,
        "parameters": model.count_params(),
        "macs": float(own),
        "compute_fraction": float(own / macs(baseline)),
        **_row_of_routes(model, dataset, routes),
        "relative_time": times[128],
        "relative_time_of_one": times[1],
        "device": device_name(),
    }
    return row, predictions, routes


def check_comparable(model: keras.Model) -> None:
    """Raises `ValueError` for a model that is compared with no other unless one is named."""
    if isinstance(model, RoutedModel) and not isinstance(model, ReSetNet):
        raise ValueError(
            "a routed model that is no ReSetNet has no ResNet that its operations and time are compared with. Give "
            "`baseline`, the name of an earlier stage with a network without modules"
        )


def _row_of_routes(model: keras.Model, dataset: ImageDataset, routes: Routes | None) -> dict[str, Any]:
    near = None if routes is None else sequentialness(routes)
    return {
        "skip_fraction": 0.0 if routes is None else float(routes.skips().mean()),
        "policy_entropy": None if routes is None else routes.mean_entropy(),
        "sequential_probability": None if near is None else near.probability,
        "sequential_choice": None if near is None else near.choice,
        "route_meaning": None if routes is None else _meaning(model, dataset, routes),
    }


def _meaning(model: RoutedModel, dataset: ImageDataset, routes: Routes) -> dict[str, Any] | None:
    if len(dataset.test) <= NEIGHBOURS:
        return None
    # From all of the test set: where it is sorted, its first images are of a few classes.
    chosen = dataset.test.spread(CONTROL_IMAGES)
    part = LabelledImages(dataset.test.images[chosen], dataset.test.labels[chosen])
    with random_controllers(model):
        control = _predict(model, dataset, part)[1]
    return dataclasses.asdict(route_meaning(routes.of(chosen), control))


def _predict(model: keras.Model, dataset: ImageDataset, part: LabelledImages) -> tuple[np.ndarray, Routes | None]:
    batches = evaluation_batches(dataset, part, replicas_of(model))
    if not isinstance(model, RoutedModel):
        return model.predict(batches, verbose=0), None
    outputs, modules = model.predict_with_routes(batches, verbose=0)
    return outputs, Routes(modules, model.zero_units, part.labels)
