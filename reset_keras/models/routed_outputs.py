from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Tensor = Any


class RoutedOutputs(NamedTuple):
    """What a `RoutedModel` computes: its outputs, and the routes that led to them.

    Attributes:
        outputs: What the model returns when it is called.
        routes: A list with, for each module, a dict of `"logits"` and `"scores"`, each of shape
            `(batch, num_iterations, num_scores)`, and where it has halting `"active"` and `"ponder"`, as in `ReSet`.
    """

    outputs: Any
    routes: list[dict[str, Tensor]]

    @classmethod
    def of_network(cls, returned: dict[str, Any]) -> "RoutedOutputs":
        """What `RoutedModel.network` returned: a dict of both, with the routes by name."""
        return cls(returned["outputs"], in_order_of_modules(returned["routes"]))


def by_module(parts: Iterable[Any]) -> dict[str, Any]:
    """What belongs to the modules, in their order, under names that a file or a functional model can keep."""
    return {f"module_{index}": part for index, part in enumerate(parts)}


def in_order_of_modules(named: Mapping[str, Any]) -> list[Any]:
    """What `by_module` was given, from among other entries."""
    return [named[f"module_{index}"] for index in range(sum(name.startswith("module_") for name in named))]
