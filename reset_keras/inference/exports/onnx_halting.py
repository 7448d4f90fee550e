"""Halting as ONNX nodes: what `HaltingRun` does, channels first."""

from typing import Any

import numpy as np

from reset_keras.inference.exports.onnx_graph import OnnxGraph
from reset_keras.inference.exports.onnx_operations import convolution, pooled
from reset_keras.layers import SACT
from reset_keras.layers.allowed import FORBIDDEN


class HaltingRunWriter:
    """Writes who has halted, and the output so far, one iteration after the other.

    Args:
        graph: Where the nodes are written.
        halting: A module's `ACT` or `SACT`, or `None`, with which nothing ever halts.
    """

    def __init__(self, graph: OnnxGraph, halting: Any) -> None:
        self.graph, self.halting = graph, halting
        self.sum: str | None = None
        if halting is not None:
            self.total, self.active = graph.constant(0.0), graph.constant(1.0)

    def masked(self, logits: str, num_scores: int) -> str:
        """The logits, those of images that have halted leaving only the zero unit."""
        # Before the first step nothing has halted, and `active` is a single number.
        if self.halting is None or self.sum is None:
            return logits
        graph = self.graph
        zero_unit = graph.constant([[*[FORBIDDEN] * (num_scores - 1), 0.0]])
        of_image = graph.add("ReduceMax", self.active, graph.constant([2, 3], "int64"), keepdims=0)
        return graph.add("Where", self._is_above_zero(of_image), logits, zero_unit)

    def step(self, x: str, updated: str, iteration: int) -> str:
        """The features after an iteration that made `updated` of `x`."""
        if self.halting is None:
            return updated
        graph, one = self.graph, self.graph.constant(1.0)
        if self.halting.copies_halted and iteration:
            updated = graph.add("Where", self._is_above_zero(self.active), updated, x)
        active, weights = self.active, graph.add("Sub", one, self.total)  # the remainder, where it halts
        if iteration in self.halting.scored:
            score = graph.add("Sigmoid", self._logits(updated, iteration))
            self.total = graph.add("Add", self.total, score)
            below = graph.add("Less", self.total, graph.constant(1.0 - self.halting.epsilon))
            weights = graph.add("Where", below, score, weights)
            self.active = graph.add("Mul", active, graph.add("Cast", below, to=1))  # float32
        part = graph.add("Mul", graph.add("Mul", active, weights), updated)
        self.sum = part if self.sum is None else graph.add("Add", self.sum, part)
        return updated

    def output(self, x: str) -> str:
        """The module's output, where `x` are its last features."""
        return x if self.sum is None else self.sum

    def _logits(self, x: str, iteration: int) -> str:
        """Of shape `(batch, 1, 1, 1)`, or `(batch, 1, height, width)`."""
        graph = self.graph
        weights = [graph.constant(np.array(part[iteration])) for part in (self.halting.kernels, self.halting.biases)]
        logits = graph.add("Gemm", pooled(graph, x), *weights)
        logits = graph.add("Unsqueeze", logits, graph.constant([2, 3], "int64"))
        if not isinstance(self.halting, SACT):
            return logits
        return graph.add("Add", convolution(graph, x, self.halting.convolutions[iteration]), logits)

    def _is_above_zero(self, x: str) -> str:
        return self.graph.add("Greater", x, self.graph.constant(0.0))
