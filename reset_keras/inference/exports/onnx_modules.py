"""Frozen modules as ONNX nodes: one file for any batch, in which only the chosen units run."""

import keras
import numpy as np

from reset_keras.inference.exports.onnx_controllers import CONTROLLERS
from reset_keras.inference.exports.onnx_graph import Branch, OnnxGraph
from reset_keras.inference.exports.onnx_halting import HaltingRunWriter
from reset_keras.inference.exports.onnx_operations import convolution, residual_unit
from reset_keras.inference.frozen.frozen_pool import FrozenResidualPool
from reset_keras.inference.frozen.frozen_reset import FrozenReSet
from reset_keras.layers import ACT, SACT, GumbelSoftmaxScorer, HaltingController, SoftmaxScorer, TopKScorer
from reset_keras.layers.allowed import FORBIDDEN
from reset_keras.layers.scorers import is_plain


class UnwrittenLayerError(ValueError):
    """There is no way to write a layer."""


def write_module(graph: OnnxGraph, module: FrozenReSet, x: str, context: str = "") -> str:
    """Algorithm 1 with the pool as constants.

    Args:
        graph: Where the nodes are written.
        module: The module.
        x: Name of its features, channels first.
        context: Name of its context, `""` where it has none. Default `""`.

    Returns:
        Name of its output.

    Raises:
        UnwrittenLayerError: the module has a part of a class that cannot be written.
    """
    _check(module)
    writer = ModuleWriter(graph, module)
    if module.route is not None:
        for k, unit in enumerate(module.route[: module.num_iterations]):
            x = writer.run(x, unit, k)(graph)
        return x
    controller = CONTROLLERS[type(module.controller)](graph, module.controller, x, context)
    for k, asks in enumerate(module.asks_controller):
        said = controller.step(x, k) if asks else writer.nothing_said(x)
        x = writer.halting.step(x, writer.step(x, said, k), k)
    return writer.halting.output(x)


def _check(module: FrozenReSet) -> None:
    parts = {
        "controller": type(module.controller) in CONTROLLERS,
        "pool": isinstance(module.pool, FrozenResidualPool),
        "scorer": module.one_hot or is_plain(module.scorer, SoftmaxScorer, GumbelSoftmaxScorer, TopKScorer),
        "activation": module.activation in (keras.activations.relu, keras.activations.linear),
        "halting": module.halting is None or type(module.halting) in (ACT, SACT),
    }
    for name, can_be_written in parts.items():
        if not can_be_written:
            part = getattr(module, name)
            kind = part.__name__ if name == "activation" else type(part).__name__
            raise UnwrittenLayerError(f"the {name} of '{module.name}' is a {kind}")


