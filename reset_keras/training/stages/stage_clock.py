import time

import numpy as np


class StageClock:
    """Seconds that a stage has taken, over all the pieces that it was run in.

    It goes into the stage's checkpoints as callbacks do: what a killed process did after its last one is done again,
    and counted once.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return time.monotonic() - self._began

    def state(self) -> dict[str, np.ndarray]:
        """The seconds until now, for a checkpoint."""
        return {"seconds": np.array(self.seconds)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Counts from a `state` on."""
        self._began -= float(state["seconds"])
