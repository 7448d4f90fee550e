"""The paper's optimizers, and how their learning rates change along a training."""

import keras
from keras.optimizers import schedules

from reset_keras.argument_checks import check_integer, check_real

OPTIMIZERS = ("sgd", "nesterov", "adam")
SCHEDULES = ("paper", "cosine", "warmup_cosine")
WARMUP = 0.2
"""Share of a training in which the rate goes up."""


def make_optimizer(
    kind: str, rate: float, steps: int, scale: float = 1.0, schedule: str = "paper"
) -> keras.optimizers.Optimizer:
    """The paper's optimizers, with its schedules or others for short trainings.

    Args:
        kind: `"sgd"`, of momentum 0.9, `"nesterov"`, the same with Nesterov's momentum, or `"adam"`.
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
        ValueError: the kind or the schedule is unknown, or a number is not positive.

    Examples:
        >>> optimizer = make_optimizer("sgd", rate=0.1, steps=64_000)
        >>> float(optimizer.learning_rate)  # doctest: +ELLIPSIS
        0.1...
    """
    if kind not in OPTIMIZERS:
        raise ValueError(f"`kind` must be one of {OPTIMIZERS}. Received: kind={kind!r}")
    if schedule not in SCHEDULES:
        raise ValueError(f"`schedule` must be one of {SCHEDULES}. Received: schedule={schedule!r}")
    # Keras computes a schedule in the type of its rate: a whole number's would soon be 0.
    rate, steps = check_real("rate", rate, above=0.0), check_integer("steps", steps, least=1)
    scale = check_real("scale", scale, above=0.0)
    rates = _rates(kind, rate, steps, scale, schedule)
    if kind == "adam":
        return keras.optimizers.Adam(rates)
    return keras.optimizers.SGD(rates, momentum=0.9, nesterov=kind == "nesterov")


def _rates(kind: str, rate: float, steps: int, scale: float, schedule: str) -> schedules.LearningRateSchedule:
    if schedule == "cosine":
        return schedules.CosineDecay(rate, steps)
    if schedule == "warmup_cosine":
        warmup = round(WARMUP * steps)
        # Keras counts the steps of the decay from the end of the warmup on.
        return schedules.CosineDecay(0.0, max(1, steps - warmup), warmup_target=rate, warmup_steps=warmup)
    if kind != "adam":
        boundaries = [max(1, round(steps * 0.5)), max(2, round(steps * 0.75))]
        return schedules.PiecewiseConstantDecay(boundaries, [rate, rate / 10, rate / 100])
    return schedules.ExponentialDecay(rate, max(1, round(1000 * scale)), 0.95, staircase=True)