class ModuleWriter:
    """Writes one iteration after the other, in the form that its scorer allows.

    Args:
        graph: Where the nodes are written.
        module: The frozen module.
    """

    def __init__(self, graph: OnnxGraph, module: FrozenReSet) -> None:
        self.graph, self.module, self.pool = graph, module, module.pool
        self.halting = HaltingRunWriter(graph, module.halting)

    def nothing_said(self, x: str) -> str:
        """Logits of 0, where the controller is not asked."""
        graph, width = self.graph, self.graph.constant([self.module.num_scores], "int64")
        shape = graph.add("Concat", graph.add("Shape", x, start=0, end=1), width, axis=0)
        return graph.add("Expand", graph.constant(0.0), shape)

    def step(self, x: str, said: str, iteration: int) -> str:
        """The next features, from what the controller said in an iteration."""
        module = self.module
        if isinstance(module.controller, HaltingController):
            return self._in_order(x, said, iteration)
        choices = module.choices(iteration)
        if module.chooses_one and len(choices) == 1:  # of the score 1
            return self.run(x, choices[0], iteration)(self.graph)
        said = self.halting.masked(self._allowed(said, iteration), module.num_scores)
        if module.execution == "dense" or not module.skips:
            return self._all(x, self._scores(said), iteration)
        if module.in_order:
            unit = self.graph.constant(iteration, "int64")
            return self._in_order(x, self.graph.add("Gather", self._scores(said), unit, axis=1), iteration)
        if module.chooses_one:
            return self._chosen(x, said, iteration)
        return self._scored(x, self._scores(said), iteration)

    def _allowed(self, logits: str, iteration: int) -> str:
        mask, constant = self.module.allowed.mask[iteration], self.graph.constant
        return logits if mask.all() else self.graph.add("Where", constant(mask, "bool"), logits, constant(FORBIDDEN))

    def _scores(self, logits: str) -> str:
        graph, module = self.graph, self.module
        if module.one_hot:
            count, ends = graph.constant([module.num_scores], "int64"), graph.constant([0.0, 1.0])
            return graph.add("OneHot", graph.add("ArgMax", logits, axis=1, keepdims=0), count, ends)
        temperature = graph.constant(np.array(module.scorer.temperature))
        scores = graph.add("Softmax", graph.add("Div", logits, temperature))
        if is_plain(module.scorer, TopKScorer):
            _, places = graph.add_several("TopK", logits, graph.constant([module.scorer.k], "int64"), count=2)
            largest = graph.add("GatherElements", scores, places, axis=1)
            zeros = graph.add("Mul", scores, graph.constant(0.0))
            scores = graph.add("ScatterElements", zeros, places, largest, axis=1)
        if module.threshold:
            is_above = graph.add("Greater", graph.add("Abs", scores), graph.constant(module.threshold))
            scores = graph.add("Where", is_above, scores, graph.constant(0.0))
        return scores

    def _all(self, x: str, scores: str, iteration: int) -> str:
        """All units in two wide convolutions, the scores between them."""
        graph = self.graph
        allowed = self.module.allowed.units(iteration)
        if not allowed:
            return self._activated(graph, x)
        kernel1, bias1, kernel2, bias2 = self.pool.side_by_side(iteration, allowed)
        scores = graph.add("Gather", scores, graph.constant(allowed, "int64"), axis=1)
        spread = np.repeat(np.eye(len(allowed)), bias2.shape[-1], axis=1)
        weights, offset = (graph.add("MatMul", scores, graph.constant(matrix)) for matrix in (spread, bias2))
        y = graph.add("Relu", convolution(graph, x, kernel1, bias1))
        y = convolution(graph, graph.add("Mul", y, _over_positions(graph, weights)), kernel2)
        return self._activated(graph, graph.add("Add", graph.add("Add", x, y), _over_positions(graph, offset)))

    def _chosen(self, x: str, logits: str, iteration: int) -> str:
        """Where all images choose one unit, that; otherwise each unit for its group of images."""
        graph, choices = self.graph, self.module.choices(iteration)
        among = logits
        if len(choices) < self.module.num_scores:
            among = graph.add("Gather", logits, graph.constant(choices, "int64"), axis=1)
        place = graph.add("ArgMax", among, axis=1, keepdims=0)
        score = None
        if not self.module.one_hot:
            largest = graph.add("ReduceMax", self._scores(logits), graph.constant([1], "int64"))
            score = _over_positions(graph, largest)
        cases = [self.run(x, unit, iteration, score) for unit in choices]
        if graph.one_image:
            return graph.switch(place, cases)
        first, last = (graph.add(f"Reduce{end}", place, keepdims=0) for end in ("Min", "Max"))

        def in_groups(inner: OnnxGraph) -> str:
            order, count = _argsort(inner, place), len(choices)
            one_hot = inner.add("OneHot", place, inner.constant([count], "int64"), inner.constant([0, 1], "int64"))
            sizes = inner.add("ReduceSum", one_hot, inner.constant([0], "int64"), keepdims=0)
            parts = []
            for unit, group in zip(choices, inner.add_several("Split", order, sizes, count=count), strict=True):
                weights = inner.add("Gather", score, group) if score else None
                parts.append(self.run(inner.add("Gather", x, group), unit, iteration, weights)(inner))
            # The inverse of the permutation `order` puts the images back.
            return inner.add("Gather", inner.add("Concat", *parts, axis=0), _argsort(inner, order))

        return graph.branch(graph.add("Equal", first, last), lambda inner: inner.switch(first, cases), in_groups)

    def run(self, x: str, unit: int, iteration: int, score: str | None = None) -> Branch:
        """The next features of images that have chosen one unit."""

        def write(graph: OnnxGraph) -> str:
            if unit >= self.pool.num_units:
                return self._activated(graph, x)
            y = residual_unit(graph, x, self.pool.weights_of(unit, iteration))
            return self._activated(graph, graph.add("Add", x, graph.add("Mul", y, score) if score else y))

        return write

    def _scored(self, x: str, scores: str, iteration: int) -> str:
        """Each unit for the images that have a score for it."""
        graph, total = self.graph, x
        for unit in self.module.allowed.units(iteration):
            score = graph.add("Gather", scores, graph.constant(unit, "int64"), axis=1)
            total = self._plus_scored(x, total, score, self.pool.weights_of(unit, iteration))
        return self._activated(graph, total)

    def _plus_scored(self, x: str, total: str, score: str, weights: list[np.ndarray]) -> str:
        size = self.graph.add("Abs", score)

        def some(inner: OnnxGraph) -> str:
            rows = _where(inner, inner.add("Greater", size, inner.constant(0.0)))
            part = residual_unit(inner, inner.add("Gather", x, rows), weights)
            part = inner.add("Mul", part, _over_positions(inner, inner.add("Gather", score, rows), axes=3))
            return inner.add("ScatterND", total, _as_column(inner, rows), part, reduction="add")

        def every(inner: OnnxGraph) -> str:
            part = inner.add("Mul", residual_unit(inner, x, weights), _over_positions(inner, score, axes=3))
            return inner.add("Add", total, part)

        return _none_some_or_every(self.graph, size, (lambda _: total, some, every))

    def _in_order(self, x: str, above: str, iteration: int) -> str:
        """Unit k in iteration k for the images for which a value is above 0."""

        def some(inner: OnnxGraph) -> str:
            rows = _where(inner, inner.add("Greater", above, inner.constant(0.0)))
            part = self.run(inner.add("Gather", x, rows), iteration, iteration)(inner)
            return inner.add("ScatterND", self._activated(inner, x), _as_column(inner, rows), part)

        none = self.run(x, self.pool.num_units, iteration)
        return _none_some_or_every(self.graph, above, (none, some, self.run(x, iteration, iteration)))

    def _activated(self, graph: OnnxGraph, x: str) -> str:
        return graph.add("Relu", x) if self.module.activation is keras.activations.relu else x


