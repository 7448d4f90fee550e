"""How a `RoutedModel` is trained: what `compile` takes, the loss, what is logged, and how a file keeps it."""

import inspect
import warnings
from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from reset_keras.distribution import strategy_scope
from reset_keras.layers.lost_routes import learns_only_by_reinforce
from reset_keras.losses import Distillation, EarlyExits, Entropy, PonderCost, SkipReward, TargetRate
from reset_keras.models.classifier import classifier_of
from reset_keras.models.compile_checks import check_log_names, check_loss, check_step_options, check_terms
from reset_keras.models.fit_checks import check_data, check_validation_data
from reset_keras.models.loss_files import load_loss_variables, loss_variables, save_loss_variables
from reset_keras.models.optimizer_clip import clip_in_optimizer, clips_by_itself, without_clip
from reset_keras.models.routed_loss import Batch, RoutedLoss, Terms, columns_as_run
from reset_keras.models.routed_outputs import RoutedOutputs

if keras.backend.backend() == "tensorflow":
    from reset_keras.models.train_step import TensorFlowTrainStep as TrainStep
else:
    from reset_keras.models.routes_in_steps import JAXTrainStep as TrainStep

Tensor = Any


class RoutedTrainer(TrainStep):
    """The half of a `RoutedModel` that trains it; the other half is its graph of layers."""

    zero_units: tuple[bool, ...]
    network: keras.Model
    entropy: Entropy | None = None
    skip_reward: SkipReward | None = None
    ponder_cost: PonderCost | None = None
    target_rate: TargetRate | None = None
    distillation: Distillation | None = None
    early_exits: EarlyExits | None = None
    gradient_clip_norm: float | None = None
    batch_replication: int = 1
    lost_teacher: str | None = None
    evaluates: bool = False
    routed_loss: Any = None
    _own_terms: tuple = ()  # of all that it was compiled with

    def compile(  # noqa: PLR0913 - each is a term of the loss or a setting of the step
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        *,
        entropy: Entropy | None = None,
        skip_reward: SkipReward | None = None,
        target_rate: TargetRate | None = None,
        distillation: Distillation | None = None,
        early_exits: EarlyExits | None = None,
        gradient_clip_norm: float | None = None,
        batch_replication: int = 1,
        ponder_cost: PonderCost | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training, as `keras.Model.compile` does, with the terms that concern routes.

        A term that another model was compiled with is copied, as it was made: the model's own is `model.entropy`,
        `model.skip_reward`, and so on.

        Args:
            optimizer: Keras optimizer, or its name. Default `"rmsprop"`.
            loss: Keras loss of the outputs, or its name, or `None`. Default `None`.
            entropy: `Entropy`, the regularizer of the policies, or `None`. Default `None`.
            skip_reward: `SkipReward`, or the `DropReward` of BlockDrop, or `None`. Default `None`; with
                `scorer="hard"`, which learns by nothing else, `SkipReward(0.0, estimator="reinforce")`.
            target_rate: `TargetRate`, which holds each unit near a share of the images, or `None`. Default `None`.
            distillation: `Distillation`, a teacher and its share of the loss, or `None`. Default `None`.
            early_exits: `EarlyExits`, which trains the classifier on the features after each unit of the last module,
                or `None`. That module needs a `HaltingController`, and global average pooling and a dense layer after
                it. Default `None`.
            gradient_clip_norm: Float above 0, the largest norm of the whole gradient, over all variables and replicas,
                or `None` for no limit. Default `None`.
            batch_replication: Integer, how often each training image stands in its batch, each time with noise of its
                own (row 17 of table 2). Other numbers than 1 need the TensorFlow backend. Default 1.
            ponder_cost: `PonderCost`, what modules with `halting` pay for their iterations. They need one,
                `PonderCost(0.0)` for none; without such modules `None`. Default `None`.
            **kwargs: All other arguments of `keras.Model.compile`.

        Raises:
            ValueError: the reward's estimator or target, or the target rate, does not fit the modules' scorers, or
                there is no zero unit, or the target cannot be reached or counted, or a number is out of its range; or
                there are not as many rewards, or rates, as iterations; or a module that learns only by its routes has
                not given them to the model; or a teacher is for other inputs or outputs, or has several outputs; or
                there is halting without a ponder cost, or a ponder cost without halting; or early exits that the model
                does not have; or a term is of another class; or REINFORCE, early exits or a teacher with several
                outputs, or with a loss that is no mean over the images. On JAX also `batch_replication` above 1, and
                `gradient_clip_norm` beside the optimizer's own `clipnorm` or `clipvalue`.
        """
        # Before a reward is given to hard routing: to be evaluated it may have several outputs.
        check_loss(loss, self, skip_reward, distillation or early_exits)
        modules = self.routed_modules
        if skip_reward is None and any(map(learns_only_by_reinforce, modules)):
            skip_reward = SkipReward(0.0, estimator="reinforce")
        terms = Terms(entropy, skip_reward, target_rate, ponder_cost, distillation, early_exits)
        # Before Keras's `compile`: a model whose terms are refused here stays compiled as it was.
        operations = check_terms(terms, self, modules)
        check_step_options(optimizer, gradient_clip_norm, batch_replication)
        super().compile(optimizer, loss, **kwargs)
        # Only now: Keras may have made the optimizer by its name, or put one that scales the loss around it.
        clip_in_optimizer(self.optimizer, gradient_clip_norm if clips_by_itself(self.optimizer) else None)
        terms = Terms(*(_unused(term, self._own_terms) for term in terms))
        self._own_terms = tuple({id(term): term for term in (*self._own_terms, *terms)}.values())
        loss_weights = [weight for weight in keras.tree.flatten(kwargs.get("loss_weights")) if weight is not None]
        weighted_loss = loss, loss_weights[0] if loss_weights else 1.0
        with strategy_scope(self):
            if terms.entropy is not None:
                terms.entropy.build()
            if terms.ponder_cost is not None:
                terms.ponder_cost.build()
            if terms.skip_reward is not None:
                weights = None if operations is None else operations.skip_weights
                terms.skip_reward.build(sum(module.num_iterations for module in modules), weights)
            if terms.target_rate is not None:
                terms.target_rate.build(sum(module.num_iterations for module in modules if module.zero_unit))
            classifier = None if early_exits is None else classifier_of(self)
            # No Keras object, so Keras does not track its metrics: it would keep those of each earlier `compile` too.
            order = columns_as_run(self.network, modules)
            self.routed_loss = RoutedLoss(self.zero_units, weighted_loss, terms, operations, classifier, order)
            check_log_names(self.output_names, self.routed_loss.trackers)
            self.routed_loss.trackers |= {name: keras.metrics.Mean(name=name) for name in self.gradient_norms}
        for name, term in terms._asdict().items():
            setattr(self, name, term)
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
        """This replica's share of the loss: of the task, the regularizers and the terms of routes; logs each of them.

        Args:
            x: Inputs of the batch.
            y: Its labels.
            y_pred: A `RoutedOutputs`, as `model(x, training=True, return_routes=True)` returns one.
            sample_weight: Weights of shape `(batch,)`, or `None`.
            training: Boolean, whether a step of training follows.

        Raises:
            ValueError: `y_pred` has no routes, or the model was loaded from a file, had a teacher, and is trained
                without having been compiled anew.
        """
        _check_has_routes(y_pred)
        if training:
            self._check_teacher()
        loss = super().compute_loss(x, y, y_pred.outputs, sample_weight, training)
        l2 = sum(self.losses, start=ops.zeros(()))
        return self.routed_loss.with_terms(loss, l2, Batch(x, _only(y), y_pred, _only(sample_weight)), training)

    def compute_metrics(self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> dict[str, Tensor]:
        """What the metrics say of a batch, whose `y_pred` is a `RoutedOutputs`."""
        _check_has_routes(y_pred)
        return super().compute_metrics(x, y, y_pred.outputs, sample_weight)

    def _advice_without_teacher(self) -> str:
        terms = [name for name, term in self._loss_terms()._asdict().items() if term is not None]
        terms += ["gradient_clip_norm"] if self.gradient_clip_norm is not None else []
        terms += ["batch_replication"] if self.batch_replication != 1 else []
        others = "".join(f"{name}=model.{name}, " for name in terms)
        return (
            f"This model was trained by Distillation({self.lost_teacher}), whose teacher its file does not keep. "
            "Compile it again, with its metrics and loss weights, and with the teacher or without: model.compile("
            f"model.optimizer, model.loss, {others}distillation=rk.Distillation(teacher))"
        )

    def _check_teacher(self) -> None:
        if self.lost_teacher is not None:
            raise ValueError(self._advice_without_teacher())

    def _warn_of_lost_teacher(self) -> None:
        if self.lost_teacher is not None:
            message = self._advice_without_teacher()
            warnings.warn(
                f"{message}. Until then it is evaluated without the teacher's share of the loss", stacklevel=3
            )

    @property
    def metrics(self) -> list[Any]:
        """All that is logged; evaluated, a model has no gradients."""
        trackers = {} if self.routed_loss is None else self.routed_loss.trackers
        hidden = self.gradient_norms if self.evaluates else ()
        return super().metrics + [tracker for name, tracker in trackers.items() if name not in hidden]

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as `keras.Model.fit` does, with its arguments; mistakes in arrays and datasets are named first.

        Raises:
            ValueError: inputs, labels, weights or validation data are arrays that are missing, empty, of another shape,
                not finite, or hold unknown classes; or a `tf.data.Dataset` that is empty or of another shape.
        """
        given = inspect.signature(keras.Model.fit).bind_partial(self, x, y, *args, **kwargs).arguments
        check_data((x, y, given.get("sample_weight")), self, self.loss)
        check_validation_data(given.get("validation_data"), self, self.loss)
        self._check_teacher()  # on JAX a step that fails leaves the model without its weights
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluates as `keras.Model.evaluate` does, with its arguments; mistakes are named as by `fit`."""
        given = inspect.signature(keras.Model.evaluate).bind_partial(self, x, y, *args, **kwargs).arguments
        check_data((x, y, given.get("sample_weight")), self, self.loss)
        self._warn_of_lost_teacher()
        return super().evaluate(x, y, *args, **kwargs)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        self._check_teacher()
        return super().train_on_batch(*args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        self._warn_of_lost_teacher()
        return super().test_on_batch(*args, **kwargs)

    @property
    def variables(self) -> list[Any]:
        """All state, the weights of the loss terms and the reward's baseline included."""
        # On JAX a step of Keras only takes along, and brings back, what is among the model's variables.
        return super().variables + list(loss_variables(self._loss_terms()).values())

    def _loss_terms(self) -> Terms:
        return Terms(*(getattr(self, name) for name in Terms._fields))

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        save_loss_variables(self._loss_terms(), store)

    def load_own_variables(self, store: Any) -> None:
        # Those of a subclass, by Keras's names for them, which are numbers: Keras would refuse further names.
        super().load_own_variables({name: store[name] for name in store.keys() if name.isdecimal()})  # noqa: SIM118
        load_loss_variables(self._loss_terms(), store)

    def get_compile_config(self) -> dict[str, Any]:
        with without_clip(self.optimizer if self.compiled else None):
            config = super().get_compile_config()
        if config:
            saved = self._loss_terms()._replace(distillation=None)
            own = {
                **{name: keras.saving.serialize_keras_object(term) for name, term in saved._asdict().items()},
                "gradient_clip_norm": self.gradient_clip_norm,
                "batch_replication": None if self.batch_replication == 1 else self.batch_replication,
                "lost_teacher": self.lost_teacher if self.distillation is None else self.distillation.settings,
            }
            # A clone of a `ReSetNet` is a plain model of Keras, whose `compile` takes none of them.
            config |= {name: value for name, value in own.items() if value is not None}
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        config = dict(config)
        lost_teacher = config.pop("lost_teacher", None)
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.lost_teacher = lost_teacher
        self.optimizer.build(self.trainable_variables)


def _check_has_routes(y_pred: Any) -> None:
    if not isinstance(y_pred, RoutedOutputs):
        raise ValueError(
            "The loss and the metrics of a RoutedModel need its routes, too: in a training step call "
            "model(x, training=True, return_routes=True), and give them what it returns. Received as `y_pred`: a "
            f"{type(y_pred).__name__}"
        )


def _only(nest: Any) -> Any:
    """What is given for the only output, also in a list or under its name, as Keras takes it."""
    parts = keras.tree.flatten(nest)
    return parts[0] if len(parts) == 1 else nest


def _unused(term: Any, own: Iterable[Any]) -> Any:
    """The term, or a new copy of it where its variables already belong to another model."""
    is_used = getattr(term, "variables", ()) and not any(term is earlier for earlier in own)
    return type(term).from_config(term.get_config()) if is_used else term
