"""Pipelines of a user's own networks, datasets and callbacks."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import reset_keras as rk
from networks import images_and_labels
from reset_keras.callbacks import EpochTensorBoard, RunObserver
from reset_keras.data import ImageDataset, LabelledImages
from reset_keras.inference.costs import timing
from reset_keras.keras_internals import settings_kept
from reset_keras.training import Pipeline, Stage, Training, WorkDirectory
from reset_keras.training.stages import pipeline

IMAGES, LABELS = images_and_labels(16)
PICTURES = np.clip(40 * np.repeat(IMAGES, 2, axis=-1) + 128, 0, 255).astype("uint8")
DATASET = ImageDataset(
    "two channels", LabelledImages(PICTURES, LABELS), {"test": LabelledImages(PICTURES[:5], LABELS[:5])}, 4
)
TRUNK_MACS = 8 * 8 * 2 * 4 * 9
CLASSIFIER_MACS = 4 * 4
UNIT_MACS = 8 * 8 * 4 * 4 * 9
CONTROLLER_MACS = 4 * 64 * (4 + 64) + 64 * 2


def cnn(_=None):
    inputs = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)))


def routed(_=None):
    inputs = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    units = [keras.layers.Conv2D(4, 3, padding="same") for _ in range(2)]
    x, routes = rk.ReSet(units, 1, scorer="hard", zero_unit=False, return_routes=True)(x)
    return rk.RoutedModel(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)), routes=[routes])


def with_outputs(*layers):
    inputs = keras.Input((8, 8, 2))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    outputs = [layer(x) for layer in layers]
    return keras.Model(inputs, outputs if len(outputs) > 1 else outputs[0])


def uncountable():
    return keras.Sequential([keras.Input((8, 8, 2)), keras.layers.DepthwiseConv2D(3), keras.layers.Flatten()])


def training(callbacks=lambda _: {}, **options):
    return Training(6, lambda: {"optimizer": keras.optimizers.SGD(0.1), "run_eagerly": True, **options}, callbacks)


def run(folder, *stages):
    workdir = WorkDirectory(folder, {})
    return Pipeline(DATASET, workdir, 4, 0, tf.distribute.get_strategy(), RunObserver(DATASET, workdir)).run(stages)


@pytest.mark.slow
def test_a_network_of_ones_own_is_compared_with_an_earlier_stages(tmp_path, monkeypatch):
    one_turn = functools.partial(timing.interleaved_times, rounds=1, round_seconds=1e-3)
    monkeypatch.setattr(timing, "interleaved_times", one_turn)
    metrics = {"metrics": [keras.metrics.SparseTopKCategoricalAccuracy(k=4, name="of_four")]}
    static = Stage("static", prepare=cnn, training=training(**metrics), start=None)
    compared = Stage("routed", prepare=routed, training=training(), start=None, baseline="static")
    rows = run(tmp_path, static, compared)
    static_macs = TRUNK_MACS + CLASSIFIER_MACS
    assert rows[0]["compute_fraction"] == 1
    assert rows[1]["compute_fraction"] == pytest.approx(
        1 + (UNIT_MACS + CONTROLLER_MACS) / static_macs
    )  # one unit runs
    assert [row["route_meaning"] for row in rows] == [None, None]  # of so few images nothing is said
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line["val_of_four"] for line in lines if line["event"] == "epoch" and line["stage"] == "static"} == {1.0}
    workdir = WorkDirectory(tmp_path, {})
    workdir.append_metrics({"note": "a line of the user's"})
    assert rk.analysis.write_report(workdir, rows, DATASET).exists()


def test_a_baseline_that_routes_is_refused_before_the_training(tmp_path):
    first = Stage(
        "first", prepare=lambda _: rk.ReSetNet((1,), input_shape=(8, 8, 2), num_classes=4, width=4), start=None
    )
    compared = Stage("routed", prepare=routed, training=training(), start=None, baseline="first")
    with pytest.raises(ValueError, match=r"stage 'routed': .* Received: baseline='first', whose network routes"):
        run(tmp_path, first, compared)
    assert not list(tmp_path.rglob("epoch-*"))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage("mine", prepare=routed, training=training(), start=None), r"stage 'mine': a routed model .*`baseline`"),
        (
            Stage("mine", prepare=lambda _: uncountable(), training=training(), start=None),
            "stage 'mine': Cannot count the MACs",
        ),
        (
            Stage("a", prepare=cnn, training=training(metrics="accuracy"), start=None),
            "`metrics` of a stage must be a list, beside the accuracy. Received: metrics='accuracy'",
        ),
        (
            Stage("a", prepare=lambda _: with_outputs(keras.layers.Dense(1)), training=training(), start=None),
            r"stage 'a': the network must have one output, a logit for each class, .* outputs of shape \(None, 1\)",
        ),
        (
            Stage(
                "a", prepare=lambda _: with_outputs(*map(keras.layers.Dense, (4, 4))), training=training(), start=None
            ),
            r"Received: outputs of shape \(None, 4\), \(None, 4\)",
        ),
        (Stage("mine", training=training(), start=None), r"`prepare` of stage 'mine' .* Received: None, from no netw"),
        (
            Stage(
                "a", prepare=cnn, training=training(lambda _: {"tensorboard": keras.callbacks.Callback()}), start=None
            ),
            r"callbacks of stage 'a' have names that the pipeline needs for others: \['tensorboard'\]",
        ),
        (
            Stage("a", prepare=cnn, training=training(lambda _: {"clock": keras.callbacks.Callback()}), start=None),
            r"names that the pipeline needs for others: \['clock'\]",
        ),
    ],
)
def test_what_cannot_end_well_is_refused_before_the_first_step(tmp_path, stage, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, stage)
    assert not list(tmp_path.rglob("epoch-*"))


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (cnn, {}, "a stage with a `teacher` needs a `RoutedModel`.* Received: a Functional"),
        (routed, {"distillation": None}, "Received: both, the former 'static'"),
    ],
)
def test_a_teacher_that_a_stage_cannot_have_is_refused(tmp_path, network, options, message):
    static = Stage("static", prepare=cnn, start=None)
    taught = Training(6, lambda: {"optimizer": "sgd", **options}, teacher="static")
    workdir = WorkDirectory(tmp_path, {})
    stages = [static, Stage("taught", prepare=network, training=taught, start=None, baseline="static")]
    with pytest.raises(ValueError, match=message):
        Pipeline(DATASET, workdir, 4, 0, tf.distribute.get_strategy(), Unmeasured(DATASET, workdir)).run(stages)


class Twice(keras.layers.Layer):
    """A layer that only a scope of custom objects knows."""

    def call(self, x):
        return 2 * x


def test_what_users_set_for_keras_stays_from_stage_to_stage(tmp_path):
    def network(_):
        inputs = keras.Input((8, 8, 2))
        x = Twice()(keras.layers.Lambda(lambda x: x + 1, output_shape=(8, 8, 2))(inputs))
        return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)))

    workdir = WorkDirectory(tmp_path, {})
    pipe = Pipeline(DATASET, workdir, 4, 0, tf.distribute.get_strategy(), Unmeasured(DATASET, workdir))
    stages = [Stage("first", prepare=network, start=None), Stage("second")]
    with keras.saving.custom_object_scope({"Twice": Twice}), settings_kept():
        with pytest.raises(ValueError, match=r"the network of stage 'first', cannot be loaded: .*enable_unsafe"):
            pipe.run(stages)
        keras.config.enable_unsafe_deserialization()
        assert [row["stage"] for row in pipe.run(stages)] == ["first", "second"]


def test_callbacks_that_begin_anew_where_a_stage_goes_on_are_named(tmp_path):
    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def run_with(*callbacks):
        named = {type(callback).__name__: callback for callback in callbacks}
        stage = Stage("a", prepare=cnn, training=training(lambda _: named), start=None)
        workdir = WorkDirectory(tmp_path, {})
        Pipeline(DATASET, workdir, 4, 0, tf.distribute.get_strategy(), Unmeasured(DATASET, workdir)).run([stage])

    with pytest.raises(KeyboardInterrupt):
        run_with(keras.callbacks.EarlyStopping("loss"), Killed())
    with pytest.warns(UserWarning, match=r"Stage 'a' goes on from a checkpoint.* begin anew: \['EarlyStopping'\]"):
        run_with(keras.callbacks.EarlyStopping("loss"))


class Unmeasured(RunObserver):
    def measure(self, *_):
        return {"accuracy": {}, "compute_fraction": 1.0}

    def show(self, *_):
        """Nothing."""


class Batches(keras.callbacks.Callback):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(batch)


def test_tensorboards_callback_need_not_see_each_batch(tmp_path):
    assert pipeline._steps_per_execution(8, [EpochTensorBoard(tmp_path), keras.callbacks.TensorBoard(tmp_path)]) == 8
    assert pipeline._steps_per_execution(8, [Batches([])]) == 1


@pytest.mark.parametrize(
    "callback",
    [Batches, lambda seen: keras.callbacks.LambdaCallback(on_train_batch_begin=lambda b, logs: seen.append(b))],
)
def test_callbacks_of_batches_see_each_of_them(tmp_path, callback):
    seen = []
    workdir = WorkDirectory(tmp_path, {})
    workdir.append_metrics({"note": "a line of the user's"})
    stage = Stage("a", prepare=cnn, training=Training(4, dict, lambda _: {"b": callback(seen)}), start=None)
    Pipeline(DATASET, workdir, 4, 0, tf.distribute.get_strategy(), Unmeasured(DATASET, workdir)).run([stage])
    assert seen == [0, 1, 2, 3]
    assert workdir.metrics()[0] == {"note": "a line of the user's"}
