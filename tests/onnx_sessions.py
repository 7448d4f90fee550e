"""ONNX files in ONNX Runtime, checked against the networks that they are of."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import expected_of
from networks import images_and_labels
from reset_keras.inference import freeze
from reset_keras.inference.exports.onnx_writer import onnx_model

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
IMAGES, _ = images_and_labels(32)


def session_of(network, one_image=False):
    model = onnx_model(network, one_image)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 18}
    assert {weight.name for weight in model.graph.initializer} <= set(names_read(model.graph))
    return runtime.InferenceSession(model.SerializeToString())


def names_read(graph):
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from names_read(attribute.g)


def check(model, images=IMAGES, *, execution="auto", threshold=0.0, expected=None):
    """Runs the file of a model for batches of several sizes, and returns the session."""
    network = freeze(model, execution, threshold)
    session = session_of(network)
    expected = expected_of(model, images) if expected is None else expected
    for size in (1, 7, 32):
        for start in range(0, 8, size):
            (outputs,) = session.run(["outputs"], {"images": images[start : start + size]})
            np.testing.assert_allclose(outputs, expected[start : start + size], atol=1e-4, rtol=1e-4)
    assert session.run(["outputs"], {"images": images[:0]})[0].shape == (0, *expected.shape[1:])
    single = session_of(network, one_image=True)
    assert single.get_inputs()[0].shape == [1, *images.shape[1:]]
    outputs = [single.run(["outputs"], {"images": image[np.newaxis]})[0][0] for image in images[:8]]
    np.testing.assert_allclose(outputs, expected[:8], atol=1e-4, rtol=1e-4)
    return session


@keras.saving.register_keras_serializable("tests")
class AboveScorer(rk.Scorer):
    """The softmax's scores, those of the `kept` largest that are above 0.3."""

    def __init__(self, kept=3, **kwargs):
        super().__init__(**kwargs)
        self.kept = kept

    def call(self, logits, training=None):
        scores = self.soft(logits)
        least = keras.ops.top_k(scores, self.kept)[0][:, -1:]
        return keras.ops.where((scores > 0.3) & (scores >= least), scores, 0.0)

    def get_config(self):
        return {**super().get_config(), "kept": self.kept}
