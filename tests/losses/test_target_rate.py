"""The loss of ConvNet-AIG, by hand."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from gradient import gradient_of
from networks import EAGERLY_ON_TENSORFLOW, LOSS, images_and_labels, one_module_reset
from reset_keras.losses.target_rate import unit_uses

FIRST = np.array([[[0.2, 0.8], [0.9, 0.1]], [[0.6, 0.4], [0.5, 0.5]]], "float32")
WITHOUT = np.array([[[0.3, 0.7]], [[1.0, 0.0]]], "float32")
LAST = np.array([[[0.1, 0.2, 0.7]], [[0.1, 0.8, 0.1]]], "float32")
USES = np.array([[0.2, 0.9, 0.3], [0.6, 0.5, 0.9]])
IMAGES, LABELS = images_and_labels()


def test_what_iterations_leave_to_units():
    np.testing.assert_allclose(unit_uses([FIRST, WITHOUT, LAST], [True, False, True]), USES, atol=1e-6)


@pytest.mark.parametrize("rate", [0.6, [0.5, 0.25, 1.0]])
def test_loss_and_gradient_by_hand(rate):
    target_rate = rk.TargetRate(rate)
    target_rate.build(3)
    uses = USES.astype("float32")
    mean = np.array([0.4, 0.7, 0.6])
    assert float(target_rate.deviation(uses)) == pytest.approx(np.mean((mean - rate) ** 2), abs=1e-6)
    by_hand = np.broadcast_to(2 * (mean - rate) / (3 * 2), (2, 3))  # over three iterations and two images
    np.testing.assert_allclose(gradient_of(target_rate.deviation, uses), by_hand, atol=1e-6)


def test_it_is_a_term_of_the_loss_and_logged():
    model = one_module_reset(zero_unit=True, weight_decay=0.0)
    model.compile("sgd", LOSS, target_rate=rk.TargetRate([0.3, 0.9], 4.0), **EAGERLY_ON_TENSORFLOW)
    logs = model.evaluate(IMAGES, LABELS, batch_size=32, verbose=0, return_dict=True)
    scores = np.array(model(IMAGES, training=False, return_routes=True).routes[0]["scores"])
    use = 1 - scores[..., -1].mean(axis=0)
    deviation = np.mean((use - [0.3, 0.9]) ** 2)
    assert logs["target_rate_loss"] == pytest.approx(deviation, abs=1e-5)
    assert logs["unit_use"] == pytest.approx(use.mean(), abs=1e-5)
    assert logs["loss"] == pytest.approx(logs["task_loss"] + 4.0 * deviation, abs=1e-5)
    model.target_rate.weight.assign(0.0)
    logs = model.evaluate(IMAGES, LABELS, batch_size=32, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(logs["task_loss"], abs=1e-6)


@pytest.mark.slow
def test_units_come_near_their_rates_and_a_file_keeps_all(tmp_path):
    keras.utils.set_random_seed(0)
    model = one_module_reset("gumbel_st", controller="gate", allowed="sequential")
    model.compile(keras.optimizers.SGD(0.1, momentum=0.5), LOSS, target_rate=rk.TargetRate([0.6, 0.2], 5.0))
    images, labels = images_and_labels(256)
    model.fit(images, labels, batch_size=64, epochs=10, verbose=0)
    use = np.mean(
        [1 - model(images, training=True, return_routes=True).routes[0]["scores"][..., -1] for _ in "1234"], 0
    )
    np.testing.assert_allclose(use.mean(axis=0), [0.6, 0.2], atol=0.1)  # untrained, they run for 0.88 of the images
    model.target_rate.weight.assign(0.5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.target_rate.get_config() == {"rate": [0.6, 0.2], "weight": 5.0}
    assert float(loaded.target_rate.weight) == 0.5


@pytest.mark.parametrize(
    ("model", "rate", "message"),
    [
        (lambda: one_module_reset(zero_unit=False), 0.5, "needs modules with a zero unit"),
        (lambda: one_module_reset("hard"), 0.5, r"no gradient through these scorers: \['HardScorer'\]"),
        (one_module_reset, [0.1, 0.2, 0.3], "one for each of the 2 iterations"),
    ],
)
def test_models_that_it_does_not_fit_are_refused(model, rate, message):
    with pytest.raises(ValueError, match=message):
        model().compile("sgd", LOSS, target_rate=rk.TargetRate(rate))
