import keras
import numpy as np
import pytest

from networks import LOSS, images_and_labels, small_reset
from reset_keras.callbacks import PolicyConvergence, StopAtCompute
from reset_keras.inference import compute_fractions

IMAGES, LABELS = images_and_labels()


def fit(model, epochs, callbacks):
    model.compile(keras.optimizers.SGD(0.1), LOSS)
    return model.fit(IMAGES, LABELS, batch_size=16, epochs=epochs, callbacks=callbacks, verbose=0)


def test_a_policy_that_rests_has_converged():
    model = small_reset()
    model.compile(keras.optimizers.SGD(1e-8), LOSS)
    history = model.fit(
        IMAGES, LABELS, batch_size=16, epochs=9, callbacks=[PolicyConvergence(IMAGES, 0.3, patience=2)], verbose=0
    )
    assert len(history.epoch) == 3


def test_a_second_training_is_watched_anew():
    model, watch = small_reset(), PolicyConvergence(IMAGES, 0.3, patience=2)
    model.compile(keras.optimizers.SGD(1e-8), LOSS)
    for _ in range(2):
        history = model.fit(IMAGES, LABELS, batch_size=16, epochs=9, callbacks=[watch], verbose=0)
        assert len(history.epoch) == 3


def test_a_policy_that_moves_has_not():
    class Shuffle(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            for module in self.model.routed_modules:
                module.controller.dense.bias.assign(np.roll([9.0, 0.0, 0.0], epoch))

    model = small_reset()
    assert len(fit(model, 5, [Shuffle(), PolicyConvergence(IMAGES, 0.3)]).epoch) == 5


@pytest.mark.parametrize(("distance", "stops"), [(0.01, True), (-0.01, False)])
def test_a_stage_ends_when_little_enough_is_computed(distance, stops):
    model = small_reset("gumbel_st")
    model.compile("sgd", LOSS)
    fraction = float(compute_fractions(model, model.predict_routes(IMAGES, verbose=0)).mean())
    callback, logs = StopAtCompute(IMAGES, fraction + distance), {}
    callback.set_model(model)
    model.stop_training = False
    callback.on_epoch_end(0, logs)
    assert model.stop_training is stops
    assert logs["compute_fraction"] == pytest.approx(fraction, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PolicyConvergence(IMAGES, 0.0), "`tolerance` must be between 0 and 1"),
        (lambda: StopAtCompute(IMAGES, 0.0), "`compute_target` must be above 0"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
