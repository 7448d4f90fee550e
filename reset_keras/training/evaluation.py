from typing import Any

import keras
import numpy as np

from reset_keras.data import ImageDataset, LabelledImages, evaluation_batches
from reset_keras.inference import compute_fractions, relative_inference_time, static_baseline
from reset_keras.models import RoutedModel
from reset_keras.training.callbacks import mean_entropy


def evaluate(model: keras.Model, dataset: ImageDataset) -> dict[str, Any]:
    """What a run's table says of a stage's network, measured on the test sets.

    Args:
        model: A `ReSetNet` or a `ResNet`.
        dataset: Its test sets are used, its first one for all but the accuracies.

    Returns:
        A dict of `accuracy` (each test set's share of right answers, by the set's name), `compute_fraction`,
        `skip_fraction`, `policy_entropy` (nats, `None` for a static network) and `relative_time` (over the ResNet of
        the same depth).
    """
    accuracies, routes = {}, None
    for name, part in dataset.tests.items():
        outputs, part_routes = _predict(model, dataset, part)
        accuracies[name] = float(np.mean(outputs.argmax(axis=-1) == part.labels))
        routes = part_routes if routes is None else routes
    images = dataset.normalize(dataset.test.images[:128])
    row = {"accuracy": accuracies, "compute_fraction": 1.0, "skip_fraction": 0.0, "policy_entropy": None}
    if isinstance(model, RoutedModel) and routes is not None:
        row["compute_fraction"] = float(compute_fractions(model, routes).mean())
        row["skip_fraction"] = skip_fraction(model, routes)
        row["policy_entropy"] = mean_entropy(routes)
    return {**row, "relative_time": relative_inference_time(model, static_baseline(model), images)}


def skip_fraction(model: RoutedModel, routes: list[dict[str, Any]]) -> float:
    """Share of the iterations that run no unit at all, over images and modules."""
    idle = [
        ~np.any(route["scores"][..., : module.pool.num_units], axis=-1)
        for module, route in zip(model.routed_modules, routes, strict=True)
    ]
    return float(np.concatenate(idle, axis=1).mean())


def _predict(model: keras.Model, dataset: ImageDataset, part: LabelledImages) -> tuple[np.ndarray, Any]:
    batches = evaluation_batches(dataset, part)
    if not isinstance(model, RoutedModel):
        return model.predict(batches, verbose=0), None
    return model.predict_with_routes(batches, verbose=0)
