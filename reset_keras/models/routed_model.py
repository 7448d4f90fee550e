from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from reset_keras.distribution import local_mean, num_replicas, strategy_scope
from reset_keras.keras_internals import maker
from reset_keras.layers import ReSet
from reset_keras.losses.distillation import Distillation
from reset_keras.losses.entropy import Entropy, entropies
from reset_keras.losses.skip_reward import SkipReward, choice_log_probabilities, skip_scores
from reset_keras.models.compile_checks import (
    check_distillation,
    check_parts,
    check_routes_are_known,
    check_skip_reward,
    check_step_options,
    operations_under_target,
)
from reset_keras.models.fit_checks import check_fit_input
from reset_keras.models.operations import Operations
from reset_keras.models.optimizer_clip import clip_in_optimizer, without_clip
from reset_keras.models.per_image_loss import per_image_loss

if keras.backend.backend() == "tensorflow":
    from reset_keras.models.train_step import TensorFlowTrainStep as TrainStep
else:

    class TrainStep:  # type: ignore[no-redef]
        """Other backends train with Keras's own step."""

        gradient_norms: tuple[str, ...] = ()


Tensor = Any
TERMS = ("task_loss", "entropy_across", "entropy_within", "skip_reward", "skip_fraction", "l2")
TARGET_TERMS = ("expected_compute", "skip_price")


