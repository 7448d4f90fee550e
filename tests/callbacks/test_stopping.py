import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import EAGERLY_ON_TENSORFLOW, LOSS, images_and_labels, one_module_reset, small_reset
from numpy_reference import softmax
from reset_keras.callbacks import PolicyConvergence, StopAtCompute
from reset_keras.inference import compute_fractions

IMAGES, LABELS = images_and_labels()


@pytest.mark.slow
def test_a_second_training_is_watched_anew():
    model, watch = one_module_reset(), PolicyConvergence(IMAGES, 0.3, patience=2)
    model.compile(keras.optimizers.SGD(1e-8), LOSS, **EAGERLY_ON_TENSORFLOW)
    for _ in range(2):
        history = model.fit(IMAGES, LABELS, batch_size=32, epochs=9, callbacks=[watch], verbose=0)
        assert len(history.epoch) == 3


def test_a_resumed_training_is_watched_on():
    model, watch = one_module_reset(), PolicyConvergence(IMAGES, 0.3, patience=2)
    model.compile(keras.optimizers.SGD(1e-8), LOSS, **EAGERLY_ON_TENSORFLOW)
    model.fit(IMAGES, LABELS, batch_size=32, epochs=2, callbacks=[watch], verbose=0)
    resumed = PolicyConvergence(IMAGES, 0.3, patience=2)
    resumed.restore(watch.state())
    history = model.fit(IMAGES, LABELS, batch_size=32, epochs=9, callbacks=[resumed], verbose=0)
    assert len(history.epoch) == 1


def test_a_policy_that_moves_has_not_converged():
    """Without kernels the policies are the softmax of the biases, of all images and iterations."""
    model, watch = small_reset(), PolicyConvergence(IMAGES, 0.1, patience=1)
    watch.set_model(model)
    model.stop_training = False
    biases = np.array([[[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]], [[0.0, 0.0, 0.0], [0.5, 1.0, 0.0]]])  # epochs, modules
    for module in model.routed_modules:
        module.controller.dense.kernel.assign(np.zeros(module.controller.dense.kernel.shape))
    logs = []
    for of_modules in (*biases, biases[1]):
        assert not model.stop_training
        for module, bias in zip(model.routed_modules, of_modules, strict=True):
            module.controller.dense.bias.assign(bias)
        logs.append({})
        watch.on_epoch_end(len(logs), logs[-1])
    policies = softmax(biases)
    change = np.abs(policies[1] - policies[0]).sum(axis=-1).mean() / 2
    assert change > 0.1
    assert logs == [{}, {"policy_change": pytest.approx(change, rel=1e-5)}, {"policy_change": pytest.approx(0.0)}]
    assert model.stop_training


def test_epochs_in_which_the_policy_stays_count_in_a_row():
    model, watch = one_module_reset(), PolicyConvergence(IMAGES, 0.1, patience=2)
    watch.set_model(model)
    model.stop_training = False
    (module,) = model.routed_modules
    module.controller.dense.kernel.assign(np.zeros(module.controller.dense.kernel.shape))
    stopped = []
    for epoch, logit in enumerate((0.0, 0.0, 3.0, 3.0, 3.0)):
        module.controller.dense.bias.assign([logit, 0.0, 0.0])
        watch.on_epoch_end(epoch)
        stopped.append(model.stop_training)
    assert stopped == [False, False, False, False, True]


def test_a_compute_target_that_no_training_changes():
    model = one_module_reset("gumbel_st")
    with pytest.raises(ValueError, match=r"must be at most 2\.\d+, .* 0.7 for 70 %. Received: compute_target=70.0"):
        StopAtCompute(IMAGES, 70).set_model(model)
    with pytest.warns(UserWarning, match=r"compute_target=0.5 cannot be reached: the cheapest routes cost 0\.\d+\."):
        StopAtCompute(IMAGES, 0.5).set_model(model)


@pytest.mark.parametrize("shape", [(2, 9, 9, 1), (2, 8, 8, 3)])
def test_images_that_do_not_fit_the_model_are_refused_before_the_first_step(shape):
    model, images = one_module_reset("gumbel_st"), np.zeros(shape, "float32")
    callbacks = [
        PolicyConvergence(images),
        StopAtCompute(images, 1.5),
        rk.callbacks.RoutingWarnings(images),
        rk.callbacks.RouteHistory(images),
        rk.callbacks.RouteMonitor("unused", images),
        rk.callbacks.HoldCompute(images, 1.0),
    ]
    for callback in callbacks:
        name = type(callback).__name__
        with pytest.raises(
            ValueError, match=rf"`{name}'s images` must hold .* \(None, 8, 8, 1\). Received: .*{shape[1]}"
        ):
            callback.set_model(model)


@pytest.mark.slow
def test_a_stage_ends_when_little_enough_is_computed():
    model = small_reset("gumbel_st")
    model.compile("sgd", LOSS)
    fraction = float(compute_fractions(model, model.predict_routes(IMAGES, verbose=0)).mean())
    for distance, stops in ((0.01, True), (-0.01, False)):
        callback, logs = StopAtCompute(IMAGES, fraction + distance), {}
        callback.set_model(model)
        model.stop_training = False
        callback.on_epoch_end(0, logs)
        assert model.stop_training is stops
        assert logs["compute_fraction"] == pytest.approx(fraction, abs=1e-6)


def test_operations_that_cannot_be_counted_are_found_before_the_first_step():
    inputs = keras.Input((8, 8, 2))
    x, routes = rk.ReSet([keras.layers.DepthwiseConv2D(3, padding="same")], 1, return_routes=True)(inputs)
    with pytest.raises(ValueError, match="Cannot count the MACs of layer 'depthwise_conv2d"):
        StopAtCompute(np.repeat(IMAGES, 2, axis=-1), 0.5).set_model(rk.RoutedModel(inputs, x, routes=[routes]))


@pytest.mark.parametrize("watch", [PolicyConvergence(IMAGES, 0.5, patience=1), StopAtCompute(IMAGES, 2.0)])
def test_a_training_loop_of_ones_own_may_keep_no_logs(watch):
    model = small_reset("gumbel_st")
    model.stop_training = False
    watch.set_model(model)
    for epoch in range(2):
        watch.on_epoch_end(epoch)
    assert model.stop_training
