import contextlib
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from reset_keras.distribution import has_gpu
from reset_keras.inference.frozen.active_positions import pays, residual_at
from reset_keras.inference.frozen.forms import FORMS_OF_ONE_UNIT, FORMS_OF_SCORES
from reset_keras.inference.frozen.frozen_pool import FreezeUnit, FrozenResidualPool, copy_of, copy_weights, freeze_pool
from reset_keras.inference.frozen.until_halted import run_each, run_together
from reset_keras.layers import (
    FixedController,
    GumbelSTScorer,
    HaltingController,
    HardScorer,
    ReSet,
    TopKScorer,
    decisions,
)
from reset_keras.layers.halting_run import HaltingRun
from reset_keras.layers.reset import SEEN
from reset_keras.layers.scorers import is_plain

Tensor = Any
# Methods that decide when an image halts: a module whose controller overrides one is run iteration by iteration.
HALTS_BY = ("call", "halts", "is_too_deep", "chosen", "seen_features")
# `exports.converted` also sets "branches", for LiteRT files.
FROZEN_EXECUTIONS = ("auto", "dense", "sparse", "kernel")


class FrozenReSet(keras.layers.Layer):
    """A trained `ReSet` for inference only: Algorithm 1 with the pool as constants.

    It is called like the module it was made of, and returns what that returns with `return_routes=True`. But where the
    controller need not be asked the logit of the only choice is 0, unless `keeps_logits`.

    Args:
        module: A built `ReSet`.
        freeze_unit: What returns the frozen form of a unit in a `UnitPool`, or `None` for one that is to be copied.
        execution: How units are run: `"dense"`, all of them, weighted; `"sparse"`, only the chosen ones, each for its
            images (for a batch of one, by branches); `"kernel"`, the chosen one of each image by a GPU kernel;
            `"auto"`, by scorer, device and batch size.
        threshold: Float in [0, 1). Units whose score is not above it in size are left out.
        keeps_logits: Boolean, whether all logits are those of the module. Default `False`.

    Raises:
        ValueError: `execution` is unknown, or does not fit the module or the backend, or the module's pool is of a
            class that cannot be frozen.
    """

    return_routes = True
    compute_output_shape = ReSet.compute_output_shape
    compute_output_spec = ReSet.compute_output_spec

    def __init__(
        self, module: ReSet, freeze_unit: FreezeUnit, execution: str, threshold: float, keeps_logits: bool = False
    ) -> None:
        # Without autocast: Keras would round the context, which stays float32, as it casts the features.
        super().__init__(name=module.name, dtype=module.dtype_policy, trainable=False, autocast=False)
        self.num_iterations, self.num_scores = module.num_iterations, module.num_scores
        self.allowed = module.allowed
        # Not by `copy_of`: a user's controller may make its weights only when its module calls it.
        self.controller = module.new_controller()
        copy_weights(module.controller, self.controller)
        self.scorer = copy_of(module.scorer, (None, module.num_scores))
        features = keras.KerasTensor(keras.tree.flatten(module.input)[0].shape, dtype=module.compute_dtype)
        self.halting = None if module.halting is None else copy_of(module.halting, features.shape)
        is_layer = isinstance(module.activation, keras.layers.Layer)
        self.activation = copy_of(module.activation, features.shape) if is_layer else module.activation
        self.pool: Any = freeze_pool(module.pool, features, module.num_iterations, freeze_unit)
        self.execution = execution
        self.threshold = threshold
        # A subclass with other methods may halt by other rules.
        self.halts = isinstance(self.controller, HaltingController) and all(
            getattr(type(self.controller), name) is getattr(HaltingController, name) for name in HALTS_BY
        )
        self.is_never_sure = self.halts and self.controller.is_never_sure
        self.one_hot = is_plain(self.scorer, GumbelSTScorer, HardScorer)
        self.asks_controller = [True] * self.num_iterations if keeps_logits else decisions.asks_controller(self)
        self._check_execution()
        self.built = True

    def _check_execution(self) -> None:
        if self.execution not in FROZEN_EXECUTIONS:
            raise ValueError(f"`execution` must be one of {FROZEN_EXECUTIONS}. Received: execution={self.execution!r}")
        backend = keras.backend.backend()
        if self.execution == "sparse" and backend != "tensorflow":
            raise ValueError(
                f"execution='sparse' needs the TensorFlow backend. Received: the {backend} backend. Use execution="
                "'auto' or 'dense'"
            )
        if self.execution == "kernel" and not (backend == "jax" and has_gpu()):
            raise ValueError(
                "execution='kernel' needs the JAX backend and a GPU that it sees: load the model's file with "
                f"KERAS_BACKEND=jax, and pip install 'jax[cuda12]'. Received: the {backend} backend"
                f"{'' if has_gpu() else ', without a GPU'}"
            )
        if self.execution == "kernel" and not self._fits_kernel:
            raise ValueError(
                "execution='kernel' needs residual units that compute in float32 or bfloat16, a scorer that chooses "
                "one unit ('gumbel_st', 'hard', or 'top_k' with k=1), and no threshold. Received: module "
                f"'{self.name}' of the type {self.compute_dtype} with a {type(self.pool).__name__}, a "
                f"{type(self.scorer).__name__} and threshold={self.threshold}"
            )

    @property
    def _fits_kernel(self) -> bool:
        fits = isinstance(self.pool, FrozenResidualPool) and self.pool.dtype in ("float32", "bfloat16")
        return self.chooses_one and fits and not self.threshold

    @property
    def route(self) -> list[int] | None:
        """The units that all images run, where they have one route: nothing is then decided."""
        if self.halting is not None or self.execution == "kernel" or not self.one_hot:
            return None
        if type(self.controller) is FixedController:
            return self.controller.route
        mask = decisions.choices(self)
        return mask.argmax(axis=1).tolist() if (mask.sum(axis=1) == 1).all() else None

    @property
    def skips(self) -> bool:
        """Whether units are left out."""
        return self.one_hot or is_plain(self.scorer, TopKScorer) or self.threshold > 0

    @property
    def chooses_one(self) -> bool:
        """Whether an image runs one unit only, or none, which may have a weight."""
        return self.one_hot or (is_plain(self.scorer, TopKScorer) and self.scorer.k == 1 and not self.threshold)

    @property
    def in_order(self) -> bool:
        """Whether unit k runs in iteration k, for the images that do not skip it."""
        return self.allowed.is_sequential and self.one_hot

    def choices(self, iteration: int) -> list[int]:
        """The units that an image may choose in an iteration, the zero unit among them."""
        if self.route is not None:
            return [self.route[iteration]]
        return np.flatnonzero(decisions.choices(self)[iteration]).tolist()

    def form(self, batch_size: int | None) -> str:
        """How a batch is run, its size `None` where it is unknown: a name in `forms`."""
        if self.route is not None:
            return "static"
        if self.execution == "dense" or (self.execution == "auto" and not self.skips):
            return "dense"
        backend = keras.backend.backend()
        by_kernel = backend == "jax" and has_gpu() and self._fits_kernel and not self.in_order
        if self.execution == "kernel" or (self.execution == "auto" and by_kernel):
            return "kernel"
        if self.execution == "branches" or batch_size == 1:
            # In order there is one unit to choose. LiteRT files, which run "branches", need constant kernels.
            looks_up = self.one_hot and not self.in_order and isinstance(self.pool, FrozenResidualPool)
            return "branch" if looks_up and self.execution != "branches" else "branches"
        # Elsewhere leaving units out saves no time: on a GPU moving images into groups costs more.
        on_cpu = backend == "tensorflow" and not has_gpu()
        return "sparse" if self.execution == "sparse" or on_cpu else "dense"

    def _form_of(self, iteration: int, form: str) -> Callable:
        """What computes an iteration: where one choice is left, all images take it without being looked at."""
        is_settled = self.chooses_one and len(self.choices(iteration)) == 1 and form not in ("dense", "kernel")
        return (FORMS_OF_ONE_UNIT if self.one_hot else FORMS_OF_SCORES)["static" if is_settled else form]

    def _until_halted(self, form: str, batch_size: int | None) -> Callable | None:
        """What runs the module until its images have halted, on TensorFlow; `None` where each iteration is a form."""
        if not self.halts or form == "dense" or self.execution == "branches" or keras.backend.backend() != "tensorflow":
            return None
        return run_together if batch_size == 1 or self.is_never_sure else run_each

    def _leaves_out_positions(self, form: str) -> bool:
        """Whether positions that have halted may be left out: on TensorFlow, not in files, which need fixed shapes."""
        fits = self.in_order and form in ("sparse", "branches") and isinstance(self.pool, FrozenResidualPool)
        return fits and self.execution != "branches" and keras.backend.backend() == "tensorflow"

    def _step_at(
        self, x: Tensor, active: Tensor, scores: Tensor, iteration: int, whole: Callable[[], Tensor]
    ) -> Tensor:
        """An iteration in order at the active positions, where that pays, or else `whole()`."""
        active = active * ops.reshape(scores[:, iteration], (-1, 1, 1, 1))
        weights = self.pool.weights_of(iteration, iteration)

        def at_active() -> Tensor:
            return self.activation(x + residual_at(x, weights, self.pool.dtype, active))

        return ops.cond(pays(active, x.shape[-1]), at_active, whole)

    def call(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        form = self.form(inputs.shape[0])
        leaves_out = self._leaves_out_positions(form)
        inputs = ops.cast(inputs, self.compute_dtype)
        until_halted = self._until_halted(form, inputs.shape[0])
        if until_halted is not None:
            return until_halted(self, inputs)
        x, run = inputs, HaltingRun(self.halting, inputs)
        state = self.controller.first_state(inputs, context)
        all_logits, all_scores, seen = [], [], []
        nothing_said = ops.zeros((ops.shape(inputs)[0], self.num_scores), "float32")
        for k, asks in enumerate(self.asks_controller):
            with _exact_products():
                logits, state = self.controller(x, state, iteration=k) if asks else (nothing_said, state)
            logits = run.masked(self.allowed.masked(ops.cast(logits, "float32"), k))
            scores = self.scorer(logits, training=False)
            if isinstance(self.controller, HaltingController):
                seen.append(self.controller.seen_features(x, k == 0))
            whole = functools.partial(self._form_of(k, form), self, x, logits, scores, k)
            active = run.active_positions() if leaves_out else None
            updated = whole() if active is None else self._step_at(x, active, scores, k, whole)
            # Halting is decided in it.
            with _exact_products():
                x = run.step(x, updated, k)
            all_logits.append(logits)
            all_scores.append(scores)
        by_iteration = {"logits": all_logits, "scores": all_scores, **({SEEN: seen} if seen else {})}
        routes = {name: ops.stack(parts, axis=1) for name, parts in by_iteration.items()}
        return run.output(x), routes | run.routes()


def _exact_products() -> contextlib.AbstractContextManager[None]:
    """Full float32 for what decides routes, by small differences: on a GPU JAX multiplies as TF32."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.default_matmul_precision("highest")
