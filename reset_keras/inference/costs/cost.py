import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from reset_keras.argument_checks import integers
from reset_keras.inference.costs.macs import macs
from reset_keras.inference.costs.timing import ONE_BY_ONE, device_name, median_times, static_baseline
from reset_keras.inference.frozen.frozen_network import freeze
from reset_keras.models import ReSetNet, RoutedModel
from reset_keras.models.operations import count_operations


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a network costs for an image, counted and measured. Made by `cost`; printed, it is a table.

    Args:
        parameters: Integer, trainable parameters.
        macs: Float64 array of shape `(images,)`, multiply-accumulate operations of each image, of what really runs.
        parts: Mean MACs of each part: `"fixed layers"`, `"controllers"`, and for each unit its module's name and its
            number, from 1.
        compute_fractions: Float64 array of shape `(images,)`, `macs` over those of the static network of that shape.
        seconds: Median time of a batch in seconds, by batch size, of the frozen network: the mean of batches of some
            16 images, as routes differ by image.
        relative_times: `seconds` over those of the frozen static network, measured in turns with it; empty unless the
            model is a `ReSetNet`, the only kind with a static twin.
        device: Name of the device that was measured.
    """

    parameters: int
    macs: np.ndarray
    parts: dict[str, float]
    compute_fractions: np.ndarray
    seconds: dict[int, float]
    relative_times: dict[int, float]
    device: str

    def __str__(self) -> str:
        # Heavy to import, and needed only here.
        from rich.console import Console
        from rich.table import Table

        table = Table("Cost", caption=self.device, caption_justify="left")
        table.add_column("Value", justify="right")
        for line in self._lines().items():
            table.add_row(*line)
        console = Console(width=100)
        with console.capture() as capture:
            console.print(table)
        return capture.get()

    def _lines(self) -> dict[str, str]:
        low, middle, high = np.quantile(self.compute_fractions, [0.05, 0.5, 0.95])
        lines = {
            "parameters": f"{self.parameters:,}",
            "MACs of an image, mean": f"{self.macs.mean():,.0f}",
            **{f"  {part}": f"{count:,.0f}" for part, count in self.parts.items()},
            "compute fraction, mean": f"{self.compute_fractions.mean():.3f}",
            "  5 %, 50 %, 95 % of the images": f"{low:.3f}, {middle:.3f}, {high:.3f}",
        }
        for size, seconds in self.seconds.items():
            ratio = f", {self.relative_times[size]:.2f}x the static network's" if size in self.relative_times else ""
            lines[f"time of a batch of {size}"] = f"{1000 * seconds:.2f} ms{ratio}"
        return lines


def cost(model: keras.Model, images: np.ndarray, batch_sizes: Sequence[int] = (1, 128)) -> Cost:
    """Counts and measures what a network costs on these images.

    MACs are those of convolutions and dense layers, the controllers' among them; a unit counts for an image where its
    score is not zero. Time is that of the frozen network (`freeze`), which runs only those units where that is faster.
    That of a `ReSetNet` is also compared with its static twin's, which other models do not have.

    Args:
        model: A `RoutedModel`, or a functional model without modules such as a `ResNet`.
        images: Array of normalized images, at least one. Those that are timed are evenly spaced in it, some 16 in
            several batches where these are small; for batches larger than the array they are repeated.
        batch_sizes: Sequence of integers, batches that are timed. Default `(1, 128)`.

    Returns:
        A `Cost`; printed, it is a table.

    Raises:
        ValueError: there are no images, a batch size is not positive, or a layer is of a kind that cannot be counted.

    Examples:
        >>> report = cost(ReSetNet((2,), input_shape=(8, 8, 1), scorer="gumbel_st"), np.zeros((4, 8, 8, 1)), (1,))
        >>> report.macs.shape, sorted(report.relative_times)
        ((4,), [1])
    """
    sizes = integers(batch_sizes, least=1)
    if len(images) == 0 or not sizes:
        raise ValueError(
            f"`images` must hold an image and `batch_sizes` positive integers. Received: {len(images)} images, "
            f"batch_sizes={batch_sizes!r}"
        )
    parts, counted, static = _count(model, images)
    seconds, relative = _measure(model, images, sizes)
    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_variables)
    return Cost(parameters, counted, parts, counted / static, seconds, relative, device_name())


def _count(model: keras.Model, images: np.ndarray) -> tuple[dict[str, float], np.ndarray, float]:
    if not isinstance(model, RoutedModel):
        total = macs(model)
        return {"fixed layers": float(total)}, np.full(len(images), float(total)), float(total)
    routes = model.predict_routes(images, verbose=0)
    operations = count_operations(model.network, model.routed_modules)
    parts = {"fixed layers": float(operations.fixed), "controllers": float(operations.controllers)}
    for module, units in zip(model.routed_modules, operations.of_units(routes), strict=True):
        means = enumerate(units.mean(axis=0).tolist(), start=1)
        parts.update({f"{module.name}, unit {number}": mean for number, mean in means})
    return parts, operations.of_images(routes), operations.static


def _measure(
    model: keras.Model, images: np.ndarray, batch_sizes: Sequence[int]
) -> tuple[dict[int, float], dict[int, float]]:
    networks = {"ours": freeze(model)}
    if isinstance(model, ReSetNet):
        networks["static"] = freeze(static_baseline(model))
    seconds, relative = {}, {}
    for size in batch_sizes:
        batches = _spread(images, size)
        times = median_times(networks, batches)
        seconds[size] = times["ours"] / len(batches)
        if "static" in times:
            relative[size] = times["ours"] / times["static"]
    return seconds, relative


def _spread(images: np.ndarray, size: int) -> list[np.ndarray]:
    """Batches of a size, of evenly spaced images, repeated if there are fewer: one where it holds 16 images or all."""
    count = max(1, min(len(images), ONE_BY_ONE) // size)
    return np.split(np.asarray(images)[np.arange(count * size) * len(images) // (count * size)], count)
