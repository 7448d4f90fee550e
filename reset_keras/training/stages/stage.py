import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from reset_keras.argument_checks import check_integer

THE_ONE_BEFORE = "the one before"


@dataclasses.dataclass(frozen=True)
class Training:
    """How a stage trains its network.

    Args:
        steps: Integer, least length in batches, which is rounded up to epochs of equal length; callbacks may end it
            earlier.
        compile_options: Function that returns the arguments of `compile` anew: optimizer, entropy, skip reward. Metrics
            come after the accuracy.
        callbacks: Function of the number of epochs that returns Keras callbacks by name; one with `state` and `restore`
            methods is resumed. One that acts on batches is called for each of them: then TensorFlow takes steps one by
            one, which takes longer. Default: none.
        teacher: Name of an earlier stage whose network the trained one also learns from (`rk.Distillation`), or `None`.
            Default `None`.

    Raises:
        ValueError: `steps` is not positive.

    Examples:
        >>> training = Training(steps=100, compile_options=lambda: {"optimizer": keras.optimizers.SGD(0.1)})
        >>> training.epochs(steps_per_pass=40)  # three epochs of 34 steps
        (3, 34)
    """

    steps: int
    compile_options: Callable[[], dict[str, Any]]
    callbacks: Callable[[int], dict[str, keras.callbacks.Callback]] = lambda epochs: {}
    teacher: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", check_integer("steps", self.steps, least=1))

    def epochs(self, steps_per_pass: int) -> tuple[int, int]:
        """Number of epochs, each of at most a pass over the data, and steps in each.

        Together at least `steps`, as both are rounded up.
        """
        epochs = -(-self.steps // check_integer("steps_per_pass", steps_per_pass, least=1))
        return epochs, -(-self.steps // epochs)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of a pipeline: a network made from an earlier stage's, and how it is trained.

    Args:
        name: String, names the stage's folder; no two stages of a pipeline have the same.
        paper_steps: String, the steps of the paper's pipeline, or the row of its table, that it carries out. Default
            `"-"`: none.
        title: String, what it does, for tables. Default empty.
        prepare: Function of the network that the stage starts from (`None` where there is none) that returns this
            stage's, with its `trainable` flags set. It runs with the stage's random seed. Default: that network.
        training: How the network is trained, or `None` to leave it as it is. Default `None`.
        start: Name of the earlier stage that it starts from, or `None` for a new network. Default `"the one before"`.
        baseline: Name of the earlier stage whose network, one without modules, this one's are compared with. Default
            `None`: a ResNet of the same shape, or a model without modules itself; other routed models need a name.

    Examples:
        >>> training = Training(steps=100, compile_options=lambda: {"optimizer": keras.optimizers.SGD(0.1)})
        >>> resnet = Stage("resnet", "0", "a ResNet", lambda _: ResNet((2, 2)), training, start=None)
        >>> reset = Stage("reset", "1-2", "its blocks in pools", resnet_to_reset)  # see `Pipeline`, which runs stages
    """

    name: str
    paper_steps: str = "-"
    title: str = ""
    prepare: Callable[[Any], keras.Model] = lambda model: model
    training: Training | None = None
    start: str | None = THE_ONE_BEFORE
    baseline: str | None = None


def starting_stages(stages: list[Stage]) -> list[str | None]:
    """For each stage the name of the stage that it starts from, `None` where that is none.

    Raises:
        ValueError: two stages have one name, or one starts from, learns from or is compared with one that does not
            come before it.
    """
    names: list[str] = []
    found: list[str | None] = []
    for stage in stages:
        before = names[-1] if names else None
        start = before if stage.start == THE_ONE_BEFORE else stage.start
        teacher = stage.training.teacher if stage.training else None
        if stage.name in names or not {start, teacher, stage.baseline} <= {None, *names}:
            raise ValueError(
                "Stages need different names, and start from, learn from and are compared with stages before them. "
                f"Received: {stage.name!r}, which starts from {start!r}, learns from {teacher!r} and is compared with "
                f"{stage.baseline!r}, after {names}"
            )
        names.append(stage.name)
        found.append(start)
    return found
