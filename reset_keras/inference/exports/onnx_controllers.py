"""Controllers as ONNX nodes."""

from typing import Any

import keras
import numpy as np

from reset_keras.inference.budgets.dial import TOLERANCE
from reset_keras.inference.exports.compute_input import COMPUTE, settings_of
from reset_keras.inference.exports.onnx_graph import OnnxGraph
from reset_keras.inference.exports.onnx_operations import convolution, dense, pooled
from reset_keras.inference.frozen.folding import fold
from reset_keras.layers import CNNController, GateController, HaltingController, PolicyController, RNNController
from reset_keras.layers.controller import FixedController
from reset_keras.layers.policy_controller import CLOSED


class ControllerWriter:
    """Writes what a controller says in one iteration after the other, and keeps the names of its state.

    Args:
        graph: Where the nodes are written.
        controller: The controller.
        x: Name of the module's features, whose batch the state is made for.
        context: Name of its context, `""` where it has none. Default `""`.
    """

    def __init__(self, graph: OnnxGraph, controller: Any, x: str, context: str = "") -> None:
        self.graph, self.controller, self.context = graph, controller, context
        self.start(x)

    def start(self, x: str) -> None:
        """Writes the state before the first iteration; there is none by default."""

    def step(self, x: str, iteration: int) -> str:
        """Name of the logits, of shape `(batch, num_scores)`."""
        raise NotImplementedError

    def _batch_size(self, x: str) -> str:
        return self.graph.add("Shape", x, start=0, end=1)


class RNNWriter(ControllerWriter):
    """ONNX's LSTM, which is one operation: many small ones cost more than a unit."""

    def start(self, x: str) -> None:
        cell, graph, size = self.controller.cell, self.graph, self.controller.hidden_size
        sizes = (graph.constant([1], "int64"), self._batch_size(x), graph.constant([size], "int64"))
        shape = graph.add("Concat", *sizes, axis=0)
        self.hidden = self.memory = graph.add("Expand", graph.constant([[[0.0]]]), shape)
        kernel, recurrent, bias = (_gates(np.array(w), size) for w in (cell.kernel, cell.recurrent_kernel, cell.bias))
        both = np.concatenate([bias, np.zeros_like(bias)])  # ONNX has a second bias, of the recurrent kernel
        self.weights = [graph.constant(array[np.newaxis]) for array in (kernel.T, recurrent.T, both)]

    def step(self, x: str, iteration: int) -> str:
        graph, controller = self.graph, self.controller
        shape = graph.constant([1, -1, controller.cell.kernel.shape[0]], "int64")
        means = graph.add("Reshape", graph.add("GlobalAveragePool", x), shape)
        inputs = (means, *self.weights, "", self.hidden, self.memory)
        size = {"hidden_size": controller.hidden_size}
        _, self.hidden, self.memory = graph.add_several("LSTM", *inputs, count=3, **size)
        return dense(graph, graph.add("Squeeze", self.hidden, graph.constant([0], "int64")), controller.dense)


class CNNWriter(ControllerWriter):
    """A convolution with the batch norm of each iteration folded in."""

    def step(self, x: str, iteration: int) -> str:
        kernel, bias = fold(self.controller.conv.kernel, self.controller.norm, iteration)
        x = self.graph.add("Relu", convolution(self.graph, x, kernel, bias))
        return dense(self.graph, pooled(self.graph, x), self.controller.dense)


class GateWriter(ControllerWriter):
    """The gate of an iteration: two dense layers on mean features."""

    def step(self, x: str, iteration: int) -> str:
        hidden = dense(self.graph, pooled(self.graph, x), self.controller.hidden[iteration])
        return dense(self.graph, self.graph.add("Relu", hidden), self.controller.dense[iteration])


class PolicyWriter(ControllerWriter):
    """One dense layer on the context, the logits of all iterations, of which each takes its own."""

    def start(self, x: str) -> None:
        logits = dense(self.graph, self.context, self.controller.dense)
        count = self.controller.num_iterations
        self.logits = self.graph.add_several("Split", logits, count=count, num_outputs=count, axis=1)

    def step(self, x: str, iteration: int) -> str:
        is_closed = np.array(self.controller.is_closed(iteration))
        if not is_closed.any():
            return self.logits[iteration]
        closed = self.graph.constant(CLOSED)
        return self.graph.add("Where", self.graph.constant(is_closed, "bool"), closed, self.logits[iteration])


