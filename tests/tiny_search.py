"""A hyperparameter search that is over in seconds."""

from experiment import config
from tuning.settings import TuneConfig

TINY = ["--units", "1", "--batch-size", "512", "--train-steps", "6", "--compute-limit", "0.9"]
"""Three epochs of two batches."""


def settings(workdir, *flags):
    return config.parse(TuneConfig, "", ["--workdir", str(workdir), *TINY, *flags])
