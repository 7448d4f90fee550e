"""Learning rates, temperatures and weights of the entropy over a training."""

import keras
from keras.optimizers import schedules

from reset_keras.models import RoutedModel

OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("paper", "cosine", "warmup_cosine")
WARMUP = 0.2
"""Share of a training in which the rate goes up."""


def make_optimizer(
    kind: str, rate: float, steps: int, scale: float = 1.0, schedule: str = "paper"
) -> keras.optimizers.Optimizer:
    """The paper's optimizers, with its schedules or others for short trainings.

    Args:
        kind: `"sgd"`, of momentum 0.9, or `"adam"`.
        rate: Float, the highest learning rate.
        steps: Integer, length of the training in batches.
        scale: Float, by which the training is shorter than the paper's; Adam's 1,000 steps shrink with it. Default 1.
        schedule: How the rate changes. Default `"paper"`.

            - `"paper"`: SGD's is divided by 10 after a half and after three quarters of the training, as He et al.
              (2016) do at 32k and 48k of 64k steps; Adam's is multiplied by 0.95 after every 1,000 steps.
            - `"cosine"`: it falls to 0 in a half cosine (Loshchilov and Hutter, 2017), which wastes none of a training
              that is too short for steps.
            - `"warmup_cosine"`: it rises from 0 in a line for the first fifth of the training, and then does so.

    Raises:
        ValueError: the kind or the schedule is unknown, or the rate is not positive.

    Example:

    >>> optimizer = make_optimizer("sgd", rate=0.1, steps=64_000)
    >>> float(optimizer.learning_rate)  # doctest: +ELLIPSIS
    0.1...
    """
    if kind not in OPTIMIZERS:
        raise ValueError(f"`kind` must be one of {OPTIMIZERS}. Received: kind={kind!r}")
    if schedule not in SCHEDULES:
        raise ValueError(f"`schedule` must be one of {SCHEDULES}. Received: schedule={schedule!r}")
    if rate <= 0:
        raise ValueError(f"`rate` must be above 0. Received: rate={rate}")
    rates = _rates(kind, rate, steps, scale, schedule)
    return keras.optimizers.SGD(rates, momentum=0.9) if kind == "sgd" else keras.optimizers.Adam(rates)


def _rates(kind: str, rate: float, steps: int, scale: float, schedule: str) -> schedules.LearningRateSchedule:
    if schedule == "cosine":
        return schedules.CosineDecay(rate, steps)
    if schedule == "warmup_cosine":
        warmup = round(WARMUP * steps)
        return schedules.CosineDecay(0.0, max(1, steps - warmup), warmup_target=rate, warmup_steps=warmup)
    if kind == "sgd":
        boundaries = [max(1, round(steps * 0.5)), max(2, round(steps * 0.75))]
        return schedules.PiecewiseConstantDecay(boundaries, [rate, rate / 10, rate / 100])
    return schedules.ExponentialDecay(rate, max(1, round(1000 * scale)), 0.95, staircase=True)


class TemperatureSchedule(keras.callbacks.Callback):
    """Lowers the temperature of a model's scorers geometrically, epoch by epoch.

    Args:
        first: Float above 0, temperature in the first epoch.
        last: Float above 0, temperature in the last epoch.
        epochs: Integer, number of epochs.

    Raises:
        ValueError: a temperature is not positive.

    Example:

    >>> callback = TemperatureSchedule(first=1.0, last=0.25, epochs=3)
    >>> [callback.temperature(epoch) for epoch in range(3)]
    [1.0, 0.5, 0.25]
    """

    def __init__(self, first: float, last: float, epochs: int) -> None:
        super().__init__()
        if first <= 0 or last <= 0:
            raise ValueError(f"Temperatures must be above 0. Received: first={first}, last={last}")
        self.first, self.last, self.epochs = first, last, epochs

    def temperature(self, epoch: int) -> float:
        """Temperature in an epoch, which is counted from 0."""
        progress = min(1.0, epoch / max(1, self.epochs - 1))
        return self.first * (self.last / self.first) ** progress

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        model: RoutedModel = self.model
        for module in model.routed_modules:
            module.scorer.temperature.assign(self.temperature(epoch))


class EntropySchedule(keras.callbacks.Callback):
    """Takes the entropy regularizer back towards the end of a training, as the paper does (section 5.2).

    Both weights of the model's `Entropy` are constant for the first half, and then fall in a line to 0.

    Args:
        across: Float, weight of the entropy across images at the start.
        within: Float, weight of the entropy within a policy at the start.
        epochs: Integer, number of epochs.

    Example:

    >>> callback = EntropySchedule(across=0.02, within=0.0, epochs=5)
    >>> [round(callback.share(epoch), 2) for epoch in range(5)]
    [1.0, 1.0, 1.0, 0.5, 0.0]
    """

    def __init__(self, across: float, within: float, epochs: int) -> None:
        super().__init__()
        self.across, self.within, self.epochs = across, within, epochs

    def share(self, epoch: int) -> float:
        """Share of the first weights in an epoch, which is counted from 0."""
        progress = epoch / max(1, self.epochs - 1)
        return min(1.0, 2.0 * (1.0 - progress))

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        share = self.share(epoch)
        self.model.entropy.across.assign(self.across * share)
        self.model.entropy.within.assign(self.within * share)
