import dataclasses

import reset_keras as rk
from reset_keras.analysis.evaluation import evaluate


def test_the_parameters_of_a_network_by_hand():
    digits = rk.data.load_digits()
    few = dataclasses.replace(
        digits, tests={"test": rk.data.LabelledImages(digits.test.images[:8], digits.test.labels[:8])}
    )
    stem, block, classifier = 3 * 3 * 1 * 4 + 4 * 4, 2 * (3 * 3 * 4 * 4 + 4 * 4), 4 * 10 + 10
    resnet = rk.ResNet((1,), 10, (8, 8, 1), width=4)
    row, _, _ = evaluate(resnet, few)
    assert row["parameters"] == stem + block + classifier
