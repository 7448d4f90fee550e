from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from reset_keras.argument_checks import check_integer, check_real
from reset_keras.callbacks.resumable import ResumableCallback
from reset_keras.distribution import strategy_scope
from reset_keras.keras_internals import all_layers
from reset_keras.models import RoutedModel
from reset_keras.training.routes.trainable import train_all_but_controllers, train_everything, train_only_controllers

RULES = ("steps", "growing", "convergence")
PHASES: tuple[Callable[[RoutedModel], None], ...] = (train_all_but_controllers, train_only_controllers)


class TwoPhase(ResumableCallback):
    """Alternates, within a training, between all weights but the controllers' and the controllers (section 5.4.1).

    The model must be compiled with everything trainable. Each phase has its own training
    step, which is traced once; batch norms of units that are not trained use their moving statistics. It needs the
    TensorFlow backend, and `steps_per_execution` of 1. At the end everything is trainable again; where `fit` ends by an
    exception Keras does not tell callbacks: call `rk.training.train_everything(model)`, and compile again. Each `fit`
    begins with the first phase, unless a checkpoint has restored another.

    Args:
        rule: When the other phase begins. `"steps"`: after `phase_steps` batches. `"growing"`: likewise, but each
            phase of the controllers is longer by the factor `growth` than the one before. `"convergence"`: at the end
            of an epoch whose mean loss is not below the one before, in the same phase, by more than `tolerance` times
            the size of that one.
        phase_steps: Integer, batches of a phase. Default 500.
        growth: Float, 1 or above. Default 1.5.
        tolerance: Float in [0, 1), relative decrease of the loss that counts. Default 0.01.

    Raises:
        ValueError: an argument is out of its range; in `fit`, the model does not route, has layers that are not
            trained, was compiled with another `steps_per_execution`, or Keras has another backend.

    Examples:
        >>> callback = TwoPhase("steps", phase_steps=200)
        >>> model.fit(dataset, callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(
        self, rule: str = "steps", phase_steps: int = 500, growth: float = 1.5, tolerance: float = 0.01
    ) -> None:
        super().__init__()
        if rule not in RULES:
            raise ValueError(f"`rule` must be one of {RULES}. Received: rule={rule!r}")
        self.rule = rule
        self.phase_steps = check_integer("phase_steps", phase_steps, least=1)
        self.growth = check_real("growth", growth, least=1)
        self.tolerance = check_real("tolerance", tolerance, least=0, below=1)
        self._train_functions: dict[int, Any] = {}
        self.begin()

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        backend = keras.backend.backend()
        if backend != "tensorflow":
            raise ValueError(f"TwoPhase needs TensorFlow; received KERAS_BACKEND={backend}: unset it")
        if model.steps_per_execution != 1:
            raise ValueError(
                "TwoPhase needs steps_per_execution=1, to act after every batch: give it to `compile`. Received: "
                f"steps_per_execution={model.steps_per_execution}"
            )

    def begin(self) -> None:
        self.phase = 0
        """Number of phases that are over: the controllers are trained where it is odd."""
        self._steps = 0
        self._loss = np.inf

    def phase_length(self) -> int:
        """Batches of the current phase, where the rule counts them."""
        controllers_before = self.phase // 2
        grown = self.growth**controllers_before if self.rule == "growing" and self.phase % 2 else 1.0
        return round(self.phase_steps * grown)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        frozen = [layer.name for layer in all_layers(self.model) if layer.weights and not layer.trainable]
        if frozen:
            raise ValueError(
                "TwoPhase trains all layers in turn: call `rk.training.train_everything(model)`, then `compile`. "
                f"Received: layers that are not trained, {frozen}"
            )
        # Keras would build it in the first step, for the weights of the first phase.
        if not self.model.optimizer.built:
            with strategy_scope(self.model):
                self.model.optimizer.build(self.model.trainable_variables)
        # Those of an earlier `fit` may be of another `compile`.
        self._train_functions = {}
        self._enter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._steps += 1
        if self.rule != "convergence" and self._steps >= self.phase_length():
            self._next()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        logs["trains_controllers"] = float(self.phase % 2)
        if self.rule == "convergence":
            loss, before = float(logs["loss"]), self._loss
            self._loss = loss
            if np.isfinite(before) and loss >= before - self.tolerance * abs(before):
                self._next()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        train_everything(self.model)
        self.model.train_function = None  # the last phase's was traced without the other group

    def _next(self) -> None:
        self.phase, self._steps, self._loss = self.phase + 1, 0, np.inf
        self._enter()

    def _enter(self) -> None:
        """Makes the phase's part trainable, and gives the model the step that was traced that way."""
        group = self.phase % 2
        PHASES[group](self.model)
        # `make_train_function` makes one only where there is none, and `fit` looks it up anew for every step.
        self.model.train_function = self._train_functions.get(group)
        self.model.make_train_function()
        self._train_functions[group] = self.model.train_function

    def state(self) -> dict[str, np.ndarray]:
        return {"phase": np.array(self.phase), "steps": np.array(self._steps), "loss": np.array(self._loss)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        super().restore(state)
        self.phase, self._steps, self._loss = int(state["phase"]), int(state["steps"]), float(state["loss"])
