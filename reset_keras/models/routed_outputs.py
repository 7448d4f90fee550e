from typing import Any, NamedTuple

Tensor = Any


class RoutedOutputs(NamedTuple):
    """What a `RoutedModel` computes: its outputs, and the routes that led to them.

    Args:
        outputs: What the model returns when it is called.
        routes: A list with, for each module, a dict of `"logits"` and `"scores"`, each of shape
            `(batch, num_iterations, num_scores)`.
    """

    outputs: Any
    routes: list[dict[str, Tensor]]

    @classmethod
    def of_network(cls, returned: dict[str, Any]) -> "RoutedOutputs":
        """What `RoutedModel.network` returned: a dict of both, with the routes by name."""
        return cls(returned["outputs"], in_order(returned["routes"]))


def by_name(routes: Any) -> dict[str, dict[str, Tensor]]:
    """Routes in the order of their modules, under names that a file or a functional model can keep."""
    return {f"module_{index}": dict(route) for index, route in enumerate(routes)}


def in_order(routes: dict[str, Any]) -> list[Any]:
    """What `by_name` was given."""
    return [routes[f"module_{index}"] for index in range(len(routes))]
