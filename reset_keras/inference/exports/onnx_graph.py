"""ONNX graphs, node by node."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

OPSET = 18
IR_VERSION = 9
"""Of ONNX 1.14, the first that has this opset and what followed: newer ones are refused by older runtimes."""
Branch = Callable[["OnnxGraph"], str]
"""Writes a branch into a graph and returns the name of its result."""


class OnnxGraph:
    """Nodes of a graph, and the weights that it shares with the graphs of its branches.

    Values go by names, which are made up here. Features are written channels first.

    Args:
        outer: The graph that this one is a branch of, or `None`. Default `None`.
        one_image: Boolean, whether batches have one image; branches are as their graph is. Default `False`.
    """

    def __init__(self, outer: "OnnxGraph | None" = None, one_image: bool = False) -> None:
        self.one_image: bool = one_image if outer is None else outer.one_image
        self.nodes: list[Any] = []
        self._outer = outer
        self._weights: dict[tuple, Any] = {}
        self.settings: dict[str, Any] = {}
        self._numbers: Any = itertools.count() if outer is None else outer._numbers

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """A node with one result; an input that is left out has the name `""`."""
        return self.add_several(operation, *inputs, count=1, **attributes)[0]

    def add_several(self, operation: str, *inputs: str, count: int, **attributes: Any) -> list[str]:
        """A node with several results."""
        # onnx is an extra: this module loads without it.
        from onnx import helper

        outputs = [self._new_name(operation) for _ in range(count)]
        self.nodes.append(helper.make_node(operation, inputs, outputs, **attributes))
        return outputs

    def constant(self, values: Any, dtype: str = "float32") -> str:
        """A value that all graphs share: there is one for all that are equal."""
        return self._outer.constant(values, dtype) if self._outer else self.weight(values, dtype)

    def setting(self, name: str, value: float) -> str:
        """A float32 scalar input that may be left out, and then has this value."""
        from onnx import numpy_helper

        self.settings[name] = numpy_helper.from_array(np.array(value, "float32"), name)
        return name

    def weight(self, values: Any, dtype: str = "float32") -> str:
        """A value of this graph: ONNX Runtime takes its fastest convolutions only for weights of the same graph."""
        from onnx import numpy_helper

        array = np.ascontiguousarray(values, dtype)
        key = (dtype, np.shape(values), array.tobytes())
        if key not in self._weights:
            # Reshaped, as `ascontiguousarray` turns a number into an array of one.
            self._weights[key] = numpy_helper.from_array(array.reshape(np.shape(values)), self._new_name("weight"))
        return str(self._weights[key].name)

    def branch(self, condition: str, then: Branch, otherwise: Branch) -> str:
        """One of two branches; only that is computed."""
        return self.add("If", condition, then_branch=self._inner(then), else_branch=self._inner(otherwise))

    def switch(self, index: str, cases: Sequence[Branch]) -> str:
        """The branch of a number, a single int64, found by bisection; only that is computed."""

        def between(low: int, high: int) -> Branch:
            if high - low == 1:
                return cases[low]
            middle = (low + high) // 2
            return lambda graph: graph.branch(
                graph.add("Less", index, graph.constant(middle, "int64")), between(low, middle), between(middle, high)
            )

        return between(0, len(cases))(self)

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """The whole model, from descriptions of its inputs and outputs; what these do not need is left out."""
        from onnx import helper

        nodes, names = _needed(self.nodes, [output.name for output in outputs])
        settings = self.settings.values()
        # Settings are both initializers and inputs: that makes them inputs that may be left out.
        weights = [*(weight for weight in self._weights.values() if weight.name in names), *settings]
        optional = [helper.make_tensor_value_info(value.name, value.data_type, value.dims) for value in settings]
        graph = helper.make_graph(nodes, "network", [*inputs, *optional], outputs, weights)
        versions = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=versions, ir_version=IR_VERSION, producer_name="reset_keras")

    def _inner(self, write: Branch) -> Any:
        from onnx import TensorProto, helper

        inner = OnnxGraph(self)
        result = write(inner)
        if not any(result in node.output for node in inner.nodes):  # a branch must make what it returns
            result = inner.add("Identity", result)
        output = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
        return helper.make_graph(inner.nodes, self._new_name("branch"), [], [output], [*inner._weights.values()])

    def _new_name(self, kind: str) -> str:
        return f"{kind}_{next(self._numbers)}"


def _needed(nodes: Sequence[Any], outputs: Sequence[str]) -> tuple[list[Any], set[str]]:
    """The nodes that lead to outputs, in their order, and the names that these and the outputs need."""
    names, kept = set(outputs), []
    for node in reversed(nodes):
        if not names.isdisjoint(node.output):
            kept.append(node)
            names.update(_read_by(node))
    return kept[::-1], names


def _read_by(node: Any) -> Iterator[str]:
    """The names that a node reads, in its branches too."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _read_by(inner)