def _none_some_or_every(graph: OnnxGraph, values: str, branches: tuple[Branch, Branch, Branch]) -> str:
    """By how many values of a vector are above 0. Most often it is all of them or none, and nothing is moved."""
    none, some, every = branches
    zero = graph.constant(0.0)
    if graph.one_image:
        return graph.branch(graph.add("Greater", values, zero), every, none)
    is_any, is_every = (
        graph.add("Greater", graph.add(f"Reduce{end}", values, keepdims=0), zero) for end in ("Max", "Min")
    )
    return graph.branch(is_any, lambda inner: inner.branch(is_every, every, some), none)


def _argsort(graph: OnnxGraph, values: str) -> str:
    """The places of a vector's values, int64, in the order of these."""
    return graph.add_several("TopK", values, graph.add("Shape", values), count=2, largest=0)[1]


def _where(graph: OnnxGraph, mask: str) -> str:
    """The places of a boolean vector that are true, int64."""
    return graph.add("Reshape", graph.add("NonZero", mask), graph.constant([-1], "int64"))


def _as_column(graph: OnnxGraph, rows: str) -> str:
    return graph.add("Reshape", rows, graph.constant([-1, 1], "int64"))


def _over_positions(graph: OnnxGraph, x: str, axes: int = 2) -> str:
    """Values of each image as factors of its features: the last axes, as many as are missing, are added."""
    return graph.add("Unsqueeze", x, graph.constant([*range(4 - axes, 4)], "int64"))
