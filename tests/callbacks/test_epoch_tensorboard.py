"""Files for TensorBoard, against those of Keras's own callback."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import reset_keras as rk
from networks import LOSS, images_and_labels
from reset_keras.callbacks import EpochTensorBoard

IMAGES, LABELS = images_and_labels()


def scalars(folder):
    """Values by run and tag."""
    found = {}
    for run in ("train", "validation"):
        events = EventAccumulator(str(folder / run)).Reload()
        for tag in events.Tags()["tensors"]:
            found[run, tag] = [tf.make_ndarray(event.tensor_proto).item() for event in events.Tensors(tag)]
    return found


@pytest.mark.slow
def test_it_writes_what_keras_writes_and_no_batches(tmp_path, monkeypatch):
    model = rk.ResNet((1,), 4, (8, 8, 1), width=4)
    first_weights = model.get_weights()
    model.compile(keras.optimizers.SGD(0.1), LOSS, metrics=["accuracy"])
    written = []
    summary = importlib.import_module("tensorflow.summary")  # as Keras has it: another object than tf.summary
    scalar = summary.scalar
    monkeypatch.setattr(
        tf.summary, "scalar", lambda name, *args, **kw: written.append(name) or scalar(name, *args, **kw)
    )
    for folder, callback in (
        ("theirs", keras.callbacks.TensorBoard(tmp_path / "theirs", write_graph=False)),
        ("ours", EpochTensorBoard(tmp_path / "ours")),
    ):
        written.clear()
        keras.utils.set_random_seed(0)
        model.set_weights(first_weights)
        model.fit(IMAGES, LABELS, 8, 2, 0, callbacks=[callback], validation_data=(IMAGES, LABELS), shuffle=False)
        assert any(name.startswith("batch_") for name in written) == (folder == "theirs")
    ours, theirs = scalars(tmp_path / "ours"), scalars(tmp_path / "theirs")
    assert set(ours) == set(theirs)
    assert ("validation", "epoch_accuracy") in ours
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-6, err_msg=str(name))
