"""A trial of `tune.py`: a short training of `from_scratch.py`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import keras_tuner
import numpy as np

import from_scratch
import reset_keras as rk
from reset_keras.callbacks import EpochTensorBoard, StopOnNaN
from reset_keras.data import ImageDataset, LabelledImages, evaluation_batches, steps_per_pass, training_batches
from reset_keras.training import Checkpoint, Training
from tuning.search_space import declare, scratch_config

if TYPE_CHECKING:
    from tuning.settings import TuneConfig


class ReSetHyperModel(keras_tuner.HyperModel):
    """A ReSet that is trained from scratch, with the hyperparameters of `search_space`.

    Args:
        config: Settings of the search.
        dataset: Training images, and as first test set those that trials are compared by.
    """

    def __init__(self, config: TuneConfig, dataset: ImageDataset) -> None:
        super().__init__()
        self.config = config
        self.dataset = dataset

    def build(self, hp: keras_tuner.HyperParameters) -> rk.ReSetNet:
        return self._network(self.values(hp))

    def fit(
        self, hp: keras_tuner.HyperParameters, model: rk.ReSetNet, folder: Path, earlier: Path | None, log_dir: Path
    ) -> dict[str, float]:
        """Trains and measures; goes on after the last epoch that has a checkpoint.

        Args:
            hp: KerasTuner's container of the trial. Hyperband's say which epoch ends it.
            model: From `build`.
            folder: Of the trial, for its checkpoints.
            earlier: Folder of the trial that this one prolongs, or `None`.
            log_dir: For TensorBoard.
        """
        training = self._stage(self.values(hp)).training
        (epochs, steps), last = self.length(), self.last_epoch(hp)
        checkpoint = Checkpoint(folder, {})
        first = checkpoint.restore(model)[0] or (Checkpoint(earlier, {}).restore(model)[0] if earlier else 0)
        if first < last:
            model.fit(
                training_batches(self.dataset, self.config.batch_size, self.config.seed, first * steps),
                initial_epoch=first,
                epochs=last,
                steps_per_epoch=steps,
                shuffle=False,
                callbacks=[
                    StopOnNaN(),
                    # Schedules are of a whole trial also where this one ends sooner: Hyperband may prolong it.
                    *training.callbacks(epochs).values(),
                    EpochTensorBoard(log_dir),
                    checkpoint,
                ],
                verbose=0,
            )
        accuracy, fraction = measure(model, self.dataset, self.dataset.test)
        objective = accuracy - max(0.0, fraction - self.config.compute_limit)
        return {"objective": objective, "accuracy": accuracy, "compute_fraction": fraction}

    def length(self) -> tuple[int, int]:
        """Number of epochs of a whole trial, and steps in each."""
        steps = self.config.scaled(self.config.train_steps)
        return Training(steps, dict).epochs(steps_per_pass(self.dataset, self.config.batch_size))

    def last_epoch(self, hp: keras_tuner.HyperParameters) -> int:
        """The epoch that ends the trial."""
        return hp.values.get("tuner/epochs", self.length()[0])

    def values(self, hp: keras_tuner.HyperParameters) -> dict[str, Any]:
        """The trial's hyperparameters, by their names in `FromScratchConfig`."""
        return declare(hp, self.config.scorers)

    def trained(self, values: dict[str, Any], folder: Path) -> rk.ReSetNet:
        """The network of a trial, from its last checkpoint.

        Args:
            values: Hyperparameters of the trial.
            folder: Of the trial.
        """
        model = self._network(values)
        Checkpoint(folder, {}).restore(model)
        return model

    def _network(self, values: dict[str, Any]) -> rk.ReSetNet:
        stage = self._stage(values)
        keras.utils.set_random_seed(self.config.seed)
        model = stage.prepare(None)
        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        model.compile(metrics=[accuracy], **stage.training.compile_options())
        # Before a checkpoint is restored, which also has the optimizer's variables.
        model.optimizer.build(model.trainable_variables)
        return model

    def _stage(self, values: dict[str, Any]) -> Any:
        settings = dataclasses.replace(scratch_config(self.config, values), train_steps=self.config.train_steps)
        (stage,) = from_scratch.stages(settings, self.dataset)
        return stage


def measure(model: rk.ReSetNet, dataset: ImageDataset, part: LabelledImages) -> tuple[float, float]:
    """Accuracy and mean compute fraction of a network on some images."""
    model.jit_compile = False  # compiled by XLA on a GPU, each size of batch would take longer than it saves
    outputs, routes = model.predict_with_routes(evaluation_batches(dataset, part), verbose=0)
    accuracy = np.mean(outputs.argmax(axis=-1) == part.labels)
    return float(accuracy), float(rk.inference.compute_fractions(model, routes).mean())
