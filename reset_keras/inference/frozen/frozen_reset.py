from typing import Any

import keras
from keras import ops

from reset_keras.distribution import has_gpu
from reset_keras.inference.frozen import sparse
from reset_keras.inference.frozen.frozen_pool import FrozenResidualPool, freeze_pool
from reset_keras.layers import GumbelSTScorer, HardScorer, ReSet, Scorer, TopKScorer

Tensor = Any
FROZEN_EXECUTIONS = ("auto", "dense", "sparse", "gathered")
GATHERED_BATCH = 256
"""Largest batch for which gathered kernels are faster than dense ones on a GPU, by the prototypes."""


class FrozenReSet(keras.layers.Layer):
    """A trained `ReSet` for inference only: Algorithm 1 with the pool as constants.

    It is called like the module it was made of, and returns what that returns with `return_routes=True`.

    Args:
        module: A built `ReSet`.
        execution: How units are run: `"dense"`, all of them, weighted; `"sparse"`, only the chosen ones, each for its
            images (for a batch of one, by branches); `"gathered"`, the chosen one of each image by kernels that are
            gathered; `"auto"`, by scorer, device and batch size.
        threshold: Float, 0 or above. Units whose score is not above it in size are left out.

    Raises:
        ValueError: `execution` does not fit the module, or its pool is of a class that cannot be frozen.
    """

    def __init__(self, module: ReSet, execution: str, threshold: float) -> None:
        super().__init__(name=module.name, dtype=module.dtype_policy, trainable=False)
        self.num_iterations, self.num_scores = module.num_iterations, module.num_scores
        self.activation = module.activation
        self.controller = _with_weights(module.new_controller(), module.controller)
        scorer = type(module.scorer).from_config(module.scorer.get_config())
        scorer.build((None, module.num_scores))
        self.scorer = _with_weights(scorer, module.scorer)
        self.pool: Any = freeze_pool(module.pool, module.input.shape)
        self.execution = execution
        self.threshold = threshold
        self.num_chosen = _num_chosen(self.scorer)
        self.one_hot = is_plain(self.scorer, GumbelSTScorer, HardScorer)
        self._check_execution()
        self.built = True

    def _check_execution(self) -> None:
        if self.execution not in FROZEN_EXECUTIONS:
            known = (*FROZEN_EXECUTIONS, "stock", "kernel")
            raise ValueError(f"`execution` must be one of {known}. Received: execution={self.execution!r}")
        if self.threshold < 0:
            raise ValueError(f"`threshold` must not be negative. Received: threshold={self.threshold}")
        if self.execution == "sparse" and keras.backend.backend() != "tensorflow":
            raise ValueError(
                f"execution='sparse' needs the TensorFlow backend. Received: the {keras.backend.backend()} backend"
            )
        if self.execution == "gathered" and not self._can_gather:
            raise ValueError(
                "execution='gathered' needs residual units and a scorer that chooses one of them: 'gumbel_st' or "
                f"'hard'. Received: module '{self.name}' with a {type(self.scorer).__name__}"
            )

    @property
    def _can_branch(self) -> bool:
        return self.num_chosen > 0 and isinstance(self.pool, FrozenResidualPool)

    @property
    def _can_gather(self) -> bool:
        return self.one_hot and isinstance(self.pool, FrozenResidualPool)

    def form(self, batch_size: int | None) -> str:
        """How a batch is run, its size `None` where it is unknown: dense, sparse, branch, branches or gathered."""
        skips = self.num_chosen > 0 or self.threshold > 0
        if batch_size == 1 and self._can_branch and self.execution in ("auto", "sparse"):
            return "branch"
        if self.execution != "auto":
            return self.execution
        if not skips:
            return "dense"
        if keras.backend.backend() == "tensorflow" and not has_gpu():
            return "sparse"
        return "gathered" if self._can_gather and batch_size and batch_size <= GATHERED_BATCH else "dense"

    def call(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        form = self.form(inputs.shape[0])
        x = inputs
        state = self.controller.initial_state(ops.shape(inputs)[0])
        all_logits, all_scores = [], []
        for k in range(self.num_iterations):
            logits, state = self.controller(x, state, iteration=k)
            scores = self.scorer(logits, training=False)
            x = self._step(form, x, logits, scores, k)
            all_logits.append(logits)
            all_scores.append(scores)
        return x, {"logits": ops.stack(all_logits, axis=1), "scores": ops.stack(all_scores, axis=1)}

    def _step(self, form: str, x: Tensor, logits: Tensor, scores: Tensor, iteration: int) -> Tensor:
        if form == "sparse" and self.one_hot and x.shape[0] != 1:
            return self._run_chosen(x, _largest(logits), iteration)
        if form == "branch" and self.one_hot:
            return self._branch_chosen(x, ops.argmax(logits[0]), iteration)
        if form == "gathered":
            total = self.pool.gathered(x, _largest(logits), iteration)
        elif form == "branch":
            total = self._branch_scored(x, scores, iteration)
        elif form in ("sparse", "branches"):
            run = sparse.branch_scored if x.shape[0] == 1 else sparse.run_scored
            unit_scores = scores[:, : self.pool.num_units]
            total = run(lambda i, part: self.pool.run_unit(i, part, iteration), x, unit_scores, self.threshold)
        else:
            total = self.pool.dense(x, self._above_threshold(scores), iteration)
        return self.activation(x + total)

    def _run_chosen(self, x: Tensor, choice: Tensor, iteration: int) -> Tensor:
        settled = iteration > 0 and self.activation in (keras.activations.relu, keras.activations.linear)
        return sparse.run_chosen(
            lambda index, part: self.activation(part + self.pool.run_unit(index, part, iteration)),
            x,
            choice,
            self.pool.num_units,
            (lambda part: part) if settled else self.activation,
        )

    def _branch_chosen(self, x: Tensor, index: Tensor, iteration: int) -> Tensor:
        return ops.cond(
            index < self.pool.num_units,
            lambda: self.activation(x + self.pool.indexed(x, index, iteration)),
            lambda: self.activation(x),
        )

    def _branch_scored(self, x: Tensor, scores: Tensor, iteration: int) -> Tensor:
        largest, indices = ops.top_k(scores[0], self.num_chosen)
        total = ops.zeros_like(x)
        for place in range(self.num_chosen):
            index, score = indices[place], largest[place]
            total = total + ops.cond(
                ops.logical_and(index < self.pool.num_units, score > self.threshold),
                lambda i=index, s=score: self.pool.indexed(x, i, iteration) * ops.cast(s, x.dtype),
                lambda: ops.zeros_like(x),
            )
        return total

    def _above_threshold(self, scores: Tensor) -> Tensor:
        return ops.where(ops.abs(scores) > self.threshold, scores, 0.0) if self.threshold else scores

    def compute_output_spec(self, inputs: Tensor) -> tuple[Any, dict[str, Any]]:
        shape = (inputs.shape[0], self.num_iterations, self.num_scores)
        routes = {name: keras.KerasTensor(shape, dtype="float32") for name in ("logits", "scores")}
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype), routes


def is_plain(scorer: Scorer, *classes: type[Scorer]) -> bool:
    """Whether a scorer computes as one of these classes does, and not differently."""
    return type(scorer).soft is Scorer.soft and any(type(scorer).call is plain.call for plain in classes)


def _num_chosen(scorer: Scorer) -> int:
    """How many units a scorer keeps at most, 0 where all may count."""
    if is_plain(scorer, GumbelSTScorer, HardScorer):
        return 1
    return int(scorer.k) if is_plain(scorer, TopKScorer) else 0


def _largest(logits: Tensor) -> Tensor:
    return ops.cast(ops.top_k(logits, 1)[1][:, 0], "int32")


def _with_weights(copy: Any, layer: keras.layers.Layer) -> Any:
    """A built layer with the weights of another, whose later training does not reach it."""
    for ours, theirs in zip(copy.weights, layer.weights, strict=True):
        ours.assign(ops.convert_to_numpy(theirs))
    return copy
