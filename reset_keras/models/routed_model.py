from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from reset_keras.distribution import strategy_scope
from reset_keras.keras_internals import calls_of, has_group, maker
from reset_keras.layers import ReSet
from reset_keras.layers.frozen_parts import freeze_parts, frozen_parts
from reset_keras.losses.distillation import Distillation
from reset_keras.losses.entropy import Entropy
from reset_keras.losses.skip_reward import SkipReward
from reset_keras.models.compile_checks import (
    check_distillation,
    check_parts,
    check_routes_are_known,
    check_skip_reward,
    check_step_options,
    operations_under_target,
)
from reset_keras.models.fit_checks import Data, check_data, validation_part
from reset_keras.models.optimizer_clip import clip_in_optimizer, without_clip
from reset_keras.models.routed_loss import Batch, RoutedLoss
from reset_keras.models.routed_outputs import RoutedOutputs, by_name, in_order

if keras.backend.backend() == "tensorflow":
    from reset_keras.models.train_step import TensorFlowTrainStep as TrainStep
else:
    from reset_keras.models.jax_train_step import JAXTrainStep as TrainStep

Tensor = Any


@keras.saving.register_keras_serializable("reset_keras")
class RoutedModel(TrainStep):
    """A functional Keras model with ReSet modules in it, whose loss also looks at their routes.

    It is a functional model of the layers between `inputs` and `outputs`: called, it returns the outputs, and it is
    trained, evaluated, nested, cut, saved and loaded like any other. Its routes come from `predict_routes`, and from a
    call with `return_routes=True`. The entropy regularizer (eq. 13) and the skip reward (eq. 9) are given to `compile`.

    Every term of the loss is logged by itself: `task_loss`, `l2` (all regularizers), `entropy_across` and
    `entropy_within` (the sums of eq. 13, in nats), `skip_reward` (eq. 9) and `skip_fraction` (mean score of the zero
    units); with `SkipReward(target=...)` also `expected_compute` (the mean compute fraction that the target bounds) and
    `skip_price`; with `Distillation` also `distillation_loss`, without its weight. The same names have `val_` before
    them for validation data. On TensorFlow the training step also logs `gradient_norm_controllers`,
    `gradient_norm_pools` and `gradient_norm_others`: norms over all replicas, before clipping, 0 where all is frozen.

    Args:
        inputs: Keras input, or a nest of them.
        outputs: Keras tensor, or a nest of them, computed from `inputs`.
        name: String, or `None`. Default `None`.
        routes: The routes that the model's modules returned: one dict of `"logits"` and `"scores"` for each `ReSet`
            that was built with `return_routes=True`. Default `None`: those of all such modules, in their order.
        trainable: Boolean, given to all layers, or `None`, which leaves them as they are. Default `None`.

    Attributes:
        network: A functional model of the same layers, which returns a dict of `"outputs"` and `"routes"`; for graphs
            of layers that go on from the routes.

    Call arguments:
        inputs: What the inputs say.
        training: Boolean.
        mask: As in `keras.Model`.
        return_routes: Boolean, whether to return a `RoutedOutputs`, the pair of outputs and routes. Default `False`.

    Raises:
        ValueError: there are no routes, or they hold something else than a module's routes, or two modules share a
            controller, a scorer, a pool or one of its units, or a module is not on the way to the outputs.

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
        network = keras.Model(inputs, {"outputs": outputs, "routes": by_name(routes)}, name="network")
        super().__init__(network.input, network.output["outputs"], name=name, trainable=trainable)
        self.__dict__["network"] = network  # of the same layers: tracked by the model, it would hold each of them twice
        _check_on_the_way(modules, self.layers)
        check_parts(network)
        self.zero_units = tuple(module.zero_unit for module in modules)
        self.entropy: Entropy | None = None
        self.skip_reward: SkipReward | None = None
        self.distillation: Distillation | None = None
        self.gradient_clip_norm: float | None = None
        self.batch_replication = 1
        self.lost_teacher: str | None = None
        self.routed_loss: Any = None  # a RoutedLoss, from `compile` on

    @property
    def routed_modules(self) -> list[ReSet]:
        """The model's ReSet modules, in the order of their routes."""
        return modules_of(in_order(self.network.output["routes"]))

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers of the model, from its inputs to its outputs."""
        layers = super().layers
        if self.__dict__.pop("_reads_nested_network", False):
            return [*layers, self.network]  # a file of before has their weights under this name
        return layers

    def call(self, inputs: Tensor, training: bool | None = None, mask: Any = None, return_routes: bool = False) -> Any:
        if not return_routes:
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

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        *,
        entropy: Entropy | None = None,
        skip_reward: SkipReward | None = None,
        distillation: Distillation | None = None,
        gradient_clip_norm: float | None = None,
        batch_replication: int = 1,
        **kwargs: Any,
    ) -> None:
        """Configures training, as `keras.Model.compile` does, with the terms that concern routes.

        Args:
            optimizer: Keras optimizer, or its name.
            loss: Keras loss of the outputs, or its name.
            entropy: Entropy regularizer, or `None`. Default `None`.
            skip_reward: Reward for skipping, or `None`. Default `None`; with `scorer="hard"`, which learns by nothing
                else, `SkipReward(0.0, estimator="reinforce")`.
            distillation: A teacher and its share of the loss, or `None`. Default `None`.
            gradient_clip_norm: Float above 0, the largest norm of the whole gradient, over all variables and replicas,
                or `None` for no limit. Default `None`.
            batch_replication: Integer, how often each training image stands in its batch, each time with noise of its
                own (row 17 of table 2). Other numbers than 1 need the TensorFlow backend. Default 1.
            **kwargs: All other arguments of `keras.Model.compile`.

        Raises:
            ValueError: the reward's estimator or target does not fit the modules' scorers, or there is no zero unit to
                reward, or the target cannot be reached or counted, or a number is out of its range; or a module that
                learns only by its sampled routes has not given them to the model; or a teacher is for other inputs or
                outputs.
        """
        modules = self.routed_modules
        if skip_reward is None and any(m.scorer.samples_units and not m.scorer.has_gradient for m in modules):
            skip_reward = SkipReward(0.0, estimator="reinforce")
        check_routes_are_known(self, modules)
        check_skip_reward(skip_reward, modules)
        operations = operations_under_target(skip_reward, self.network, modules)
        check_distillation(distillation, self)
        check_step_options(gradient_clip_norm, batch_replication)
        super().compile(optimizer, loss, **kwargs)
        if keras.backend.backend() != "tensorflow":
            clip_in_optimizer(self.optimizer, gradient_clip_norm)
        entropy, skip_reward = _unused(entropy, self.entropy), _unused(skip_reward, self.skip_reward)
        loss_weights = kwargs.get("loss_weights")
        weighted_loss = loss, 1.0 if loss_weights is None else keras.tree.flatten(loss_weights)[0]
        with strategy_scope(self):
            if entropy is not None:
                entropy.build()
            if skip_reward is not None:
                weights = None if operations is None else operations.skip_weights
                skip_reward.build(sum(module.num_iterations for module in modules), weights)
            self.routed_loss = RoutedLoss(
                self.zero_units, weighted_loss, entropy, skip_reward, distillation, operations
            )
            self.routed_loss.trackers |= {name: keras.metrics.Mean(name=name) for name in self.gradient_norms}
        self.entropy = entropy
        self.skip_reward = skip_reward
        self.distillation = distillation
        self.gradient_clip_norm = gradient_clip_norm
        self.batch_replication = batch_replication
        self.lost_teacher = None

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        """This replica's share of the loss: task loss, regularizers, entropy and skip reward, and logs each of them.

        Args:
            x: Inputs of the batch.
            y: Its labels.
            y_pred: A `RoutedOutputs`.
            sample_weight: Weights of shape `(batch,)`, or `None`.
            training: Boolean, whether a step of training follows.
        """
        if self.lost_teacher is not None:
            raise ValueError(
                f"This model was trained by Distillation({self.lost_teacher}), whose teacher its file does not keep. "
                "Compile it again, with the teacher or without: model.compile(model.optimizer, model.loss, "
                "distillation=rk.Distillation(teacher))"
            )
        loss = super().compute_loss(x, y, y_pred.outputs, sample_weight, training)
        l2 = sum(self.losses, start=ops.zeros(()))
        return self.routed_loss.with_terms(loss, l2, Batch(x, y, y_pred, sample_weight), training)

    def compute_metrics(self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> dict[str, Tensor]:
        """What the metrics say of a batch, whose `y_pred` is a `RoutedOutputs`."""
        return super().compute_metrics(x, y, y_pred.outputs, sample_weight)

    @property
    def metrics(self) -> list[Any]:
        """All that is logged."""
        return super().metrics + ([] if self.routed_loss is None else [*self.routed_loss.trackers.values()])

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as `keras.Model.fit` does, with its arguments; mistakes in arrays and datasets are named first.

        Raises:
            ValueError: inputs, labels, weights or validation data are arrays that are missing, empty, of another shape,
                not finite, or hold unknown classes; or a `tf.data.Dataset` that is empty or of another shape.
        """
        validation = validation_part(kwargs.get("validation_data"))
        for data in (Data(x, y, kwargs.get("sample_weight")), validation):
            if data is not None:
                check_data(data, self, self.loss)
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluates as `keras.Model.evaluate` does, with its arguments; mistakes are named as by `fit`."""
        check_data(Data(x, y, kwargs.get("sample_weight")), self, self.loss)
        return super().evaluate(x, y, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Predicts as `keras.Model.predict` does, with its arguments; of no inputs, no outputs."""
        if _is_empty(x):
            return self.predict_with_routes(x).outputs
        return super().predict(x, *args, **kwargs)

    def predict_routes(self, x: Any, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """The routes of `x`: the arguments are those of `keras.Model.predict`.

        Returns:
            A list with, for each module, a dict of numpy arrays `"logits"` and `"scores"`, each of shape
            `(images, num_iterations, num_scores)`.
        """
        return self.predict_with_routes(x, *args, **kwargs).routes

    def predict_routes_on_batch(self, x: Any) -> list[dict[str, Any]]:
        """The routes of one batch, as `predict_routes` returns them."""
        return RoutedOutputs.of_network(self.network.predict_on_batch(x)).routes

    def predict_with_routes(self, x: Any, *args: Any, **kwargs: Any) -> RoutedOutputs:
        """A pair of what `predict` and `predict_routes` return, computed once."""
        if _is_empty(x):
            one = np.zeros((1, *np.shape(x)[1:]), x.dtype)
            return keras.tree.map_structure(lambda part: part[:0], self.predict_with_routes(one, verbose=0))
        return RoutedOutputs.of_network(self.network.predict(x, *args, **kwargs))

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Not supported: the parts of a module could not be loaded again.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "A model with ReSet modules cannot be quantized: its file could not be loaded. For a smaller or faster "
            "network take `rk.inference.freeze` and `rk.inference.export`, or a dtype policy of half precision."
        )

    @property
    def variables(self) -> list[Any]:
        """All state, the weights of the loss terms and the reward's baseline included."""
        return super().variables + list(self._loss_variables().values())

    def _loss_variables(self) -> dict[str, Any]:
        terms = [term for term in (self.entropy, self.skip_reward) if term is not None]
        return {variable.name: variable for term in terms for variable in term.variables}

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        for name, variable in self._loss_variables().items():
            store[name] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        self.__dict__["_reads_nested_network"] = has_group(store, "layers/functional/layers") and not has_group(
            store, "layers/input_layer"
        )
        for name, variable in self._loss_variables().items():
            if name in store.keys():  # noqa: SIM118 - an HDF5 store is no mapping
                variable.assign(store[name][()])

    def get_config(self) -> dict[str, Any]:
        network = keras.saving.serialize_keras_object(self.network)
        return {"name": self.name, "network": network, "frozen": frozen_parts(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "RoutedModel":
        network = keras.saving.deserialize_keras_object(config["network"], custom_objects)
        outputs, routes = network.output["outputs"], in_order(network.output["routes"])
        model = cls(network.input, outputs, config["name"], routes=routes)
        freeze_parts(model, config.get("frozen", frozen_parts(model)))
        return model

    def get_compile_config(self) -> dict[str, Any]:
        with without_clip(self.optimizer if self.compiled else None):
            config = super().get_compile_config()
        if config:
            config["entropy"] = keras.saving.serialize_keras_object(self.entropy)
            config["skip_reward"] = keras.saving.serialize_keras_object(self.skip_reward)
            config["gradient_clip_norm"] = self.gradient_clip_norm
            config["batch_replication"] = self.batch_replication
            if self.distillation is not None:
                config["lost_teacher"] = self.distillation.settings
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        config = dict(config)
        lost_teacher = config.pop("lost_teacher", None)
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.lost_teacher = lost_teacher
        self.optimizer.build(self.trainable_variables)


def modules_of(routes: Sequence[dict[str, Any]]) -> list[ReSet]:
    """The ReSet modules that returned these symbolic routes.

    Raises:
        ValueError: there are no routes, or one was not returned by a `ReSet`.
    """
    if not routes:
        raise ValueError("`routes` must hold the routes of at least one ReSet module. Received: none")
    modules = []
    for index, route in enumerate(routes):
        module = maker(route.get("scores")) if isinstance(route, dict) else None
        if not isinstance(module, ReSet):
            raise ValueError(
                "`routes` must be what ReSet layers with return_routes=True returned, in the graph of this model. "
                f"Received: {route!r} at index {index}"
            )
        modules.append(module)
    return modules


def _routes_between(inputs: Any, outputs: Any) -> list[dict[str, Any]]:
    """The routes of all modules on the way from the inputs to the outputs that return them."""
    found = []
    for call in calls_of(keras.Model(inputs, outputs)):
        if isinstance(call.operation, ReSet) and call.operation.return_routes:
            _, logits, scores = call.output_tensors  # of a dict, by the names' order
            found.append({"logits": logits, "scores": scores})
    return found


def _check_on_the_way(modules: list[ReSet], layers: list[keras.layers.Layer]) -> None:
    """A module that the outputs do not depend on would be no part of the model."""
    for module in modules:
        if not any(layer is module for layer in layers):
            raise ValueError(
                f"The outputs must depend on every module whose routes are given. Received: '{module.name}', on which "
                "they do not"
            )


def _is_empty(x: Any) -> bool:
    return isinstance(x, np.ndarray) and len(x) == 0


def _unused(term: Any, own: Any) -> Any:
    """A term of `compile` that no other model moves: a copy, as it was made, where it has variables of another's."""
    if term is None or term is own or not term.variables:
        return term
    return type(term).from_config(term.get_config())