@keras.saving.register_keras_serializable("reset_keras")
class RoutedModel(TrainStep, keras.Model):
    """A Keras model with ReSet modules in it, whose loss also looks at their routes.

    It is trained, evaluated, saved and loaded like any Keras model. Called, it returns a dict of `"outputs"` and
    `"routes"`; `predict` returns only the outputs and `predict_routes` the routes. The entropy regularizer (eq. 13)
    and the skip reward (eq. 9) are given to `compile`. Every term of the loss is logged by itself: `task_loss`, `l2`
    (all regularizers), `entropy_across` and `entropy_within` (the sums of eq. 13, in nats), `skip_reward` (eq. 9) and
    `skip_fraction` (mean score of the zero units); with `SkipReward(target=...)` also `expected_compute` (the mean
    compute fraction that the target bounds) and `skip_price`; with `Distillation` also `distillation_loss`, without its
    weight. The same names have `val_` before them for validation data. On TensorFlow the training step also logs
    `gradient_norm_controllers`, `gradient_norm_pools` and `gradient_norm_others`: norms over all replicas, before
    clipping, 0 where all is frozen.

    Args:
        inputs: Keras input, or a nest of them.
        outputs: Keras tensor, or a nest of them, computed from `inputs`.
        routes: The routes that the model's modules returned: one dict of `"logits"` and `"scores"` for each `ReSet`
            that was built with `return_routes=True`.

    Raises:
        ValueError: `routes` is empty, or holds something else than a module's routes, or two modules share a
            controller, a scorer, a pool or one of its units.

    Examples:
        >>> inputs = keras.Input((8, 8, 16))
        >>> x, routes = ReSet(units=2, num_iterations=2, return_routes=True)(inputs)
        >>> outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
        >>> model = RoutedModel(inputs, outputs, routes=[routes])
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("sgd", loss, metrics=["accuracy"], entropy=Entropy(across=0.01), skip_reward=SkipReward(0.1))
        >>> tuple(model.predict(keras.random.normal((3, 8, 8, 16)), verbose=0).shape)
        (3, 10)
    """

    def __init__(self, inputs: Any, outputs: Any, routes: Sequence[dict[str, Any]], **kwargs: Any) -> None:
        super().__init__(**{"autocast": False, **kwargs})  # its layers cast what they are given
        self.zero_units = tuple(module.zero_unit for module in modules_of(routes))
        named_routes = {_route_name(index): dict(route) for index, route in enumerate(routes)}
        self.network = keras.Model(inputs, {"outputs": outputs, "routes": named_routes}, name="network")
        check_parts(self.network)
        if isinstance(outputs, (list, tuple)):  # by which Keras finds losses and metrics that are given by name
            self.output_names = [maker(tensor).name for tensor in keras.tree.flatten(outputs)]
        self.term_trackers = [keras.metrics.Mean(name=name) for name in TERMS]
        self.target_trackers = [keras.metrics.Mean(name=name) for name in TARGET_TERMS]
        self.distillation_tracker = keras.metrics.Mean(name="distillation_loss")
        self.gradient_trackers = [keras.metrics.Mean(name=name) for name in self.gradient_norms]
        self.entropy: Entropy | None = None
        self.skip_reward: SkipReward | None = None
        self.distillation: Distillation | None = None
        self.operations: Operations | None = None
        self.gradient_clip_norm: float | None = None
        self.loss_weight = 1.0
        self.batch_replication = 1
        self.built = True

    @property
    def routed_modules(self) -> list[ReSet]:
        """The model's ReSet modules, in the order of their routes."""
        return modules_of(_in_order(self.network.output["routes"]))

    def call(self, inputs: Tensor, training: bool | None = None) -> dict[str, Any]:
        return self.network(inputs, training=training)

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
        check_routes_are_known(self.network, modules)
        check_skip_reward(skip_reward, modules)
        operations = operations_under_target(skip_reward, self.network, modules)
        check_distillation(distillation, self.network)
        check_step_options(gradient_clip_norm, batch_replication)
        super().compile(optimizer, loss, **kwargs)
        loss_weights = kwargs.get("loss_weights")
        self.loss_weight = 1.0 if loss_weights is None else keras.tree.flatten(loss_weights)[0]
        if keras.backend.backend() != "tensorflow":
            clip_in_optimizer(self.optimizer, gradient_clip_norm)
        with strategy_scope(self):
            if entropy is not None:
                entropy.build()
            if skip_reward is not None:
                weights = None if operations is None else operations.skip_weights
                skip_reward.build(sum(module.num_iterations for module in modules), weights)
        self.entropy = entropy
        self.skip_reward = skip_reward
        self.distillation = distillation
        self.operations = operations
        self.gradient_clip_norm = gradient_clip_norm
        self.batch_replication = batch_replication

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        """This replica's share of the loss: task loss, regularizers, entropy and skip reward, and logs each of them."""
        outputs, routes = y_pred["outputs"], _in_order(y_pred["routes"])
        logits = [route["logits"] for route in routes]
        scores = [route["scores"] for route in routes]
        skips = skip_scores(scores, self.zero_units)
        loss = super().compute_loss(x, y, outputs, sample_weight, training)
        l2 = sum(self.losses, start=ops.zeros(()))
        task_loss = loss * num_replicas() - l2
        if self.distillation is not None:
            divergences = per_image_loss(self.distillation.of_images(x), y, outputs, sample_weight)
            taught = self.distillation.weight * (local_mean(divergences) - task_loss)
            loss += ops.cast(taught / num_replicas(), loss.dtype)
            self.distillation_tracker.update_state(local_mean(divergences), sample_weight=ops.shape(skips)[0])

        across, within = entropies(logits)
        if self.entropy is not None:
            loss += ops.cast(self.entropy(across, within) / num_replicas(), loss.dtype)
        reward = ops.zeros((), "float32")
        if self.skip_reward is not None:
            reward = self.skip_reward.total(skips)
            term = -reward
            if self.skip_reward.estimator == "reinforce" and training:
                task_losses = self.loss_weight * per_image_loss(self.loss, y, outputs, sample_weight)
                task_losses = ops.cast(task_losses, "float32")
                if self.distillation is not None:
                    task_losses += self.distillation.weight * (divergences - task_losses)
                term = self.skip_reward.reinforce(skips, choice_log_probabilities(logits, scores), task_losses)
            loss += ops.cast(term / num_replicas(), loss.dtype)

        terms = (task_loss, across, within, reward, ops.mean(local_mean(skips)), l2)
        for tracker, value in zip(self.term_trackers, terms, strict=True):
            tracker.update_state(value, sample_weight=ops.shape(skips)[0])
        if self.skip_reward is not None and self.operations is not None:
            self._follow_target(self.skip_reward, self.operations.expected_fractions(scores), training)
        return loss

    def _follow_target(self, skip_reward: SkipReward, fractions: Tensor, training: bool) -> None:
        """Logs the terms of a compute target, then moves its price: this step's rewards are of the price before."""
        terms = (local_mean(fractions), skip_reward.price)
        for tracker, value in zip(self.target_trackers, terms, strict=True):
            tracker.update_state(value, sample_weight=ops.shape(fractions)[0])
        if training:
            skip_reward.update_price(fractions)

    @property
    def metrics(self) -> list[Any]:
        """All that is logged."""
        unused = [] if self.operations is not None else self.target_trackers
        if self.distillation is None:
            unused = [*unused, self.distillation_tracker]
        hidden = list(map(id, unused))
        return [metric for metric in super().metrics if id(metric) not in hidden]

    def compute_metrics(self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> dict[str, Tensor]:
        return super().compute_metrics(x, y, y_pred["outputs"], sample_weight)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as `keras.Model.fit` does, with its arguments; mistakes in arrays and datasets are named first.

        Raises:
            ValueError: `x` or `y` is an array that is empty, of another shape, not finite, or holds unknown classes; or
                `x` is a `tf.data.Dataset` that is empty or of another shape.
        """
        check_fit_input(x, y, self.network, self.loss)
        return super().fit(x, y, *args, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The model's outputs for `x`, as numpy arrays: the arguments are those of `keras.Model.predict`."""
        return super().predict(x, *args, **kwargs)["outputs"]

    def predict_on_batch(self, x: Any) -> Any:
        return super().predict_on_batch(x)["outputs"]

    def predict_routes(self, x: Any, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """The routes of `x`: the arguments are those of `keras.Model.predict`.

        Returns:
            A list with, for each module, a dict of numpy arrays `"logits"` and `"scores"`, each of shape
            `(images, num_iterations, num_scores)`.
        """
        return self.predict_with_routes(x, *args, **kwargs)[1]

    def predict_routes_on_batch(self, x: Any) -> list[dict[str, Any]]:
        """The routes of one batch, as `predict_routes` returns them."""
        return _in_order(super().predict_on_batch(x)["routes"])

    def predict_with_routes(self, x: Any, *args: Any, **kwargs: Any) -> tuple[Any, list[dict[str, Any]]]:
        """A pair of what `predict` and `predict_routes` return, computed once."""
        predictions = super().predict(x, *args, **kwargs)
        return predictions["outputs"], _in_order(predictions["routes"])

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Writes what `predict` computes as `keras.Model.export` does, with its arguments.

        `rk.inference.export` writes a network with all that can be folded and left out, which runs faster.
        """
        outputs = keras.Model(self.network.input, self.network.output["outputs"], name=self.name)
        outputs.export(filepath, *args, **kwargs)

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Not supported: the parts of a module could not be loaded again.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "A model with ReSet modules cannot be quantized: its file could not be loaded. For a smaller or faster "
            "network take `rk.inference.freeze` and `rk.inference.export`, or a dtype policy of half precision."
        )

    def get_layer(self, name: str | None = None, index: int | None = None) -> keras.layers.Layer:
        """A layer of the network, as `keras.Model.get_layer` finds it."""
        return self.network.get_layer(name, index)

    def summary(self, *args: Any, **kwargs: Any) -> None:
        """Prints the layers of the network, as `keras.Model.summary` does."""
        self.network.summary(*args, **kwargs)

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
        for name, variable in self._loss_variables().items():
            if name in store.keys():  # noqa: SIM118 - an HDF5 store is no mapping
                variable.assign(store[name][()])

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "network": keras.saving.serialize_keras_object(self.network)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "RoutedModel":
        network = keras.saving.deserialize_keras_object(config["network"])
        return cls(network.input, network.output["outputs"], _in_order(network.output["routes"]), name=config["name"])

    def get_compile_config(self) -> dict[str, Any]:
        with without_clip(self.optimizer if self.compiled else None):
            config = super().get_compile_config()
        if config:
            config["entropy"] = keras.saving.serialize_keras_object(self.entropy)
            config["skip_reward"] = keras.saving.serialize_keras_object(self.skip_reward)
            config["gradient_clip_norm"] = self.gradient_clip_norm
            config["batch_replication"] = self.batch_replication
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
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


def _route_name(index: int) -> str:
    return f"module_{index}"


def _in_order(routes: dict[str, Any]) -> list[dict[str, Any]]:
    return [routes[_route_name(index)] for index in range(len(routes))]
