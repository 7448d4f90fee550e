"""KerasTuner's oracles, which choose hyperparameters, made to survive a kill at any moment."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras_tuner
import numpy as np
import sklearn
from keras_tuner.engine.trial import Trial, TrialStatus
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from reset_keras.atomic_write import write_json

if TYPE_CHECKING:
    from tuning.settings import TuneConfig

TRIALS = 10
"""Trials of a random or Bayesian search, where the command line says nothing of it."""
FACTOR = 3
"""Of so many trials Hyperband goes on with the best one, so many times as long."""


def make_oracle(config: TuneConfig, epochs: int) -> keras_tuner.Oracle:
    """The oracle of a search.

    Args:
        config: Settings of the search.
        epochs: Integer, length of a whole trial, which Hyperband divides.
    """
    options = {
        "objective": keras_tuner.Objective("objective", "max"),
        "seed": config.seed + 1,  # KerasTuner takes 0 for none
        # By default three failed trials in a row end the search, but divergence is a result like others.
        "max_consecutive_failed_trials": sys.maxsize,
    }
    trials = config.trials or TRIALS
    if config.tuner == "hyperband":
        oracle = Hyperband(max_epochs=epochs, factor=FACTOR, **options)
        # KerasTuner's Hyperband takes no limit as an argument, but its base class heeds this attribute.
        oracle.max_trials = config.trials
    elif config.tuner == "random":
        oracle = Random(max_trials=trials, **options)
    else:  # by default three trials for each hyperparameter are random ones: all of a search as short as ours
        oracle = Bayesian(max_trials=trials, num_initial_points=max(2, trials // 3), **options)
    oracle.verbose = 0  # the trials say themselves what they are
    return oracle


class Durable:
    """What KerasTuner 1.4 lacks to go on after `kill -9` as if nothing had been.

    It writes its state in place, so that a kill can leave half a file; it takes a trial that has just begun for one
    that was done before, if killed between its two files; it runs a trial again that has just ended; and it adds the
    results of an interrupted trial to those of its repetition. Workers that ask when no trial is left wait here for
    those that still run: KerasTuner sends them home, and its chief then looks for the others every 20 seconds only.
    """

    def save(self: Any) -> None:
        write_json(Path(self._get_oracle_fname()), self.get_state())

    def _save_trial(self: Any, trial: Trial) -> None:
        write_json(Path(self._get_trial_dir(trial.trial_id), "trial.json"), trial.get_state())

    def reload(self: Any) -> None:
        """Takes up the trials that were begun; those that were not ended are the next ones, in their order."""
        super().reload()  # type: ignore[misc]
        self.trials = {name: self.trials[name] for name in self.start_order}
        unfinished = [trial for trial in self.trials.values() if trial.status == TrialStatus.RUNNING]
        for trial in unfinished:
            self.trials[trial.trial_id] = Trial(trial.hyperparameters, trial.trial_id)
        # KerasTuner takes the last one of this list first.
        self._retry_queue = [trial.trial_id for trial in reversed(unfinished)]

    @keras_tuner.synchronized
    def create_trial(self: Any, tuner_id: str) -> Trial:
        trial = super().create_trial(tuner_id)  # type: ignore[misc]
        if trial.status == TrialStatus.STOPPED and self.ongoing_trials:
            trial.status = TrialStatus.IDLE
            self.tuner_ids.add(tuner_id)
        return trial


class Random(Durable, keras_tuner.oracles.RandomSearchOracle):
    """Independent random trials."""


class Hyperband(Durable, keras_tuner.oracles.HyperbandOracle):
    """Many short trials, of which the best are prolonged."""


class Bayesian(Durable, keras_tuner.oracles.BayesianOptimizationOracle):
    """Trials where a Gaussian process of those before has its upper confidence bound."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """KerasTuner does not save this state: here it follows from the seed and the number of trials."""
        self._random_state = np.random.RandomState([self.seed, len(self.trials)])
        quick = sklearn.config_context(assume_finite=True, skip_parameter_validation=True)
        with warnings.catch_warnings(), threadpool_limits(1), quick:  # its matrices are tiny: threads double the time
            warnings.simplefilter("ignore", ConvergenceWarning)  # a handful of trials determines little
            return super().populate_space(trial_id)
