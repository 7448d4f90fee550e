"""Everything that this package uses of Keras beyond its public interface, so that a new Keras breaks one place."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.backend.common.global_state import get_global_attribute, set_global_attribute
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.models.functional import Functional

Tensor = Any
SETTINGS = (
    "custom_objects_scope_dict",
    "distribution",
    "dtype_policy",
    "interactive_logging",
    "safe_mode_saving",
    "traceback_filtering",
)
"""Names under which Keras keeps what users set for all that follows."""
CALLS_OF_LAYERS = (Functional.call, keras.Sequential.call)
"""The `call` of models that only run their layers."""


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """What users set for all that follows is afterwards what it was, which `clear_session` forgets."""
    kept = {name: get_global_attribute(name) for name in SETTINGS}
    try:
        yield
    finally:
        for name, value in kept.items():
            set_global_attribute(name, value)


def all_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A layer and all layers in it, however deep.

    Examples:
        >>> [part.name for part in all_layers(keras.Sequential([keras.layers.ReLU(name="relu")], name="model"))]
        ['model', 'relu']
    """
    return list(layer._flatten_layers())


def functional(model: keras.layers.Layer) -> keras.Model | None:
    """The graph of layers that a model is: a functional model itself, that of a sequential one, `None` for others.

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.ReLU()])
        >>> type(functional(model)).__name__
        'Functional'
    """
    network = getattr(model, "_functional", None) or model  # a sequential model has one
    return network if hasattr(network, "_nodes_by_depth") else None


def calls_of(network: keras.Model) -> list[Any]:
    """The calls of a functional model's layers in the order in which they run, first its inputs.

    Of each: `operation`, `input_tensors`, `output_tensors`, `arguments`.

    Examples:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.ReLU(name="relu")])
        >>> [call.operation.name for call in calls_of(functional(model))][1]
        'relu'
    """
    return [call for depth in sorted(network._nodes_by_depth, reverse=True) for call in network._nodes_by_depth[depth]]


def shapes_in(network: keras.Model, shape: tuple) -> list[tuple[Any, tuple]]:
    """The operations of a functional model in the order in which they run, each with the shape of its first input.

    Args:
        network: It has one input.
        shape: Of what it is called with. Its own layers remember the shapes that it was made for.

    Examples:
        >>> model = keras.Sequential([keras.Input((None, 4)), keras.layers.ReLU(name="relu")])
        >>> [(operation.name, shape) for operation, shape in shapes_in(functional(model), (None, 7, 4))]
        [('relu', (None, 7, 4))]
    """
    found = []

    def spec_of(operation: Any) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            tensors = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
            found.append((operation, tuple(tensors[0].shape)))
            return operation.compute_output_spec(*args, **kwargs)

        return noted

    network._run_through_graph(keras.KerasTensor(shape, dtype=network.inputs[0].dtype), operation_fn=spec_of)
    return found


def lambda_like(layer: keras.layers.Lambda) -> keras.layers.Lambda:
    """A `Lambda` of the same functions; one made of its config would have their code without what is global to it.

    Examples:
        >>> lambda_like(keras.layers.Lambda(lambda x: x, name="same")).name
        'same'
    """
    shape = layer._output_shape
    return keras.layers.Lambda(
        layer.function, shape, layer.mask, layer.arguments, name=layer.name, dtype=layer.dtype_policy
    )


def maker(tensor: Tensor) -> Any:
    """The operation that returned a symbolic tensor; `None` where there is none.

    Examples:
        >>> maker(keras.layers.ReLU(name="relu")(keras.Input((4,)))).name
        'relu'
    """
    history = getattr(tensor, "_keras_history", None)
    return None if history is None else history.operation


def mask_of(tensor: Tensor) -> Tensor | None:
    """Which entries of a tensor count, where Keras was told; `None` where all do.

    Examples:
        >>> tuple(mask_of(keras.layers.Masking()(keras.ops.ones((1, 2, 3)))).shape)
        (1, 2)
    """
    return get_keras_mask(tensor)


def with_mask(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """The tensor, with which Keras remembers which of its entries count.

    Examples:
        >>> mask_of(with_mask(keras.ops.ones(2), None)) is None
        True
    """
    set_keras_mask(tensor, mask)
    return tensor


def layer_that_is_called() -> keras.layers.Layer | None:
    """The layer or model that was called first of those whose calls are going on; `None` where there is no call.

    On JAX the steps of a trainer run a model's layers without calling the model.
    """
    context = get_global_attribute("current_call_ctx")
    return None if context is None else context.entry_layer


def batches_of(optimizer: keras.optimizers.Optimizer) -> int:
    """How many batches an optimizer was given the gradients of; its `iterations` are the updates that it made of them.

    Examples:
        >>> batches_of(keras.optimizers.SGD(gradient_accumulation_steps=2))
        0
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales the loss
    return int(keras.ops.convert_to_numpy(optimizer._iterations))


def loss_of(model: keras.Model, x: Any, y: Any, y_pred: Any, sample_weight: Any, training: bool) -> Tensor:
    """The loss by a model's `compute_loss`, also by one of a subclass that has no argument `training`."""
    return model._compute_loss(x, y, y_pred, sample_weight, training=training)


def has_group(store: Any, path: str) -> bool:
    """Whether the file that a layer's variables are read from has a group of this path.

    Args:
        store: What `load_own_variables` is given.
        path: Names from the file's root, with slashes between.
    """
    return path in getattr(store, "h5_file", ())
