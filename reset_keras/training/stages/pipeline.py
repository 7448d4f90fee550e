import contextlib
import pathlib
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from reset_keras.argument_checks import check_integer
from reset_keras.atomic_write import atomic_write, write_json
from reset_keras.data import ImageDataset, evaluation_batches, steps_per_pass, training_batches
from reset_keras.distribution import replicas_of
from reset_keras.losses import Distillation
from reset_keras.models import RoutedModel
from reset_keras.training.devices.multihost import Validation
from reset_keras.training.devices.precision import forget_networks
from reset_keras.training.devices.strategy import check_batch_size
from reset_keras.training.routes.teacher import HalfMirrored
from reset_keras.training.routes.trainable import train_everything
from reset_keras.training.stages.checkpoint import Checkpoint
from reset_keras.training.stages.loading import is_whole
from reset_keras.training.stages.observer import Observer
from reset_keras.training.stages.stage import Stage, Training, starting_stages
from reset_keras.training.stages.stage_clock import StageClock
from reset_keras.training.stages.work_directory import DamagedRunError, WorkDirectory, read_result

CLOCK = "clock"
VALIDATIONS_PER_STAGE = 20
LONGEST_EXECUTION = 16
"""Most steps that TensorFlow takes by itself, without Python in between."""


class Pipeline:
    """Runs stages one after the other in a work directory, and goes on where it was interrupted.

    Every stage starts from the file of an earlier one and with another seed, so that a run that was killed and started
    again computes the same as an undisturbed one. A finished stage is not run again. Callbacks with a state of another
    library, such as Keras's `EarlyStopping`, begin anew where a stage goes on; a warning says so.

    Args:
        dataset: Images to train and test on.
        workdir: Where everything is written.
        batch_size: Integer, over all replicas.
        seed: Integer, not negative.
        strategy: A `tf.distribute` strategy, or a `keras.distribution.DataParallel`, under which every process of the
            run does the same, each in another work directory (`own_work_directory`).
        observer: Watches trainings and measures networks: `rk.callbacks.RunObserver(dataset, workdir)`.

    Raises:
        ValueError: the batch size does not fit the number of images or devices, or the seed is negative; in `run`,
            another process runs in the work directory.

    Examples:
        >>> import tempfile
        >>> from reset_keras.callbacks import RunObserver
        >>> from reset_keras.data import load_digits
        >>> from reset_keras.training import get_strategy
        >>> dataset, folder = load_digits(), tempfile.TemporaryDirectory()
        >>> workdir = WorkDirectory(folder.name, {"seed": 0})
        >>> pipeline = Pipeline(dataset, workdir, 64, 0, get_strategy("none"), RunObserver(dataset, workdir))
        >>> training = Training(steps=2, compile_options=lambda: {"optimizer": keras.optimizers.SGD(0.1)})
        >>> new = lambda _: ResNet((1,), 10, (8, 8, 1), width=4)
        >>> rows = pipeline.run([Stage("resnet", "0", "a ResNet", new, training, start=None)])  # doctest: +ELLIPSIS
        --- resnet (step 0): a ResNet...
        >>> rows[0]["stage"], (workdir.stage(0, "resnet") / "model.keras").exists()
        ('resnet', True)
    """

    def __init__(
        self,
        dataset: ImageDataset,
        workdir: WorkDirectory,
        batch_size: int,
        seed: int,
        strategy: Any,
        observer: Observer,
    ) -> None:
        self.seed = check_integer("seed", seed, least=0)
        self.dataset = dataset
        self.workdir = workdir
        self.batch_size = batch_size
        self.strategy = strategy
        self.observer = observer
        self.steps_per_pass = steps_per_pass(dataset, batch_size)
        self._is_multihost = isinstance(strategy, keras.distribution.DataParallel)
        check_batch_size(batch_size, strategy)
        self._folders: dict[str, pathlib.Path] = {}

    def run(self, stages: list[Stage]) -> list[dict[str, Any]]:
        """Runs all stages that are not done yet and returns the table, a row for each stage."""
        self.workdir.hold()
        self.workdir.write_config()
        rows: list[dict[str, Any]] = []
        for index, (stage, start) in enumerate(zip(stages, starting_stages(stages), strict=True)):
            folder = self._folders[stage.name] = self.workdir.stage(index, stage.name)
            result = folder / "result.json"
            done = result.exists()
            rows.append(read_result(result) if done else self._run_stage(index, stage, start))
            again = " (done before)" if done else ""
            print(f"[{index + 1}/{len(stages)}] {stage.name}: {_summary(rows[-1])}{again}", flush=True)
        return rows

    def _run_stage(self, index: int, stage: Stage, start: str | None) -> dict[str, Any]:
        clock = StageClock()
        self._check_baseline(stage)  # before the seed is set, as a network that is loaded draws numbers
        folder, log_dir = self._folders[stage.name], self.workdir.tensorboard(index, stage.name)
        seed = int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0])  # one for each stage of each run
        forget_networks()
        keras.utils.set_random_seed(seed)
        with self.strategy.scope():
            model = stage.prepare(self._network(start))
            if not isinstance(model, keras.Model):
                raise ValueError(
                    f"`prepare` of stage '{stage.name}' must return a Keras model. Received: {model!r}, from "
                    f"{'no network' if start is None else f'the network of {start!r}'}"
                )
            self.observer.check(stage, model)
            _compile(model, stage.training, **self._taught_by(stage.training, model))
        checkpoint, epochs = Checkpoint(folder, {CLOCK: clock}), 0
        if stage.training is not None:
            print(f"--- {stage.name} (step {stage.paper_steps}): {stage.title}", flush=True)
            epochs = self._train(stage.name, stage.training, model, checkpoint, log_dir, seed)
        _compile(model, stage.training, optimizer="sgd")  # the state of the stage's optimizer is of no more use
        model.jit_compile = False  # to compile would take longer than to measure
        with atomic_write(folder / "model.keras") as temporary:
            model.save(temporary)
        row = {
            "event": "stage",
            "stage": stage.name,
            "paper_steps": stage.paper_steps,
            "title": stage.title,
            "start": start,
            "epochs": epochs,
            **self.observer.measure(model, folder, checkpoint.callbacks, self._network(stage.baseline)),
            "seconds": round(clock.seconds, 1),
        }
        # The result is written last, as it marks the stage as done: a run that is killed before does all of this again,
        # and drops the row that it may have logged. From then on the checkpoints are of no use.
        self.observer.show(row, log_dir)
        self.workdir.keep_metrics(lambda line: (line.get("event"), line.get("stage")) != ("stage", stage.name))
        self.workdir.append_metrics(row)
        write_json(folder / "result.json", row)
        checkpoint.clear()
        return row

    def _network(self, stage: str | None) -> keras.Model | None:
        """The network that a stage ended with."""
        if stage is None:
            return None
        path = self._folders[stage] / "model.keras"
        if not is_whole(path):
            raise DamagedRunError(
                f"{path} is damaged or missing: remove the folder {path.parent} to train this stage again"
            )
        try:
            network = keras.models.load_model(path, compile=False)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, the network of stage '{stage}', cannot be loaded: {error}") from error
        train_everything(network)  # what a stage froze is its own affair
        return network

    def _check_baseline(self, stage: Stage) -> None:
        if isinstance(self._network(stage.baseline), RoutedModel):
            raise ValueError(
                f"stage '{stage.name}': operations and time are compared with those of a network without modules. "
                f"Received: baseline={stage.baseline!r}, whose network routes. Name another stage, or leave it out"
            )

    def _taught_by(self, training: Training | None, model: keras.Model) -> dict[str, Any]:
        """The argument of `compile` for a stage that has a teacher."""
        if training is None or training.teacher is None:
            return {}
        if not isinstance(model, RoutedModel):
            raise ValueError(
                "a stage with a `teacher` needs a `RoutedModel`, whose `compile` takes it: of a ResNet "
                f"`rk.resnet_to_reset` makes one. Received: a {type(model).__name__}"
            )
        teacher = self._network(training.teacher)
        return {"distillation": Distillation(HalfMirrored(teacher) if self.dataset.flip else teacher)}

    def _train(
        self,
        stage: str,
        training: Training,
        model: keras.Model,
        checkpoint: Checkpoint,
        log_dir: pathlib.Path,
        seed: int,
    ) -> int:
        """Trains from the last checkpoint on and returns the number of epochs that the network has seen."""
        epochs, steps_per_epoch = training.epochs(self.steps_per_pass)
        of_training = training.callbacks(epochs)
        callbacks = self.observer.callbacks(stage, model, log_dir, of_training)
        taken = [name for name, given in of_training.items() if name == CLOCK or callbacks.get(name) is not given]
        if taken:
            raise ValueError(
                f"callbacks of stage '{stage}' have names that the pipeline needs for others: {taken}. Rename them"
            )
        checkpoint.callbacks |= {name: c for name, c in callbacks.items() if hasattr(c, "restore")}
        with self.strategy.scope():
            # The checkpoint would build it too, but outside of the scope in which a strategy's variables must be made.
            model.optimizer.build(model.trainable_variables)
        first_epoch, stopped = checkpoint.restore(model)
        # Epochs after the checkpoint are done again, and logged again.
        self.workdir.keep_metrics(lambda line: line.get("stage") != stage or line.get("epoch", 0) < first_epoch)
        if stopped:
            epochs = first_epoch
        if first_epoch:
            _warn_of_forgetful(stage, callbacks)
        if 0 < first_epoch < epochs:
            print(f"Going on with {stage} after epoch {first_epoch} of {epochs}", flush=True)
        # Keras cannot do so with several replicas, and on JAX it would be a loop in Python all the same.
        single = keras.backend.backend() == "tensorflow" and self.strategy.num_replicas_in_sync == 1
        if single and model.steps_per_execution == 1:  # more were asked for in `compile_options`
            model.steps_per_execution = _steps_per_execution(steps_per_epoch, callbacks.values())
        tests = evaluation_batches(self.dataset, self.dataset.test, replicas_of(model))
        frequency = max(1, epochs // VALIDATIONS_PER_STAGE)

        def log(epoch: int, logs: dict[str, Any]) -> None:
            line = {"event": "epoch", "stage": stage, "epoch": epoch, "step": (epoch + 1) * steps_per_epoch}
            self.workdir.append_metrics(line | {name: float(value) for name, value in logs.items()})

        # Even where no epoch is left: what callbacks do at the end of a training is not done where the run was killed.
        # A `keras.distribution` acts only within its scope; a model remembers its `tf.distribute` strategy.
        with self.strategy.scope() if self._is_multihost else contextlib.nullcontext():
            history = model.fit(
                training_batches(self.dataset, self.batch_size, seed, first_epoch * steps_per_epoch),
                initial_epoch=first_epoch,
                epochs=epochs,
                steps_per_epoch=steps_per_epoch,
                shuffle=False,  # the stream is shuffled; by default Keras warns that it does not shuffle one
                validation_data=None if self._is_multihost else tests,
                validation_freq=frequency,
                callbacks=[
                    *([Validation(tests, frequency)] if self._is_multihost else []),
                    *callbacks.values(),
                    # The log first: when the run goes on, a line without a checkpoint is dropped, but none is added.
                    keras.callbacks.LambdaCallback(on_epoch_end=log),
                    checkpoint,
                ],
                verbose=1 if sys.stdout.isatty() else 2,
            )
        return first_epoch + len(history.epoch)


def _warn_of_forgetful(stage: str, callbacks: Mapping[str, keras.callbacks.Callback]) -> None:
    """Warns of callbacks that a resumed training cannot give their state, if they have one."""
    forgetful = [
        name
        for name, callback in callbacks.items()
        if not hasattr(callback, "restore") and not type(callback).__module__.startswith("reset_keras.")
    ]
    if forgetful:
        warnings.warn(
            f"Stage '{stage}' goes on from a checkpoint, and callbacks without `state` and `restore` begin anew: "
            f"{forgetful}. Those that look back, such as EarlyStopping, may act otherwise than in one piece",
            stacklevel=4,
        )


def _steps_per_execution(steps_per_epoch: int, callbacks: Iterable[keras.callbacks.Callback]) -> int:
    """The most steps that fill an epoch evenly: Keras would take the last of them beyond its end."""
    if any(_acts_on_batches(callback) for callback in callbacks):
        return 1
    return max(n for n in range(1, LONGEST_EXECUTION + 1) if steps_per_epoch % n == 0)


def _acts_on_batches(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback does something before or after each batch, which those of Keras need not do."""
    for name in ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end"):
        # A `LambdaCallback` has what it was given as attributes.
        if name in vars(callback) or not getattr(type(callback), name).__module__.startswith("keras."):
            return True
    return False


def _compile(model: keras.Model, training: Training | None, **overrides: Any) -> None:
    default = {"optimizer": "sgd", "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    given = training.compile_options() if training else {}
    if training and "distillation" in given.keys() & overrides.keys():
        raise ValueError(
            "a stage learns from an earlier one, `teacher`, or from what `compile_options` name as `distillation`. "
            f"Received: both, the former {training.teacher!r}"
        )
    options = {**default, **given, **overrides}
    metrics = options.pop("metrics", None) or []
    if not isinstance(metrics, list | tuple):
        raise ValueError(f"`metrics` of a stage must be a list, beside the accuracy. Received: metrics={metrics!r}")
    # An object rather than its name: a metric that is made while the first step is traced has it traced twice.
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    model.compile(metrics=[accuracy, *metrics], **options)


def _summary(row: dict[str, Any]) -> str:
    accuracies = ", ".join(f"{name} {100 * accuracy:.2f} %" for name, accuracy in row["accuracy"].items())
    return f"accuracy {accuracies}; compute fraction {row['compute_fraction']:.2f}; {row['seconds']:.0f} s"
