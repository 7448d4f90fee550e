import dataclasses
from collections.abc import Callable
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class Training:
    """How a stage trains its network.

    Args:
        steps: Integer, length in batches; callbacks may end it earlier.
        compile_options: Function that returns the arguments of `compile` anew: optimizer, entropy, skip reward.
        callbacks: Function of the number of epochs that returns Keras callbacks by name; one with `state` and `restore`
            methods is resumed. Default: none.
    """

    steps: int
    compile_options: Callable[[], dict[str, Any]]
    callbacks: Callable[[int], dict[str, keras.callbacks.Callback]] = lambda epochs: {}

    def epochs(self, steps_per_pass: int) -> tuple[int, int]:
        """Number of epochs and steps in each: as near to a pass over the data as divides the training evenly."""
        epochs = -(-self.steps // steps_per_pass)
        return epochs, -(-self.steps // epochs)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of a pipeline: a network made from the last stage's, and how it is trained.

    Args:
        name: String, names the stage's folder.
        steps: String, the steps of the paper's pipeline that it carries out.
        title: String, what it does, for tables.
        prepare: Function of the last stage's network (`None` for the first stage) that returns this stage's, with its
            `trainable` flags set. It runs with the stage's random seed.
        training: How the network is trained, or `None` to leave it as it is. Default `None`.
    """

    name: str
    steps: str
    title: str
    prepare: Callable[[Any], keras.Model]
    training: Training | None = None
