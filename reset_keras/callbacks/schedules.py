"""Temperatures and weights of the entropy along a training."""

import keras

from reset_keras.argument_checks import check_integer, check_real
from reset_keras.callbacks.route_callback import RouteCallback
from reset_keras.layers.scorers import COLDEST
from reset_keras.models import RoutedModel


class TemperatureSchedule(RouteCallback):
    """Lowers the temperature of a model's scorers geometrically, epoch by epoch.

    Args:
        first: Float above 1e-6, temperature in the first epoch.
        last: Float above 1e-6, temperature in the last epoch.
        epochs: Integer, number of epochs.

    Raises:
        ValueError: a temperature is not above 1e-6, or `epochs` is not positive; in `fit`, the model does not route.

    Examples:
        >>> callback = TemperatureSchedule(first=1.0, last=0.25, epochs=3)
        >>> [callback.temperature(epoch) for epoch in range(3)]
        [1.0, 0.5, 0.25]
    """

    def __init__(self, first: float, last: float, epochs: int) -> None:
        super().__init__()
        self.first = check_real("first", first, above=COLDEST)
        self.last = check_real("last", last, above=COLDEST)
        self.epochs = check_integer("epochs", epochs, least=1)

    def temperature(self, epoch: int) -> float:
        """Temperature in an epoch, which is counted from 0."""
        check_integer("epoch", epoch, least=0)
        progress = min(1.0, epoch / max(1, self.epochs - 1))
        return self.first * (self.last / self.first) ** progress

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        model: RoutedModel = self.model
        for module in model.routed_modules:
            module.scorer.temperature.assign(self.temperature(epoch))


class EntropySchedule(RouteCallback):
    """Reduces the entropy regularizer to 0 over the second half of a training, as the paper does (section 5.2).

    Both weights of the model's `Entropy` are constant for the first half, and then fall in a line to 0.

    Args:
        across: Float, weight of the entropy across images at the start.
        within: Float, weight of the entropy within a policy at the start.
        epochs: Integer, number of epochs.

    Raises:
        ValueError: a weight is not finite, or `epochs` is not positive; in `fit`, the model does not route, or was
            compiled without `entropy`.

    Examples:
        >>> callback = EntropySchedule(across=0.02, within=0.0, epochs=5)
        >>> [round(callback.share(epoch), 2) for epoch in range(5)]
        [1.0, 1.0, 1.0, 0.5, 0.0]
    """

    def __init__(self, across: float, within: float, epochs: int) -> None:
        super().__init__()
        self.across, self.within = check_real("across", across), check_real("within", within)
        self.epochs = check_integer("epochs", epochs, least=1)

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if getattr(model, "entropy", None) is None:
            raise ValueError(
                "EntropySchedule needs a model compiled with `entropy=rk.Entropy(...)`. Received: "
                f"'{model.name}', compiled with entropy=None"
            )

    def share(self, epoch: int) -> float:
        """Share of the first weights in an epoch, which is counted from 0; after the last one 0."""
        check_integer("epoch", epoch, least=0)
        progress = epoch / max(1, self.epochs - 1)
        return max(0.0, min(1.0, 2.0 * (1.0 - progress)))

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        share = self.share(epoch)
        self.model.entropy.across.assign(self.across * share)
        self.model.entropy.within.assign(self.within * share)
