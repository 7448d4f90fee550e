"""A trained functional network rebuilt for inference: batch norms folded, modules frozen, weights copied."""

from collections import Counter
from typing import Any

import keras

from reset_keras.inference.frozen.folding import BatchNorm, fold, fold_unit
from reset_keras.inference.frozen.frozen_pool import copy_by_config, copy_weights, residual
from reset_keras.inference.frozen.frozen_reset import FrozenReSet
from reset_keras.keras_internals import CALLS_OF_LAYERS, all_layers, calls_of, functional, maker
from reset_keras.layer_copies import layer_like
from reset_keras.layers import IterationBatchNormalization, ReSet, ResidualUnit
from reset_keras.models import RoutedModel

Tensor = Any


class FrozenUnit(keras.layers.Layer):
    """A trained `ResidualUnit` with its batch norms folded into constant kernels."""

    def __init__(self, unit: ResidualUnit) -> None:
        super().__init__(name=unit.name, dtype=unit.dtype_policy, trainable=False)
        self.strides = unit.strides
        self.folded = fold_unit(unit)

    def call(self, inputs: Tensor, iteration: int = 0) -> Tensor:
        return residual(inputs, (array[iteration, 0] for array in self.folded), self.compute_dtype, self.strides)


def frozen_graph(network: keras.Model, execution: str, threshold: float, returned: Any = None) -> keras.Model:
    """A copy of a functional network with the same outputs, for inference only; models in it are rebuilt so too.

    Args:
        network: A functional model: `routed_model.network`, a `ResNet`, or one of your own. One with a single input is
            called with that.
        execution: As in `FrozenReSet`.
        threshold: As in `FrozenReSet`.
        returned: Those of its outputs that are looked at. Default `None`: all.
    """
    needed = _read_logits(network, network.output if returned is None else returned)
    convolutions = _folded_convolutions(network)
    norms = {norm.name for norm in convolutions.values()}

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if _is_plain_reset(layer):
            return FrozenReSet(layer, _frozen_unit, execution, threshold, keeps_logits=layer.name in needed)
        if type(layer) is ResidualUnit:
            return FrozenUnit(layer)
        if (graph := graph_of(layer)) is not None:
            return frozen_graph(graph, execution, threshold)
        if layer.name in norms:
            return keras.layers.Identity(name=layer.name, dtype=layer.dtype_policy)
        if isinstance(layer, keras.layers.Lambda):
            return copy_by_config(layer)
        config = None
        if layer.name in convolutions:
            config = layer.get_config() | {"use_bias": True}
            config.pop("lora_rank", None)  # `kernel`, which is folded, has the low-rank update in it
        return layer_like(layer, config)

    # The same layers, but a single input that the network takes in a list or a dict is given by itself.
    inputs = network.inputs[0] if len(network.inputs) == 1 else network.input
    whole = keras.Model(inputs, network.output, name=network.name)
    copy = keras.models.clone_model(whole, clone_function=clone, call_function=_call)
    for layer in copy.layers:
        has_state = layer.weights or hasattr(layer, "save_assets")
        if has_state and not isinstance(layer, FrozenReSet) and graph_of(layer) is None:
            _give_weights(layer, network.get_layer(layer.name), convolutions.get(layer.name))
    copy.trainable = False
    return copy


def _frozen_unit(unit: keras.layers.Layer) -> keras.layers.Layer | None:
    """The frozen form of a unit in a `UnitPool`; `None` for one that is to be copied, as where a `ReSet` is in it."""
    if type(unit) is ResidualUnit:
        return FrozenUnit(unit)
    graph = graph_of(unit)
    if graph is None or any(isinstance(layer, ReSet) for layer in all_layers(graph)):
        return None
    frozen = frozen_graph(graph, "dense", 0.0)
    frozen.input_spec = None  # as of a sequential model, which takes features of any size
    return frozen


def _call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
    if type(layer) is keras.layers.Identity:
        return layer(args[0] if args else kwargs["inputs"])  # without the mask that Keras gives a batch norm
    return layer(*args, **kwargs)


def _give_weights(copy: keras.layers.Layer, layer: keras.layers.Layer, norm: BatchNorm | None) -> None:
    """Gives a copy those of its layer, a convolution with the batch norm folded in that follows it."""
    if norm is None:
        copy_weights(layer, copy)
    else:
        copy.set_weights(fold(layer.kernel, norm, bias=layer.bias))


def graph_of(layer: Any) -> keras.Model | None:
    """The graph of layers that a model runs when it is called; `None` for a layer, or where its class has a `call`."""
    runs_layers = isinstance(layer, keras.Model) and type(layer).call in (*CALLS_OF_LAYERS, RoutedModel.call)
    return functional(layer) if runs_layers else None


def _is_plain_reset(layer: Any) -> bool:
    """Whether a layer computes as a `ReSet` does. A subclass with other such methods is copied as it is."""
    methods = ("__call__", "call", "_decide", "update", "_with_routes")
    return isinstance(layer, ReSet) and all(getattr(type(layer), name) is getattr(ReSet, name) for name in methods)


def _read_logits(network: keras.Model, returned: Any) -> set[str]:
    """Names of the modules whose logits another layer reads, or that are returned."""
    calls = calls_of(network)
    read = {id(tensor) for call in calls for tensor in call.input_tensors} | set(map(id, keras.tree.flatten(returned)))
    modules = [call for call in calls if isinstance(call.operation, ReSet) and len(call.output_tensors) > 1]
    found = set()
    for call in modules:
        _, routes = call.operation.compute_output_shape(call.input_tensors[0].shape)
        _, *tensors = call.output_tensors  # Keras flattens a dict by its names' order
        if id(dict(zip(sorted(routes), tensors, strict=True))["logits"]) in read:
            found.add(call.operation.name)
    return found


def _folded_convolutions(network: keras.Model) -> dict[str, BatchNorm]:
    """Names of the convolutions whose only reader is a batch norm, with that batch norm.

    Both are called once in this network: a layer that is called again would have to be folded in two ways.
    """
    calls = calls_of(network)
    times_called = Counter(call.operation.name for call in calls)
    read = [tensor for call in calls for tensor in call.input_tensors] + keras.tree.flatten(network.output)
    times_read = Counter(maker(tensor).name for tensor in read)
    folded = {}
    for call in calls:
        if _is_one_affine_map(call):
            convolution = maker(call.input_tensors[0])
            called = times_called[call.operation.name], times_called[convolution.name], times_read[convolution.name]
            if called == (1, 1, 1) and _takes_batch_norm(convolution, call.operation):
                folded[convolution.name] = call.operation
    return folded


def _is_one_affine_map(call: Any) -> bool:
    """Whether a call is of a batch norm, of no subclass, over channels that come last, with one set of statistics."""
    layer = call.operation
    if type(layer) is keras.layers.BatchNormalization:
        return layer.axis in (-1, len(call.input_tensors[0].shape) - 1)
    # In a graph of layers Keras takes an iteration only by its name.
    return type(layer) is IterationBatchNormalization and "iteration" not in call.arguments.kwargs


def _takes_batch_norm(layer: Any, norm: Any) -> bool:
    """Whether a layer is a convolution of channels that come last, of no subclass, without activation."""
    plain = type(layer) is keras.layers.Conv2D and layer.activation is keras.activations.linear
    if not plain or layer.data_format != "channels_last":
        return False
    # What is folded is float32, as our own batch norms are in any case.
    of_keras = isinstance(norm, keras.layers.BatchNormalization)
    return not of_keras or "float64" not in (layer.compute_dtype, norm.compute_dtype)
