import math
import os
from typing import Any

import numpy as np


def write_hparams(
    log_dir: str | os.PathLike, hparams: dict[str, Any], metrics: dict[str, float], name: str | None = None
) -> None:
    """Writes a run's hyperparameters and results for TensorBoard's HParams tab, where runs are compared.

    Args:
        log_dir: Folder of the run, a row of the tab.
        hparams: Hyperparameters by name: numbers, strings, booleans; anything else is written as text.
        metrics: Results by name, the tab's last columns; those that are no finite number are left out.
        name: String, what the tab calls the run; runs of one name become one row. Default `None`: the folder's path.

    Raises:
        ValueError: `hparams` is no dict, or its keys are no strings.

    Examples:
        >>> write_hparams("runs/mine", {"rate": 0.1, "scorer": "gumbel_st"}, {"accuracy": 0.97})  # doctest: +SKIP
    """
    import tensorflow as tf
    from tensorboard.plugins.hparams import api

    values = {parameter: _value(value) for parameter, value in check_hparams(hparams).items()}
    finite = {metric: float(value) for metric, value in metrics.items() if math.isfinite(value)}
    writer = tf.summary.create_file_writer(os.fspath(log_dir))
    with writer.as_default(step=0):
        columns = [api.Metric(f"result/{metric}", display_name=metric) for metric in finite]
        api.hparams_config([api.HParam(parameter) for parameter in values], columns)
        api.hparams(values, trial_id=name or os.fspath(log_dir))
        for metric, value in finite.items():
            tf.summary.scalar(f"result/{metric}", value)
    writer.close()


def check_hparams(hparams: Any) -> dict[str, Any]:
    """`ValueError` unless they are a dict whose keys are names."""
    if not isinstance(hparams, dict) or not all(isinstance(name, str) for name in hparams):
        raise ValueError(f"`hparams` must be a dict with strings as keys. Received: hparams={hparams!r}")
    return hparams


def _value(value: Any) -> Any:
    if value is None:
        return "none"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return value if isinstance(value, int | float | str) else str(value)
