import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import LOSS, images_and_labels, one_module_reset, randomize, small_reset, small_resnet
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


@pytest.mark.slow
def test_those_images_skip_whose_zero_unit_is_nearest_to_being_chosen():
    model = one_decision()
    given = model.get_weights()
    (route,) = model.predict_routes(IMAGES, verbose=0)
    logits = route["logits"][:, 0]
    margins = logits[:, 2] - logits[:, :2].max(axis=-1)
    assert (margins > 0).sum() not in (10, 45)
    costs = compute_fractions(model, [{"scores": np.eye(3)[[[0], [2]]]}])
    for num_skipped in (10, 45):
        model.set_weights(given)
        hold_compute(model, IMAGES, costs[0] + (costs[1] - costs[0]) * num_skipped / len(IMAGES))
        (route,) = model.predict_routes(IMAGES, verbose=0)
        skips = route["scores"][:, 0, 2] == 1
        np.testing.assert_array_equal(skips, margins >= np.sort(margins)[-num_skipped])

    model.set_weights(given)
    with pytest.raises(ValueError, match=f"and at most {costs[0]:.3f}: .* Received: compute_target=70"):
        hold_compute(model, IMAGES, 70)
    for ours, old in zip(model.get_weights(), given, strict=True):
        np.testing.assert_array_equal(ours, old)


def test_an_interrupt_leaves_the_network_as_it_was(monkeypatch):
    model = one_module_reset("hard")
    given, calls = model.get_weights(), []

    def interrupted(*_, **__):
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict_routes(*_, **__)

    predict_routes = model.predict_routes
    monkeypatch.setattr(model, "predict_routes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hold_compute(model, IMAGES, 1.1)
    for ours, old in zip(model.get_weights(), given, strict=True):
        np.testing.assert_array_equal(ours, old)


@pytest.mark.slow
def test_the_zero_units_of_all_modules_get_the_same_shift():
    keras.utils.set_random_seed(0)
    model = randomize(rk.ReSetNet((2, 2), (1, 1), 4, (8, 8, 1), scorer="gumbel_st", width=4))
    least, most = (compute_fractions(model, [{"scores": np.eye(3)[[[u]]]}] * 2)[0] for u in (2, 0))
    given, before = model.get_weights(), {weight.path: np.array(weight) for weight in model.weights}
    for share in (0.3, 0.8):
        model.set_weights(given)
        target = least + share * (most - least)
        hold_compute(model, IMAGES, target)
        unit = (most - least) / 2 / len(IMAGES)
        assert fraction(model) == pytest.approx(target, abs=2 * unit)
        shifts = {w.path: np.array(w) - before[w.path] for w in model.weights if not np.array_equal(w, before[w.path])}
        assert {path.split("/", 1)[1] for path in shifts} == {"controller/dense/bias"}
        first, second = shifts.values()
        np.testing.assert_allclose(first, second, atol=1e-6)
        np.testing.assert_array_equal(first[:2], 0)


@pytest.mark.slow
def test_routes_move_with_the_features_unless_they_are_held():
    keras.utils.set_random_seed(0)
    model = with_fixed_routes(randomize(one_module_reset("hard")))
    target = compute_fractions(model, [{"scores": np.eye(3)[[[0, 2]]]}])[0]  # half of all decisions skip
    hold_compute(model, IMAGES, target)

    def fraction_after_training(epochs, *callbacks):
        model.fit(IMAGES, LABELS, batch_size=20, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))
        return fraction(model)

    model.compile(keras.optimizers.SGD(0.2, momentum=0.9), LOSS)
    assert fraction_after_training(3) != pytest.approx(target, abs=0.02)
    assert fraction_after_training(2, HoldCompute(IMAGES, target)) == pytest.approx(target, abs=0.005)


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


def test_routes_that_are_held_already_are_looked_at_a_few_times(monkeypatch):
    model = one_decision()
    hold_compute(model, IMAGES, TARGET)
    held, looks, predict_routes = fraction(model), [], model.predict_routes
    monkeypatch.setattr(model, "predict_routes", lambda *args, **kw: looks.append(0) or predict_routes(*args, **kw))
    hold_compute(model, IMAGES, TARGET)
    assert len(looks) <= 8
    assert abs(fraction(model) - TARGET) <= abs(held - TARGET)


@pytest.mark.slow
def test_images_go_through_in_batches(monkeypatch):
    monkeypatch.setattr(holding, "BATCH_SIZE", 25)
    monkeypatch.setattr(holding, "TOLERANCE", 1.0)  # the batches count here, not where the target is met
    model, batches = one_decision(), set()
    model.network.run_eagerly = True  # else the batches have no length
    pool = model.routed_modules[0].pool
    monkeypatch.setattr(
        pool, "call", lambda x, *args, call=pool.call, **kw: batches.add(len(x)) or call(x, *args, **kw)
    )
    hold_compute(model, IMAGES, TARGET)
    assert batches == {25, 10}


@pytest.mark.slow
@pytest.mark.parametrize("bias", [-1000.0, 1000.0])
def test_controllers_may_be_very_sure(bias):
    model = one_decision()
    least, most = (compute_fractions(model, [{"scores": np.eye(3)[[[unit]]]}])[0] for unit in (2, 0))
    dense = model.routed_modules[0].controller.dense.bias
    dense.assign(np.append(np.array(dense)[:-1], np.float32(bias)))
    target = (least + most) / 2
    hold_compute(model, IMAGES, target)
    assert fraction(model) == pytest.approx(target, abs=2 * (most - least) / len(IMAGES))
