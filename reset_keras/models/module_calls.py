"""Where in a network its modules are called: layers may have been called elsewhere before."""

from typing import Any

import keras

from reset_keras.keras_internals import calls_of
from reset_keras.models.routed_outputs import in_order_of_modules


def module_calls(network: keras.Model) -> list[Any]:
    """The calls that returned the routes of a network, in the order of the routes, as `calls_of` has them.

    Args:
        network: Functional model whose outputs hold its modules' routes, as that of a `RoutedModel`.
    """
    makers = {id(tensor): call for call in calls_of(network) for tensor in call.output_tensors}
    return [makers[id(route["scores"])] for route in in_order_of_modules(network.output["routes"])]
