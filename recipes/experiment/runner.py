"""What every recipe does around its list of stages."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from experiment import rk
from experiment.config import RecipeConfig, fail
from experiment.interruption import ended_in_words

ConfigOfRecipe = TypeVar("ConfigOfRecipe", bound=RecipeConfig)


Stages = Callable[[Any, "rk.data.ImageDataset"], "list[rk.training.Stage]"]


def run(config: Any, stages: Stages) -> list[dict[str, Any]]:
    """Carries out a recipe in its work directory, prints the table and writes the report.

    What can be wrong with the settings ends the process with one line and exit code 2 before any training; what ends
    the run from outside, as `interruption.ended_in_words` says.

    Args:
        config: A `RecipeConfig`.
        stages: Function of config and dataset that returns the stages.

    Returns:
        The rows of the table.
    """
    with ended_in_words():
        try:
            pipeline, recipe = _set_up(config, stages)
        except ValueError as error:
            fail(str(error))
        # Of the processes of a run only the first one speaks.
        with contextlib.nullcontext() if rk.training.is_first_process() else contextlib.redirect_stdout(io.StringIO()):
            _warn_of_seen_images(config)
            rows = pipeline.run(recipe)
            rk.analysis.print_table(rows)
            print(f"Report: {rk.analysis.write_report(pipeline.workdir, rows, pipeline.dataset)}")
            print(f"TensorBoard: tensorboard --logdir {pipeline.workdir.path}")
    return rows


def _set_up(config: RecipeConfig, stages: Stages) -> tuple[rk.training.Pipeline, list[rk.training.Stage]]:
    import keras

    keras.utils.set_random_seed(config.seed)  # or the processes would first have to agree on one
    # First, as the processes of a run must find each other before anything is computed; to choose a precision computes.
    strategy = rk.training.get_strategy(config.strategy)
    multihost = config.strategy == "multihost"
    folder = rk.training.own_work_directory(config.workdir) if multihost else config.workdir
    config = with_chosen_precision(config, folder)
    workdir = rk.training.WorkDirectory(folder, config.as_json(), config.REPLACEABLE)
    workdir.hold()
    make_repeatable()
    rk.training.set_precision(config.precision)
    dataset = rk.data.load_dataset(config.dataset, config.image_size)
    if (validation := getattr(config, "validation", None)) is not None:
        dataset = rk.data.hold_out(dataset, validation)
    if (calibration := getattr(config, "calibration", None)) is not None:
        held = rk.data.hold_out(dataset, calibration)
        # Behind the others: the first test set is the one that is validated on and compared by.
        dataset = dataclasses.replace(held, tests={**dataset.tests, "calibration": held.test})
    observer = rk.callbacks.RunObserver(dataset, workdir)
    pipeline = rk.training.Pipeline(dataset, workdir, config.batch_size, config.seed, strategy, observer)
    if not rk.training.is_first_process():
        warnings.simplefilter("ignore")
    return pipeline, stages(config, dataset)


def _warn_of_seen_images(config: RecipeConfig) -> None:
    held_out = [f"--{name}" for name in ("validation", "calibration") if getattr(config, name, None) is not None]
    pretrained = getattr(config, "pretrained", None)
    if held_out and pretrained is not None:
        print(
            f"Warning: {pretrained} may have been trained on the images that are held out by {' and '.join(held_out)}, "
            "as the networks of the package were. Without --pretrained a run trains its own, without these images"
        )


def make_repeatable() -> None:
    """Has TensorFlow repeat its results, on the CPU, and say no more than it must."""
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # each training traces its own functions, which TensorFlow takes for a mistake
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()


def with_chosen_precision(config: ConfigOfRecipe, folder: str | os.PathLike | None = None) -> ConfigOfRecipe:
    """The settings with `auto` replaced by what the run in the work directory has, or, for a new one, the machine.

    Args:
        config: A `RecipeConfig`.
        folder: The work directory. Default: that of the settings.

    Raises:
        ValueError: the precision is not available on this machine, or the run's config is damaged.
    """
    path = Path(config.workdir if folder is None else folder, "config.json")
    resumed = config.precision == "auto" and path.exists()
    earlier = rk.training.read_config(path).get("precision") if resumed else None
    return dataclasses.replace(config, precision=rk.training.choose_precision(earlier or config.precision))