class FixedWriter(ControllerWriter):
    """The same logits for every image."""

    def start(self, x: str) -> None:
        width = self.graph.constant([self.controller.num_scores], "int64")
        self.shape = self.graph.add("Concat", self._batch_size(x), width, axis=0)

    def step(self, x: str, iteration: int) -> str:
        logits = self.controller.logit * np.eye(self.controller.num_scores)[self.controller.route[iteration]]
        return self.graph.add("Expand", self.graph.constant(logits[np.newaxis]), self.shape)


class HaltingWriter(ControllerWriter):
    """In place of logits: how much the doubt of each image is above the limit, not above 0 once the image has halted.

    Of a calibrated network the limits are looked up by the input `compute`; without it, they are as they were set.
    """

    def start(self, x: str) -> None:
        iterations = range(self.controller.num_units)
        self.least: str | None = None
        rows = settings_of(self.controller)
        graph = self.graph
        compute = graph.setting(COMPUTE, rows[-1, 0]) if len(rows) > 1 else graph.constant(np.inf)
        is_within = graph.add("LessOrEqual", graph.constant(rows[:, 0] - TOLERANCE), compute)
        count = graph.add("ReduceSum", graph.add("Cast", is_within, to=7), keepdims=0)  # int64
        first = graph.constant(1, "int64")
        # A request below the cheapest setting gets that one.
        row = graph.add("Sub", graph.add("Max", count, first), first)
        table = [[_limit(depth, threshold, k) for k in iterations] for _, depth, threshold in rows]
        limits = graph.add("Gather", graph.constant(table), row)
        self.limits = graph.add_several("Split", limits, count=len(iterations), num_outputs=len(iterations))
        self.size = self._batch_size(x)

    def step(self, x: str, iteration: int) -> str:
        if self.controller.is_never_sure:  # of no image, at no budget: its limits need no head
            return self.graph.add("Expand", self.graph.add("Neg", self.limits[iteration]), self.size)
        graph, classes = self.graph, self.controller.num_classes
        head = (graph.constant(np.array(w)) for w in (self.controller.head_kernel, self.controller.head_bias))
        if iteration == 0 and self.controller.activation is keras.activations.relu:
            x = graph.add("Relu", x)
        logits = graph.add("Gemm", pooled(graph, x), *head)
        descending, _ = graph.add_several("TopK", logits, graph.constant([classes], "int64"), count=2)
        sizes = graph.constant([1, classes - 1], "int64")
        largest, others = graph.add_several("Split", descending, sizes, count=2, axis=1)
        axis = graph.constant([1], "int64")
        log_odds = graph.add("Sub", graph.add("ReduceLogSumExp", others, axis), largest)
        above = graph.add("Sub", graph.add("Reshape", log_odds, graph.constant([-1], "int64")), self.limits[iteration])
        self.least = above if self.least is None else graph.add("Min", self.least, above)
        return self.least


def _limit(depth: float, threshold: float, iteration: int) -> float:
    """The log odds of all classes but the likeliest above which an image goes on; where none does, a very large one."""
    # In float32, as the controller computes it: near a threshold of 1 the rounding counts.
    doubt = float(np.float32(1.0) - np.float32(threshold))
    if iteration >= depth or doubt >= 1:
        return 1e30
    return float(np.log(doubt / (1.0 - doubt))) if doubt > 0 else -1e30


def _gates(weight: np.ndarray, size: int) -> np.ndarray:
    """A weight of Keras's LSTM with its gates, along the last axis, in ONNX's order: input, output, forget, cell."""
    entry, forget, cell, exit_ = (weight[..., n * size : (n + 1) * size] for n in range(4))
    return np.concatenate([entry, exit_, forget, cell], axis=-1)


CONTROLLERS: dict[type, type[ControllerWriter]] = {
    CNNController: CNNWriter,
    FixedController: FixedWriter,
    GateController: GateWriter,
    HaltingController: HaltingWriter,
    PolicyController: PolicyWriter,
    RNNController: RNNWriter,
}
"""What writes each class of controllers, and no subclass of it: that may compute something else."""
