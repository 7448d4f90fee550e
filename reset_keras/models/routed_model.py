import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from reset_keras.batches_ahead import predicted
from reset_keras.keras_internals import calls_of, has_group, layer_that_is_called, maker
from reset_keras.layers import ReSet
from reset_keras.layers.frozen_parts import freeze_parts, frozen_parts
from reset_keras.layers.halting_run import HALTING_ROUTES
from reset_keras.layers.lost_routes import warn_of_lost_routes
from reset_keras.models.compile_checks import check_parts
from reset_keras.models.routed_outputs import RoutedOutputs, by_module, in_order_of_modules
from reset_keras.models.routed_trainer import RoutedTrainer

Tensor = Any


@keras.saving.register_keras_serializable("reset_keras")
class RoutedModel(RoutedTrainer):
    """A functional Keras model with ReSet modules in it, whose loss also looks at their routes.

    It is a functional model of the layers between `inputs` and `outputs`: called, it returns the outputs, and it is
    trained, evaluated, nested, cut, saved and loaded like any other. Its routes come from `predict_routes`, and from a
    call with `return_routes=True`. The entropy regularizer (eq. 13) and the skip reward (eq. 9) are given to `compile`.

    Every term of the loss is logged separately, on validation data with `val_` before its name:

    - always `task_loss`, `l2` (all regularizers), `entropy_across` and `entropy_within` (the sums of eq. 13, in nats),
      `skip_reward` (eq. 9) and `skip_fraction` (mean score of the zero units over all iterations, 0 for those that have
      none);
    - with `SkipReward(target=...)` `expected_compute` (the mean compute fraction that the target bounds) and
      `skip_price`;
    - with `TargetRate` `target_rate_loss`, without its weight, and `unit_use` (mean score of all units together);
    - with `PonderCost` `ponder_cost`, without its weight, and `iterations` (how many the modules with halting run in
      all);
    - with `Distillation` `distillation_loss`, and with `EarlyExits` `early_exits_loss`, both without their weights;
    - in training on TensorFlow `gradient_norm_controllers` (with the halting scores), `gradient_norm_pools` and
      `gradient_norm_others`: norms over all replicas, before clipping, 0 where all is frozen.

    Args:
        inputs: Keras input, or a nest of them.
        outputs: Keras tensor, or a nest of them, computed from `inputs`.
        name: String, or `None`. Default `None`.
        routes: The routes that the model's modules returned: one dict for each `ReSet` that was made with
            `return_routes=True`. Default `None`: those of all such modules, in their order. Modules within a nested
            model are not among them, and no term of the loss looks at their routes. `keras.models.clone_model` knows
            only the default: where routes are given in another order, or not all, copy the model by `from_config`.
        trainable: Boolean, given to all layers, or `None`, which leaves them as they are. Default `None`.

    Attributes:
        network: A functional model of the same layers, which returns a dict of `"outputs"` and `"routes"`; for graphs
            of layers that go on from the routes.

    Call arguments:
        inputs: Tensors that fit the model's inputs.
        training: Boolean.
        mask: As in `keras.Model`.
        return_routes: Boolean, whether to return a `RoutedOutputs`, the pair of outputs and routes. Default `False`.

    Raises:
        ValueError: there are no routes, or they hold something else than a module's routes, or the same twice, or two
            modules share a controller, a scorer, a pool or one of its units, or a module is not on the way to the
            outputs.

    Examples:
        >>> inputs = keras.Input((8, 8, 16))
        >>> x, routes = ReSet(units=2, num_iterations=2, return_routes=True)(inputs)
        >>> outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
        >>> model = RoutedModel(inputs, outputs, routes=[routes])
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("sgd", loss, metrics=["accuracy"], entropy=Entropy(across=0.01), skip_reward=SkipReward(0.1))
        >>> images = keras.random.normal((3, 8, 8, 16))
        >>> tuple(model(images).shape)
        (3, 10)
        >>> tuple(model(images, return_routes=True).routes[0]["scores"].shape)
        (3, 2, 3)
    """

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        name: str | None = None,
        *,
        routes: Sequence[dict[str, Any]] | None = None,
        trainable: bool | None = None,
    ) -> None:
        if not isinstance(name, str | None):
            raise ValueError(f"`name` must be a string or None; give routes by `routes=`. Received: name={name!r}")
        routes = _routes_between(inputs, outputs) if routes is None else routes
        modules = modules_of(routes)
        # Plain dicts: of others, Keras knows no tensors within.
        network = keras.Model(inputs, {"outputs": outputs, "routes": by_module(map(dict, routes))}, name="network")
        super().__init__(network.input, network.output["outputs"], name=name, trainable=trainable)
        self.__dict__["network"] = network  # of the same layers: tracked by the model, it would hold each of them twice
        _check_on_the_way(modules, self.layers)
        check_parts(network)
        self.zero_units = tuple(module.zero_unit for module in modules)

    @property
    def routed_modules(self) -> list[ReSet]:
        """The model's ReSet modules, in the order of their routes."""
        return modules_of(in_order_of_modules(self.network.output["routes"]))

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers of the model, from its inputs to its outputs."""
        layers = super().layers
        # The first time that Keras asks after `load_own_variables` it loads the layers' weights. Later answers must be
        # without the network.
        if self.__dict__.pop("_reads_nested_network", False):
            return [*layers, self.network]  # a file of version 0.1 has their weights under this name
        return layers

    def __dir__(self) -> list[str]:
        # Keras saves what `dir()` names: with `network` in it each layer would be saved twice.
        return [name for name in super().__dir__() if name != "network"]

    def call(self, inputs: Tensor, training: bool | None = None, mask: Any = None, return_routes: bool = False) -> Any:
        if not return_routes:
            if training and not (self.compiled and layer_that_is_called() is self):  # it is trained by its `fit`
                warn_of_lost_routes(self.routed_modules)
            return super().call(inputs, training=training, mask=mask)
        return RoutedOutputs.of_network(self.network(inputs, training=training, mask=mask))

    def compute_output_spec(
        self, inputs: Tensor, training: bool | None = None, mask: Any = None, return_routes: bool = False
    ) -> Any:
        if not return_routes:
            return super().compute_output_spec(inputs, training=training, mask=mask)
        raise ValueError(
            "In a graph of layers a functional model returns its outputs only. For the routes call `model.network`, "
            "which returns a dict of both. Received: return_routes=True and a symbolic input"
        )

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Predicts as `keras.Model.predict` does, with its arguments; an empty array gives an empty array."""
        if _is_empty(x):
            return self.predict_with_routes(x).outputs
        return super().predict(x, *args, **kwargs)

    def predict_routes(self, x: Any, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """The routes of `x`: the arguments are those of `keras.Model.predict`.

        Returns:
            A list with, for each module, a dict of numpy arrays `"logits"` and `"scores"`, each of shape
            `(images, num_iterations, num_scores)`, and where it has halting `"active"` and `"ponder"`, as in `ReSet`.
        """
        return self.predict_with_routes(x, *args, **kwargs).routes

    def predict_routes_on_batch(self, x: Any) -> list[dict[str, Any]]:
        """The routes of one batch, as `predict_routes` returns them.

        Args:
            x: Array or tensor of a batch of inputs.
        """
        return RoutedOutputs.of_network(self.network.predict_on_batch(x)).routes

    def predict_with_routes(self, x: Any, *args: Any, **kwargs: Any) -> RoutedOutputs:
        """A pair of what `predict` and `predict_routes` return, computed once."""
        if _is_empty(x):
            # Keras's `predict` fails without a batch; one image tells the shapes and types of what is returned.
            one = np.zeros((1, *np.shape(x)[1:]), x.dtype)
            return keras.tree.map_structure(lambda part: part[:0], self.predict_with_routes(one, verbose=0))
        predict = self.network.predict if args else functools.partial(predicted, self.network)
        return RoutedOutputs.of_network(predict(x, *args, **kwargs))

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Not supported: the parts of a module could not be loaded again.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "A model with ReSet modules cannot be quantized: its file could not be loaded. For a smaller or faster "
            "network take `rk.inference.freeze` and `rk.inference.export`, or a dtype policy of half precision."
        )

    def load_own_variables(self, store: Any) -> None:
        # A newer file may have the first group too, of a functional model in this one, but with it the second.
        self.__dict__["_reads_nested_network"] = has_group(store, "layers/functional/layers") and not has_group(
            store, "layers/input_layer"
        )
        super().load_own_variables(store)

    def get_config(self) -> dict[str, Any]:
        network = keras.saving.serialize_keras_object(self.network)
        return {"name": self.name, "network": network, "frozen": frozen_parts(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "RoutedModel":
        network = keras.saving.deserialize_keras_object(config["network"], custom_objects)
        outputs, routes = network.output["outputs"], in_order_of_modules(network.output["routes"])
        model = cls(network.input, outputs, config["name"], routes=routes)
        # Older files have no such entry; then the layers stay as their own configs made them.
        freeze_parts(model, config.get("frozen", frozen_parts(model)))
        return model


ONE_MODULE = ". Routes of one module must be in a list, too: routes=[routes]"


def modules_of(routes: Sequence[dict[str, Any]]) -> list[ReSet]:
    """The ReSet modules that returned these symbolic routes.

    Raises:
        ValueError: there are no routes, or one was not returned by a `ReSet`, or one is there twice.
    """
    if not routes:
        raise ValueError(
            "`routes` must hold the routes of at least one ReSet module among the model's own layers; those within a "
            "nested model are not. Received: none"
        )
    modules = []
    for index, route in enumerate(routes):
        module = maker(route.get("scores")) if isinstance(route, dict) else None
        if not isinstance(module, ReSet):
            raise ValueError(
                "`routes` must be what ReSet layers with return_routes=True returned, in the graph of this model. "
                f"Received: {route!r} at index {index}{ONE_MODULE if isinstance(routes, dict) else ''}"
            )
        lacking = {"logits", "scores", *(HALTING_ROUTES if module.halting else ())} - set(route)
        if lacking:
            raise ValueError(
                f"`routes` must hold all that a module returned: losses and operations need it. Received: those of "
                f"'{module.name}' without {sorted(lacking)}"
            )
        modules.append(module)
    if len({id(route["scores"]) for route in routes}) < len(routes):
        names = [module.name for module in modules]
        raise ValueError(f"`routes` must hold those of each call of a module once. Received: the routes of {names}")
    return modules


def _routes_between(inputs: Any, outputs: Any) -> list[dict[str, Any]]:
    """The routes of all modules on the way from the inputs to the outputs that return them."""
    found = []
    for call in calls_of(keras.Model(inputs, outputs)):
        if isinstance(call.operation, ReSet) and call.operation.return_routes:
            _, shapes = call.operation.compute_output_shape(call.input_tensors[0].shape)
            _, *tensors = call.output_tensors  # of a dict, by the names' order
            found.append(dict(zip(sorted(shapes), tensors, strict=True)))
    return found


def _check_on_the_way(modules: list[ReSet], layers: list[keras.layers.Layer]) -> None:
    """A module that the outputs do not depend on would be no part of the model."""
    for module in modules:
        if not any(layer is module for layer in layers):
            raise ValueError(
                f"The outputs must depend on every module whose routes are given. Received: '{module.name}', on which "
                "they do not"
            )


def check_routed(model: Any) -> None:
    """Raises `ValueError` unless a model is a `RoutedModel`, whose routes can be looked at and changed."""
    if not isinstance(model, RoutedModel):
        kind, name = type(model).__name__, getattr(model, "name", "without a name")
        raise ValueError(
            f"`model` must be a RoutedModel, as a ReSetNet is one. Received: a {kind}, '{name}'. To make one of other "
            "layers: RoutedModel(inputs, outputs, routes=[...])"
        )


def _is_empty(x: Any) -> bool:
    return isinstance(x, np.ndarray) and len(x) == 0
