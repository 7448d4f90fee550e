"""What every recipe does around its list of stages."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from experiment.config import RecipeConfig, fail
from experiment.interruption import ended_in_words

ConfigOfRecipe = TypeVar("ConfigOfRecipe", bound=RecipeConfig)

if TYPE_CHECKING:
    from reset_keras.data import ImageDataset
    from reset_keras.training import Stage


def run(config: Any, stages: Callable[[Any, ImageDataset], list[Stage]]) -> list[dict[str, Any]]:
    """Carries out a recipe in its work directory, prints the table and writes the report.

    What can be wrong with the settings ends the process with one line and exit code 2 before any training; what ends
    the run from outside, as `interruption.ended_in_words` says.

    Args:
        config: A `RecipeConfig`.
        stages: Function of config and dataset that returns the stages.

    Returns:
        The rows of the table.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with ended_in_words():
        try:
            pipeline, recipe = _set_up(config, stages)
        except ValueError as error:
            fail(str(error))
        with _first_process_alone_speaks():
            rows = pipeline.run(recipe)

            from reset_keras.analysis import print_table, write_report

            print_table(rows)
            print(f"Report: {write_report(pipeline.workdir, rows, pipeline.dataset)}")
            print(f"TensorBoard: tensorboard --logdir {pipeline.workdir.path}")
    return rows


def _set_up(config: RecipeConfig, stages: Callable[[Any, ImageDataset], list[Stage]]) -> tuple[Any, list[Stage]]:
    import keras
    import tensorflow as tf

    from reset_keras.callbacks import RunObserver
    from reset_keras.data import hold_out, load_dataset
    from reset_keras.training import Pipeline, WorkDirectory, get_strategy, own_work_directory, set_precision

    keras.utils.set_random_seed(config.seed)  # or the processes would first have to agree on one
    strategy = get_strategy(config.strategy)
    folder = own_work_directory(config.workdir) if config.strategy == "multihost" else config.workdir
    config = with_chosen_precision(config, folder)
    workdir = WorkDirectory(folder, config.as_json(), config.REPLACEABLE)
    workdir.hold()
    tf.get_logger().setLevel("ERROR")  # each stage traces its own functions, which TensorFlow takes for a mistake
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
    set_precision(config.precision)
    dataset = load_dataset(config.dataset, config.image_size)
    validation = getattr(config, "validation", None)
    if validation is not None:
        dataset = hold_out(dataset, validation)
    observer = RunObserver(dataset, workdir)
    pipeline = Pipeline(dataset, workdir, config.batch_size, config.seed, strategy, observer)
    warnings.filterwarnings("ignore", message="The model does not have any trainable")
    return pipeline, stages(config, dataset)


def with_chosen_precision(config: ConfigOfRecipe, folder: str | os.PathLike | None = None) -> ConfigOfRecipe:
    """The settings with `auto` replaced by what the run in the work directory has, or, for a new one, the machine.

    Args:
        config: A `RecipeConfig`.
        folder: The work directory. Default: that of the settings.

    Raises:
        ValueError: the precision is not to be had on this machine, or the run's config is damaged.
    """
    from reset_keras.training import choose_precision, read_config

    path = Path(config.workdir if folder is None else folder, "config.json")
    earlier = read_config(path).get("precision") if config.precision == "auto" and path.exists() else None
    return dataclasses.replace(config, precision=choose_precision(earlier or config.precision))


@contextlib.contextmanager
def _first_process_alone_speaks() -> Iterator[None]:
    """Silences all processes of a run but one."""
    from reset_keras.training import is_first_process

    if is_first_process():
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
