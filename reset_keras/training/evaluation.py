from typing import Any

import keras
import numpy as np
from scipy.special import softmax

from reset_keras.data import ImageDataset, LabelledImages, evaluation_batches
from reset_keras.inference import compute_fractions, device_name, relative_inference_time, static_baseline
from reset_keras.models import RoutedModel
from reset_keras.training.callbacks import mean_entropy


def evaluate(model: keras.Model, dataset: ImageDataset) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a run's table says of a stage's network, measured on the test sets.

    Args:
        model: A `ReSetNet` or a `ResNet`.
        dataset: Its test sets are used, its first one for all but the accuracies.

    Returns:
        A pair. The row: `accuracy` (each test set's share of right answers, by the set's name), `compute_fraction`,
        `skip_fraction`, `policy_entropy` (nats), `sequential_probability` and `sequential_choice` (as
        `sequential_policy` returns them; these three `None` where there is nothing to be said), and `relative_time`
        (over the ResNet of the same depth) on `device`. And for each test set the predicted classes, by the set's name,
        and the labels, by that name and `_labels`: int16.
    """
    predictions: dict[str, np.ndarray] = {}
    routes = None
    for name, part in dataset.tests.items():
        outputs, part_routes = _predict(model, dataset, part)
        predictions[name] = outputs.argmax(axis=-1).astype(np.int16)
        predictions[f"{name}_labels"] = part.labels.astype(np.int16)
        routes = part_routes if routes is None else routes
    accuracies = {name: float(np.mean(predictions[name] == part.labels)) for name, part in dataset.tests.items()}
    images = dataset.normalize(dataset.test.images[:128])
    row: dict[str, Any] = {
        "accuracy": accuracies,
        "compute_fraction": 1.0,
        "skip_fraction": 0.0,
        "policy_entropy": None,
        "sequential_probability": None,
        "sequential_choice": None,
    }
    if isinstance(model, RoutedModel) and routes is not None:
        row["compute_fraction"] = float(compute_fractions(model, routes).mean())
        row["skip_fraction"] = skip_fraction(model, routes)
        row["policy_entropy"] = mean_entropy(routes)
        row.update(sequential_policy(model, routes))
    row["relative_time"] = relative_inference_time(model, static_baseline(model), images)
    return {**row, "device": device_name()}, predictions


def skip_fraction(model: RoutedModel, routes: list[dict[str, Any]]) -> float:
    """Share of the iterations that run no unit at all, over images and modules."""
    idle = [
        ~np.any(route["scores"][..., : module.pool.num_units], axis=-1)
        for module, route in zip(model.routed_modules, routes, strict=True)
    ]
    return float(np.concatenate(idle, axis=1).mean())


def sequential_policy(model: RoutedModel, routes: list[dict[str, Any]]) -> dict[str, float | None]:
    """How near a policy is to the ResNet's own order of its blocks, unit k at iteration k (section 5.1).

    Args:
        model: The network.
        routes: What its `predict_routes` returned.

    Returns:
        A dict of `sequential_probability`, the policy's mean probability of unit k at iteration k over images and
        iterations, and `sequential_choice`, the share of them in which that unit has the largest logit; both `None`
        where a module has fewer units than iterations.
    """
    if any(module.pool.num_units < module.num_iterations for module in model.routed_modules):
        return {"sequential_probability": None, "sequential_choice": None}
    logits = [route["logits"] for route in routes]
    probabilities = [np.diagonal(softmax(part, axis=-1), axis1=1, axis2=2) for part in logits]
    choices = [part.argmax(axis=-1) == np.arange(part.shape[1]) for part in logits]
    return {
        "sequential_probability": float(np.concatenate(probabilities, axis=1).mean()),
        "sequential_choice": float(np.concatenate(choices, axis=1).mean()),
    }


def _predict(model: keras.Model, dataset: ImageDataset, part: LabelledImages) -> tuple[np.ndarray, Any]:
    batches = evaluation_batches(dataset, part)
    if not isinstance(model, RoutedModel):
        return model.predict(batches, verbose=0), None
    return model.predict_with_routes(batches, verbose=0)
