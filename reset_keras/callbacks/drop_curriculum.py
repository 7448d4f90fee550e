import warnings
from collections.abc import Sequence

import keras

from reset_keras.argument_checks import check_integer, integers
from reset_keras.callbacks.route_callback import RouteCallback
from reset_keras.layers import PolicyController
from reset_keras.layers.lost_routes import RoutingWarning
from reset_keras.models import RoutedModel


class DropCurriculum(RouteCallback):
    """Lets a policy skip only the last iterations at first, and with each epoch more of those before, as in BlockDrop.

    A new policy would skip half of the units of a trained network, and all answers would be wrong: there is nothing to
    learn from. So all iterations but the last ones must run a unit (Wu et al., 2018, section 3.3), by the weight
    `open_iterations` of each module's `PolicyController`. (*Open*: the gate stays open, so that a unit always runs.)
    From the epoch `epochs` on all may skip; a training that ends before is warned of.

    Args:
        epochs: Integer, the number of epochs until all iterations, in the last of these, may skip. With as many as the
            model has iterations there is one more each epoch, as in the paper.

    Raises:
        ValueError: `epochs` is not positive; in `fit`, the model does not route, a controller is no `PolicyController`,
            or there is no zero unit.

    Examples:
        >>> DropCurriculum(epochs=4).open_iterations(0, [5, 3])
        [5, 1]
    """

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = check_integer("epochs", epochs, least=1)

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        for module in model.routed_modules:
            if not isinstance(module.controller, PolicyController) or not module.zero_unit:
                raise ValueError(
                    "DropCurriculum needs modules with a PolicyController and a zero unit. Received: "
                    f"'{module.name}' with a {type(module.controller).__name__} and zero_unit={module.zero_unit}"
                )

    def open_iterations(self, epoch: int, num_iterations: Sequence[int]) -> list[int]:
        """How many first iterations of each module must run a unit in an epoch, which is counted from 0.

        Args:
            epoch: Integer.
            num_iterations: Iterations of each module, in order.
        """
        epoch, lengths = check_integer("epoch", epoch, least=0), integers(num_iterations, least=1)
        if not lengths:
            raise ValueError(
                "`num_iterations` must hold a whole number from 1 up for each module. Received: "
                f"num_iterations={num_iterations!r}"
            )
        left = sum(lengths) * max(0, self.epochs - epoch - 1) // self.epochs
        counts = []
        for count in lengths:
            counts.append(min(count, left))
            left -= counts[-1]
        return counts

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        model: RoutedModel = self.model
        modules = model.routed_modules
        counts = self.open_iterations(epoch, [module.num_iterations for module in modules])
        for module, count in zip(modules, counts, strict=True):
            module.controller.open_iterations.assign(float(count))

    def on_train_end(self, logs: dict | None = None) -> None:
        closed = [int(module.controller.open_iterations) for module in self.model.routed_modules]
        if any(closed):
            warnings.warn(
                f"The training ended before the curriculum of {self.epochs} epochs: the first {closed} iterations of "
                "the modules still must run a unit, at inference too. Train for more epochs, or set "
                "module.controller.open_iterations to 0",
                RoutingWarning,
                stacklevel=2,
            )
