import dataclasses

import numpy as np
import pytest

import reset_keras as rk
from numpy_reference import softmax
from reset_keras.analysis import evaluation
from reset_keras.analysis.evaluation import evaluate


@pytest.fixture
def few_digits():
    digits = rk.data.load_digits()
    part = rk.data.LabelledImages(digits.test.images[:8], digits.test.labels[:8])
    return dataclasses.replace(digits, tests={"test": part})


@pytest.mark.slow
def test_the_parameters_of_a_network_by_hand(few_digits):
    stem, block, classifier = 3 * 3 * 1 * 4 + 4 * 4, 2 * (3 * 3 * 4 * 4 + 4 * 4), 4 * 10 + 10
    resnet = rk.ResNet((1,), 10, (8, 8, 1), width=4)
    row, _, _ = evaluate(resnet, few_digits)
    assert row["parameters"] == stem + block + classifier


def test_the_row_of_a_network_with_one_route_by_hand(few_digits, monkeypatch):
    """Of its two iterations the first takes unit 1, as the ResNet does, and the second skips."""
    monkeypatch.setattr(evaluation, "relative_inference_times", lambda *_: {1: 0.5, 128: 1.5})
    model = rk.ReSetNet((2,), None, 10, (8, 8, 1), scorer="gumbel_st", allowed=[[1, 1, 0], [1, 1, 1]], width=4)
    (module,) = model.routed_modules
    module.controller.dense.kernel.assign(np.zeros(module.controller.dense.kernel.shape))
    module.controller.dense.bias.assign([1.0, 0.0, 2.0])
    row, predictions, _ = evaluate(model, few_digits)

    images, labels = few_digits.normalize(few_digits.test.images), few_digits.test.labels
    classes = model.predict(images, verbose=0).argmax(axis=-1)
    np.testing.assert_array_equal(predictions["test"], classes)
    np.testing.assert_array_equal(predictions["test_labels"], labels)
    policies = [softmax(np.array([1.0, 0.0])), softmax(np.array([1.0, 0.0, 2.0]))]
    static = rk.inference.macs(rk.models.static_twin(model))
    unit, controllers = 2 * 9 * 4 * 4 * 64, 2 * (4 * 64 * (4 + 64) + 64 * 3)
    expected = {
        "accuracy": {"test": np.mean(classes == labels)},
        "macs": static - unit + controllers,
        "compute_fraction": (static - unit + controllers) / static,
        "skip_fraction": 0.5,
        "policy_entropy": np.mean([-(policy * np.log(policy)).sum() for policy in policies]),
        "sequential_probability": (policies[0][0] + policies[1][1]) / 2,
        "sequential_choice": 0.5,
        "relative_time": 1.5,
        "relative_time_of_one": 0.5,
    }
    assert {name: row[name] for name in expected} == {
        name: pytest.approx(value, rel=1e-5) for name, value in expected.items()
    }
