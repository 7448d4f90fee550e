"""The training step is traced once, whatever Keras would make while it traces."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import LOSS, images_and_labels, little_to_trace, one_module_reset

IMAGES, LABELS = images_and_labels()
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow has a step of its own")


class Seen(keras.metrics.Metric):
    """Counts images, and is never reset."""

    def __init__(self):
        super().__init__(name="seen")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.count.assign_add(keras.ops.cast(keras.ops.shape(y_true)[0], "float32"))

    def result(self):
        return self.count

    def reset_state(self):
        pass


def arrays(model):
    model.fit(IMAGES, LABELS, batch_size=16, verbose=0)


def dataset(model):
    import tensorflow as tf

    model.fit(tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(16, drop_remainder=True), verbose=0)


def batches(model):
    for start in (0, 16):
        model.train_on_batch(IMAGES[start : start + 16], LABELS[start : start + 16])


@pytest.mark.parametrize(
    ("train", "make"), [(arrays, one_module_reset), (dataset, little_to_trace), (batches, little_to_trace)]
)
def test_the_step_is_traced_once(train, make, monkeypatch):
    model, traces = make(), []
    step = type(model).train_step
    monkeypatch.setattr(type(model), "train_step", lambda self, data: traces.append(1) or step(self, data))
    model.compile("adam", LOSS, metrics=["accuracy", Seen()])
    train(model)
    assert len(traces) == 1
    assert model.get_metrics_result()["seen"] == len(IMAGES)
    assert model.optimizer.iterations == 2


@pytest.mark.slow
def test_a_metric_sees_labels_of_unknown_size_as_they_are():
    """By the size of one-hot labels `accuracy` becomes another metric than for classes."""
    import tensorflow as tf

    def batches():
        for start in (0, 16):
            yield IMAGES[start : start + 16], np.eye(4, dtype="float32")[LABELS[start : start + 16]]

    known, unknown = ((None, 4), (None, None))
    found = []
    for shape in (known, unknown):
        keras.utils.set_random_seed(0)
        model = little_to_trace()
        model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        signature = (tf.TensorSpec((None, 8, 8, 1)), tf.TensorSpec(shape))
        data = tf.data.Dataset.from_generator(batches, output_signature=signature)
        found.append(model.fit(data, verbose=0).history["accuracy"][0])
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert found[0] > 0


def test_images_of_any_size_are_trained_on():
    inputs = keras.Input((None, None, 1))
    x, routes = rk.ReSet([keras.layers.Conv2D(1, 3, padding="same")], 1, return_routes=True)(inputs)
    model = rk.RoutedModel(inputs, keras.layers.Conv2D(1, 1, activation="sigmoid")(x), routes=[routes])
    model.compile("sgd", "binary_crossentropy", metrics=[keras.metrics.AUC()])
    history = model.fit(IMAGES, (IMAGES > 0).astype("float32"), batch_size=16, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.slow
def test_without_labels_to_go_by_it_trains_all_the_same():
    model = little_to_trace()
    model.compile("adam", LOSS, metrics=["accuracy"])
    before = model.get_weights()
    model.fit(((IMAGES, LABELS) for _ in range(2)), steps_per_epoch=2, verbose=0)
    assert model.optimizer.iterations == 2
    assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
    assert np.isfinite(model.get_metrics_result()["accuracy"])


class ChecksItsImages(rk.RoutedModel):
    """Looks at all that a model's own metrics may look at."""

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        assert x.shape[1:] == (8, 8, 1)
        assert y_pred.routes[0]["scores"].shape[1:] == (1, 2)
        return super().compute_metrics(x, y, y_pred, sample_weight)


def test_metrics_of_ones_own_see_images_and_routes():
    network = little_to_trace()
    model = ChecksItsImages(network.input, network.output)
    model.compile("adam", LOSS, metrics=["accuracy"])
    chosen = np.array(model(IMAGES, training=True)).argmax(axis=-1)
    logs = model.train_on_batch(IMAGES, LABELS, return_dict=True)
    assert logs["accuracy"] == pytest.approx(np.mean(chosen == LABELS))
