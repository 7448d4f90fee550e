"""What commands need that take trained networks to a dataset's test images."""

from __future__ import annotations

from typing import Any

from experiment import rk
from experiment.config import fail


def read_set(network: str, compute: float | None) -> Any:
    """A network by its file or name, at a compute fraction if it is one for every budget."""
    from reset_keras.training.stages.loading import read_network

    model = read_network(network)
    if compute is not None:
        rk.inference.set_compute(model, compute)
    return model


def images_for(models: dict[str, Any], dataset: str) -> tuple[Any, Any]:
    """The test images, normalized, and their labels; the process ends where they are not of a network's shape."""
    loaded = rk.data.load_dataset(dataset)
    found = tuple(loaded.test.images.shape[1:])
    for name, model in models.items():
        expected = tuple(model.input_shape[1:])
        if expected != found:
            fail(f"--dataset {dataset} has images of {found}; {name} takes {expected}: give its own")
    return loaded.normalize(loaded.test.images), loaded.test.labels
