"""What every recipe does around its list of stages."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import RecipeConfig, fail
from interruption import explained

if TYPE_CHECKING:
    from reset_keras.data import ImageDataset
    from reset_keras.training import Stage


def run(config: Any, stages: Callable[[Any, ImageDataset], list[Stage]]) -> list[dict[str, Any]]:
    """Carries out a recipe in its work directory, prints the table and writes the report.

    What can be wrong with the settings ends the process with one line and exit code 2 before any training; what ends
    the run from outside, as `interruption.explained` says.

    Args:
        config: A `RecipeConfig`.
        stages: Function of config and dataset that returns the stages.

    Returns:
        The rows of the table.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.append(str(Path(__file__).parent.parent))  # a clone whose requirements alone are installed
    with explained():
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

    from reset_keras.data import load_dataset
    from reset_keras.training import Pipeline, WorkDirectory, get_strategy, own_work_directory

    keras.utils.set_random_seed(config.seed)  # or the processes would first have to agree on one
    strategy = get_strategy(config.strategy)
    folder = own_work_directory(config.workdir) if config.strategy == "multihost" else config.workdir
    workdir = WorkDirectory(folder, config.as_json(), config.REPLACEABLE)
    workdir.hold()
    tf.get_logger().setLevel("ERROR")  # each stage traces its own functions, which TensorFlow takes for a mistake
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
    dataset = load_dataset(config.dataset, config.image_size)
    pipeline = Pipeline(dataset, workdir, config.batch_size, config.seed, strategy)
    warnings.filterwarnings("ignore", message="The model does not have any trainable")
    return pipeline, stages(config, dataset)


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
