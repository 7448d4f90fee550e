from typing import Any

import keras

from reset_keras.training.stages.work_directory import WorkDirectory


class MetricsLog(keras.callbacks.Callback):
    """Writes a line to `metrics.jsonl` after each epoch.

    Args:
        workdir: Where the line goes.
        stage: String, the stage's name.
        steps_per_epoch: Integer.
    """

    def __init__(self, workdir: WorkDirectory, stage: str, steps_per_epoch: int) -> None:
        super().__init__()
        self.workdir = workdir
        self.stage = stage
        self.steps_per_epoch = steps_per_epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {name: float(value) for name, value in (logs or {}).items()}
        step = (epoch + 1) * self.steps_per_epoch
        self.workdir.append_metrics({"event": "epoch", "stage": self.stage, "epoch": epoch, "step": step, **logs})
