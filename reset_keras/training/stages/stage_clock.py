import time

import keras
import numpy as np


class StageClock(keras.callbacks.Callback):
    """Seconds that a stage has taken, over all the pieces that it was run in.

    As a callback with a state it goes into the stage's checkpoints: what a killed process did after its last one is
    done again, and counted once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return time.monotonic() - self._began

    def state(self) -> dict[str, np.ndarray]:
        return {"seconds": np.array(self.seconds)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self._began -= float(state["seconds"])
