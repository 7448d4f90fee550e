import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import LOSS, images_and_labels, randomize, small_reset, small_resnet
from reset_keras.callbacks import HoldCompute
from reset_keras.inference import compute_fractions
from reset_keras.training import hold_compute, with_fixed_routes
from reset_keras.training.routes import holding

IMAGES, LABELS = images_and_labels(60)
TARGET = 1.3
"""Of networks so small that what is not skipped is most of them."""


def fraction(model):
    return compute_fractions(model, model.predict_routes(IMAGES, verbose=0)).mean()


def one_decision():
    """A model of one iteration, whose logits do not depend on what was decided before."""
    keras.utils.set_random_seed(0)
    return randomize(rk.ReSetNet((2,), (1,), 4, (8, 8, 1), scorer="hard", width=4))


@pytest.mark.parametrize("num_skipped", [10, 45])
def test_those_images_skip_whose_zero_unit_is_nearest_to_being_chosen(num_skipped):
    model = one_decision()
    (route,) = model.predict_routes(IMAGES, verbose=0)
    logits = route["logits"][:, 0]
    margins = logits[:, 2] - logits[:, :2].max(axis=-1)
    assert (margins > 0).sum() not in (10, 45)
    costs = compute_fractions(model, [{"scores": np.eye(3)[[[0], [2]]]}])
    target = costs[0] + (costs[1] - costs[0]) * num_skipped / len(IMAGES)
    hold_compute(model, IMAGES, target)
    (route,) = model.predict_routes(IMAGES, verbose=0)
    skips = route["scores"][:, 0, 2] == 1
    np.testing.assert_array_equal(skips, margins >= np.sort(margins)[-num_skipped])


@pytest.mark.parametrize(("scorer", "share"), [("hard", 0.3), ("gumbel_st", 0.8)])
def test_the_zero_units_of_all_modules_get_the_same_shift(scorer, share):
    model = randomize(small_reset(scorer))
    least, most = (compute_fractions(model, [{"scores": np.eye(3)[[[u, u]]]}] * 2)[0] for u in (2, 0))
    before = {weight.path: np.array(weight) for weight in model.weights}
    target = least + share * (most - least)
    hold_compute(model, IMAGES, target)
    unit = (most - least) / 4 / len(IMAGES)
    assert fraction(model) == pytest.approx(target, abs=2 * unit)
    shifts = {w.path: np.array(w) - before[w.path] for w in model.weights if not np.array_equal(w, before[w.path])}
    assert {path.split("/", 1)[1] for path in shifts} == {"controller/dense/bias"}
    first, second = shifts.values()
    np.testing.assert_allclose(first, second, atol=1e-6)
    np.testing.assert_array_equal(first[:2], 0)


def test_routes_that_cannot_cost_so_much_stay_as_they_are():
    model = randomize(small_reset("hard"))
    before = model.get_weights()
    hold_compute(model, IMAGES, 5.0)
    for ours, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, old)


def test_routes_move_with_the_features_unless_they_are_held():
    def after_training(*callbacks):
        model = with_fixed_routes(randomize(small_reset("hard")))
        hold_compute(model, IMAGES, TARGET)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), LOSS)
        model.fit(IMAGES, LABELS, batch_size=20, epochs=3, shuffle=False, verbose=0, callbacks=list(callbacks))
        return fraction(model)

    assert after_training() != pytest.approx(TARGET, abs=0.02)
    assert after_training(HoldCompute(IMAGES, TARGET)) == pytest.approx(TARGET, abs=0.005)


@pytest.mark.parametrize(
    ("make", "target", "message"),
    [
        (small_reset, TARGET, r"Received: \['SoftmaxScorer'\]"),
        (small_resnet, TARGET, "Received: a ResNet"),
        (lambda: small_reset("hard", zero_unit=False), TARGET, "'stage0_reset' has none"),
        (lambda: small_reset("hard"), 0.1, r"above 0\.\d+, .*compute_target=0\.1"),
        (lambda: small_reset("hard", controller="cnn"), 2.0, "'stage0_reset' with a CNNController"),
    ],
)
def test_routes_that_cannot_be_held(make, target, message):
    model = make()
    for hold in (lambda: hold_compute(model, IMAGES, target), lambda: HoldCompute(IMAGES, target).set_model(model)):
        with pytest.raises(ValueError, match=message):
            hold()


def test_images_go_through_in_batches(monkeypatch):
    monkeypatch.setattr(holding, "BATCH_SIZE", 25)
    model, batches = one_decision(), set()
    model.network.run_eagerly = True  # else the batches have no length
    pool = model.routed_modules[0].pool
    monkeypatch.setattr(
        pool, "call", lambda x, *args, call=pool.call, **kw: batches.add(len(x)) or call(x, *args, **kw)
    )
    hold_compute(model, IMAGES, TARGET)
    assert batches == {25, 10}
