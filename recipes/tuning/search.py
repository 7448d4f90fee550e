"""The tuner of `tune.py`, which runs trials and saves the best one's network."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import keras_tuner
import tensorflow as tf
from keras_tuner.engine.trial import Trial

from reset_keras.atomic_write import atomic_write, write_json
from reset_keras.callbacks import write_hparams
from reset_keras.training import forget_networks
from tuning.hypermodel import ReSetHyperModel, measure
from tuning.ranking import described, outcome
from tuning.search_space import NAMES, command, scratch_config


class Search(keras_tuner.Tuner):
    """Runs trials, and writes of each what it did: `result.json` and TensorBoard's logs.

    A training whose loss is not a number, or whose network needs more memory than there is, is a failed trial. Every
    other error ends the search, which the same command takes up again at that trial.

    Args:
        oracle: Chooses hyperparameters.
        hypermodel: Makes and trains networks.
        strategy: A `tf.distribute` strategy.
    """

    def __init__(self, oracle: keras_tuner.Oracle, hypermodel: ReSetHyperModel, strategy: Any) -> None:
        self.strategy = strategy
        # Kept because `search` silences the standard output, where trials still have something to say.
        self._output = sys.stdout
        super().__init__(oracle, hypermodel, directory=hypermodel.config.workdir, project_name="trials")

    def search(self) -> None:
        """Runs trials until none is left."""
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            try:
                super().search()  # KerasTuner 1.4.8 prints every condition of the space that it sends
            except keras_tuner.errors.FatalError as error:
                raise (error.__cause__ or error) from None

    def run_trial(self, trial: Trial) -> dict[str, float]:
        try:
            result = self._run(trial)
        except Exception as error:  # KerasTuner would count it as a failed trial
            raise keras_tuner.errors.FatalError(str(error)) from error
        if "failure" in result:
            raise keras_tuner.errors.FailedTrialError(result["failure"])
        return result

    def _run(self, trial: Trial) -> dict[str, Any]:
        began = time.monotonic()
        values = self.hypermodel.values(trial.hyperparameters)
        steps = self.hypermodel.last_epoch(trial.hyperparameters) * self.hypermodel.length()[1]
        self._say(f"--- trial {trial.trial_id}, {steps} batches: {described(values)}")
        log_dir = Path(self.directory, "tensorboard", f"trial-{trial.trial_id}")
        try:
            result: dict[str, Any] = self._train(trial, log_dir)
            settings = scratch_config(self.hypermodel.config, values)
            hparams = {"steps": steps, **{name: getattr(settings, name) for name in NAMES}}
            write_hparams(log_dir, hparams, result, f"trial {trial.trial_id}")
        except (FloatingPointError, tf.errors.ResourceExhaustedError) as error:
            result = {"failure": str(error)}
        row = {"trial": trial.trial_id, "worker": self.tuner_id, "steps": steps, "hyperparameters": values, **result}
        row["seconds"] = round(time.monotonic() - began, 1)
        write_json(self._folder(trial.trial_id) / "result.json", row)
        self._say(f"trial {trial.trial_id}: {outcome(row)}; {row['seconds']:.0f} s")
        return result

    def _train(self, trial: Trial, log_dir: Path) -> dict[str, float]:
        hp = trial.hyperparameters
        earlier = self._folder(hp["tuner/trial_id"]) if "tuner/trial_id" in hp.values else None
        forget_networks()
        with self.strategy.scope():
            model = self.hypermodel.build(hp)
        return self.hypermodel.fit(hp, model, self._folder(trial.trial_id), earlier, log_dir)

    def _say(self, line: str) -> None:
        print(line, file=self._output, flush=True)

    def _folder(self, trial_id: str) -> Path:
        return Path(self.get_trial_dir(trial_id))

    def save_best(self, row: dict[str, Any]) -> dict[str, Any]:
        """Saves a trial's network and measures it on the test images, once.

        Args:
            row: The best trial's, from the ranking.

        Returns:
            What `best.json` says.
        """
        folder, dataset = Path(self.directory), self.hypermodel.dataset
        model = self.hypermodel.trained(row["hyperparameters"], self._folder(row["trial"]))
        measured = {name: measure(model, dataset, part) for name, part in dataset.tests.items()}
        best = {
            "trial": row["trial"],
            "objective": row["objective"],
            "accuracy": {name: accuracy for name, (accuracy, _) in measured.items()},
            "compute_fraction": {name: fraction for name, (_, fraction) in measured.items()},
            "mean": dataset.mean.tolist(),
            "std": dataset.std.tolist(),
            "command": command(scratch_config(self.hypermodel.config, row["hyperparameters"])),
        }
        model.compile("sgd")  # the state of the trial's optimizer is of no more use
        with atomic_write(folder / "best.keras") as temporary:
            model.save(temporary)
        (folder / "best_command.txt").write_text(best["command"] + "\n")
        write_json(folder / "best.json", best)
        return best

    def pre_create_trial(self) -> None:
        time.sleep(0.2)  # or workers without a trial would ask for one as fast as they can

    def save(self) -> None:
        if not self._is_worker():
            self.oracle.save()
        write_json(Path(self._get_tuner_fname()), self.get_state())

    def _populate_initial_space(self) -> None:
        """KerasTuner builds networks to find out what they declare: here it is known without."""
        hp = self.oracle.get_space()
        self.hypermodel.values(hp)
        self.oracle.update_space(hp)
