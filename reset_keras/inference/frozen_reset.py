from typing import Any

import keras
from keras import ops

from reset_keras.distribution import has_gpu
from reset_keras.inference import sparse
from reset_keras.inference.frozen_pool import FrozenResidualPool, freeze_pool
from reset_keras.layers import GumbelSTScorer, HardScorer, ReSet, TopKScorer

Tensor = Any
EXECUTIONS = ("auto", "dense", "sparse", "gathered")
GATHERED_BATCH = 256
"""Largest batch for which gathered kernels are faster than dense ones on a GPU, by the prototypes."""


class FrozenReSet(keras.layers.Layer):
    """A trained `ReSet` for inference alone: Algorithm 1 with the pool as constants.

    It is called like the module it was made of, and returns what that returns with `return_routes=True`.

    Args:
        module: A built `ReSet`.
        execution: How units are run: `"dense"`, all of them, weighted; `"sparse"`, the chosen ones alone, for their
            images (a branch for a batch of one); `"gathered"`, the chosen one of each image by gathered kernels;
            `"auto"`, by scorer, device and batch size.
        threshold: Float, 0 or above. Units whose score is not above it in size are left out.

    Raises:
        ValueError: `execution` does not fit the module, or its pool is of a class that cannot be frozen.
    """

    def __init__(self, module: ReSet, execution: str, threshold: float) -> None:
        super().__init__(name=module.name, dtype=module.dtype_policy, trainable=False)
        self.num_iterations, self.num_scores = module.num_iterations, module.num_scores
        self.activation = module.activation
        self.controller = _copy(module.controller, module.input.shape)
        self.scorer = _copy(module.scorer, (None, module.num_scores))
        self.pool = freeze_pool(module.pool, module.input.shape)
        self.execution = execution
        self.threshold = threshold
        self.one_hot = isinstance(self.scorer, GumbelSTScorer | HardScorer)
        self._check_execution()
        self.built = True

    def _check_execution(self) -> None:
        if self.execution not in EXECUTIONS:
            raise ValueError(f"`execution` must be one of {EXECUTIONS}. Received: execution={self.execution!r}")
        if self.threshold < 0:
            raise ValueError(f"`threshold` must not be negative. Received: threshold={self.threshold}")
        if self.execution == "sparse" and keras.backend.backend() != "tensorflow":
            raise ValueError(
                f"execution='sparse' needs the TensorFlow backend. Received: the {keras.backend.backend()} backend"
            )
        if self.execution == "gathered" and not (self.one_hot and isinstance(self.pool, FrozenResidualPool)):
            raise ValueError(
                "execution='gathered' needs residual units and a scorer that chooses one of them: 'gumbel_st' or "
                f"'hard'. Received: module '{self.name}' with a {type(self.scorer).__name__}"
            )

    def form(self, batch_size: int | None) -> str:
        """The execution for a batch, its size `None` where it is unknown: `"dense"`, `"sparse"` or `"gathered"`."""
        if self.execution != "auto":
            return self.execution
        skips = self.one_hot or isinstance(self.scorer, TopKScorer) or self.threshold > 0
        if not skips or keras.backend.backend() != "tensorflow":
            return "dense"
        if not has_gpu():
            return "sparse"
        gathered = self.one_hot and isinstance(self.pool, FrozenResidualPool)
        return "gathered" if gathered and batch_size and batch_size <= GATHERED_BATCH else "dense"

    def call(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        form = self.form(inputs.shape[0])
        x = inputs
        state = self.controller.initial_state(ops.shape(inputs)[0])
        all_logits, all_scores = [], []
        for k in range(self.num_iterations):
            logits, state = self.controller(x, state, iteration=k)
            scores = self.scorer(logits, training=False)
            if form == "dense":
                x = self.activation(x + self.pool.dense(x, self._above_threshold(scores), k))
            elif self.one_hot:
                x = self._run_chosen(form, x, ops.cast(ops.top_k(logits, 1)[1][:, 0], "int32"), k)
            else:
                x = self._run_scored(x, scores, k)
            all_logits.append(logits)
            all_scores.append(scores)
        return x, {"logits": ops.stack(all_logits, axis=1), "scores": ops.stack(all_scores, axis=1)}

    def _above_threshold(self, scores: Tensor) -> Tensor:
        return ops.where(ops.abs(scores) > self.threshold, scores, 0.0) if self.threshold else scores

    def _run_chosen(self, form: str, x: Tensor, choice: Tensor, iteration: int) -> Tensor:
        if form == "gathered":
            return self.activation(x + self.pool.gathered(x, choice, iteration))
        run = sparse.branch_chosen if x.shape[0] == 1 else sparse.run_chosen
        settled = iteration > 0 and self.activation in (keras.activations.relu, keras.activations.linear)
        return run(
            lambda index, part: self.activation(part + self.pool.run_unit(index, part, iteration)),
            x,
            choice,
            self.pool.num_units,
            (lambda part: part) if settled else self.activation,
        )

    def _run_scored(self, x: Tensor, scores: Tensor, iteration: int) -> Tensor:
        run = sparse.branch_scored if x.shape[0] == 1 else sparse.run_scored
        total = run(
            lambda index, part: self.pool.run_unit(index, part, iteration),
            x,
            scores[:, : self.pool.num_units],
            self.threshold,
        )
        return self.activation(x + total)

    def compute_output_spec(self, inputs: Tensor) -> tuple[Any, dict[str, Any]]:
        shape = (inputs.shape[0], self.num_iterations, self.num_scores)
        routes = {name: keras.KerasTensor(shape, dtype="float32") for name in ("logits", "scores")}
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype), routes


def _copy(layer: keras.layers.Layer, input_shape: tuple) -> keras.layers.Layer:
    """A built layer of the same weights, which later training of the original does not reach."""
    copy = type(layer).from_config(layer.get_config())
    copy.build(input_shape)
    for ours, theirs in zip(copy.weights, layer.weights, strict=True):
        ours.assign(ops.convert_to_numpy(theirs))
    return copy
