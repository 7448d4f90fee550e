import warnings

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import EAGERLY_ON_TENSORFLOW, LOSS, images_and_labels, one_module_reset, small_reset
from reset_keras.analysis import Routes
from reset_keras.callbacks import RoutingWarning, RoutingWarnings, StopOnNaN
from reset_keras.callbacks.routing_checks import Sign, describe, signs
from reset_keras.training import Checkpoint

IMAGES, LABELS = images_and_labels()
RNG = np.random.default_rng(0)


def routes(logits, scores=None):
    """Routes of one module with two units and the zero unit."""
    logits = np.asarray(logits, float)
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    policy = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return Routes([{"logits": logits, "scores": policy if scores is None else scores}], (True,))


def places(found):
    return {(sign.kind, sign.place) for sign in signs(found)}


HEALTHY = RNG.normal(0, 2, (50, 2, 3))


def test_healthy_routes_show_no_sign():
    assert places(routes(HEALTHY)) == set()


def test_a_unit_that_nobody_uses():
    logits = HEALTHY.copy()
    logits[..., 1] = -50.0
    assert places(routes(logits)) == {("unused", "module 1, unit 2")}
    logits[3, 0, 1] = 50.0
    assert places(routes(logits)) == set()


def test_a_zero_unit_may_go_unused():
    logits = HEALTHY.copy()
    logits[..., 2] = -50.0
    assert places(routes(logits)) == set()


def test_one_policy_for_all_images():
    logits = HEALTHY.copy()
    logits[:, 1] = [0.0, 1.0, 0.5]
    assert places(routes(logits)) == {("one_policy", "module 1, iteration 2")}
    logits[7, 1] = [1.0, 0.0, 0.5]
    assert places(routes(logits)) == set()


def test_policies_are_one_by_their_total_variation():
    """Half of the sum of differences: 0.006 from the mean policy, where 0.01 is the bound."""
    sides = np.where(np.arange(50) % 2 == 0, 1.0, -1.0)[:, None]
    logits = HEALTHY.copy()
    logits[:, 1] = np.log([0.5, 0.3, 0.2] + 0.006 * sides * [1.0, -1.0, 0.0])
    assert places(routes(logits)) == {("one_policy", "module 1, iteration 2")}


def test_a_unit_that_one_iteration_uses_is_used():
    scores = np.full((50, 2, 3), [0.9985, 0.0015, 0.0])
    scores[:, 1] = [1.0, 0.0, 0.0]
    assert places(routes(HEALTHY, scores)) == set()


def test_entropy_at_its_upper_bound():
    logits = HEALTHY.copy()
    logits[:, 0] = RNG.normal(0, 0.05, (50, 3))
    assert places(routes(logits)) == {("uniform", "module 1, iteration 1")}
    logits[:, :, 1] = -1e9  # what `allowed` leaves: two choices
    assert places(routes(logits)) >= {("uniform", "module 1, iteration 1")}
    logits[:, 0, 2] = -1e8  # that of `DropCurriculum`: one choice, about which there is nothing to say
    assert all(place != "module 1, iteration 1" for _, place in places(routes(logits)))


def test_a_saturated_controller():
    assert {kind for kind, _ in places(routes(100 * HEALTHY))} == {"saturated"}


def test_messages_name_all_places_and_what_to_try():
    (message,) = describe([Sign("uniform", 1, 0), Sign("uniform", 0, 2)])
    assert "module 1, iteration 3; module 2, iteration 1. Try: raise the controllers' learning rate" in message
    assert len(list(describe([Sign("uniform", 0, 0), Sign("unused", 0, 0)]))) == 2


def watched(model, callback, epochs, **options):
    """Messages of a callback that watches a training in which nothing changes."""
    model.compile("sgd", LOSS, **options)
    model.optimizer.build(model.trainable_variables)
    callback.set_model(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback.on_train_begin()
        for epoch in range(epochs):
            callback.on_epoch_end(epoch)
        callback.on_train_end()
    return [str(warning.message) for warning in caught if warning.category is RoutingWarning]


def collapsed():
    """A network whose controllers are certain of unit 2 for every image."""
    model = small_reset()
    for module in model.routed_modules:
        module.controller.dense.kernel.assign(np.zeros(module.controller.dense.kernel.shape))
        module.controller.dense.bias.assign([0.0, 40.0, 0.0])
    return model


def test_a_collapse_is_reported_once_after_some_epochs():
    told = []
    callback = RoutingWarnings(IMAGES, patience=2, on_warning=lambda *line: told.append(line))
    messages = watched(collapsed(), callback, epochs=4)
    assert [epoch for epoch, _ in told] == [1] * len(messages)
    assert [message for _, message in told] == messages
    everything = " ".join(messages)
    iterations = "; ".join(f"module {module}, iteration {k}" for module in (1, 2) for k in (1, 2))
    for text in ("module 1, unit 1; module 2, unit 1", f"same policy: {iterations}", f"for every image: {iterations}"):
        assert everything.count(text) == 1


def test_a_frozen_controller_is_not_warned_of():
    model = collapsed()
    model.routed_modules[1].controller.trainable = False
    assert not [message for message in watched(model, RoutingWarnings(IMAGES, patience=1), 1) if "module 2" in message]


def test_what_lasts_is_counted_where_controllers_are_frozen_in_turns():
    model, told = collapsed(), []
    callback = RoutingWarnings(IMAGES, patience=3, on_warning=lambda epoch, message: told.append((epoch, message)))
    callback.set_model(model)
    callback.on_train_begin()
    for epoch in range(6):
        for module in model.routed_modules:
            module.controller.trainable = epoch % 2 == 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RoutingWarning)
            callback.on_epoch_end(epoch)
    assert {epoch for epoch, _ in told} == {5}
    assert len(told) == 3


def test_one_image_has_no_policy_to_share():
    logits = np.array([[[1.0, 0.0, 0.5]]])
    assert list(signs(Routes([{"logits": logits, "scores": np.ones((1, 1, 3)) / 3}], (True,)))) == []


def test_a_controller_that_learns_nothing_is_not_warned_of():
    inputs = keras.Input((8, 8, 1))
    halting = rk.HaltingController(3, 4)
    x, routes = rk.ReSet(2, 2, halting, rk.HardScorer(sampled=False), return_routes=True)(inputs)
    model = rk.RoutedModel(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)), routes=[routes])
    (route,) = model(IMAGES, training=False, return_routes=True).routes
    assert list(signs(Routes([{name: np.array(part) for name, part in route.items()}], (True,))))
    callback = RoutingWarnings(IMAGES, patience=1)
    callback.set_model(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RoutingWarning)
        callback.on_epoch_end(0)


def test_counting_goes_on_after_a_restart():
    model = collapsed()
    model.compile("sgd", LOSS)
    first, second = RoutingWarnings(IMAGES, patience=3), RoutingWarnings(IMAGES, patience=3)
    first.set_model(model)
    first.on_epoch_end(0)
    first.on_epoch_end(1)
    second.restore({name: np.array(array) for name, array in first.state().items()})
    second.set_model(model)
    with pytest.warns(RoutingWarning, match="module 2"):
        second.on_epoch_end(2)
    third = RoutingWarnings(IMAGES, patience=3)
    third.restore(second.state())
    third.set_model(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RoutingWarning)
        third.on_epoch_end(3)


def test_a_second_training_is_counted_anew():
    model, callback = collapsed(), RoutingWarnings(IMAGES, patience=2)
    assert not watched(model, callback, epochs=1)
    assert not watched(model, callback, epochs=1)
    messages = watched(model, callback, epochs=2)
    assert messages
    assert watched(model, callback, epochs=2) == messages


@pytest.fixture(scope="module")
def certain():
    """A hard-routed network that never skips, and its compute fraction."""
    keras.utils.set_random_seed(0)
    model = small_reset("gumbel_st")
    for module, bias in zip(model.routed_modules, ([40.0, 0.0, 0.0], [0.0, 0.0, 40.0]), strict=True):
        module.controller.dense.bias.assign(bias)
    return model, float(rk.inference.compute_fractions(model, model.predict_routes(IMAGES, verbose=0)).mean())


def at_the_end(model, target):
    """The messages at the end of a training that asks for this compute fraction."""
    reward = rk.SkipReward(0.1) if target is None else rk.SkipReward(target=target)
    return watched(model, RoutingWarnings(IMAGES, patience=9), 1, skip_reward=reward)


@pytest.mark.parametrize(("distance", "advice"), [(-0.1, "train for longer"), (0.1, "hold_compute")])
def test_a_missed_compute_target(certain, distance, advice):
    model, fraction = certain
    (message,) = at_the_end(model, fraction + distance)
    assert message.startswith(f"The compute fraction is {fraction:.3f}, the target was {fraction + distance:g}.")
    assert advice in message


@pytest.mark.parametrize("distance", [-0.04, 0.04, None])
def test_a_target_that_is_kept_is_no_news(certain, distance):
    model, fraction = certain
    assert at_the_end(model, None if distance is None else fraction + distance) == []


class Poison(keras.callbacks.Callback):
    """Fills a kernel of a controller at the beginning, or at the end, of the second epoch."""

    def __init__(self, at, value):
        super().__init__()
        self.at, self.value = at, value

    def on_epoch_begin(self, epoch, logs=None):
        self._fill(epoch, "begin")

    def on_epoch_end(self, epoch, logs=None):
        self._fill(epoch, "end")

    def _fill(self, epoch, at):
        kernel = self.model.routed_modules[0].controller.dense.kernel
        if (epoch, at) == (1, self.at):
            kernel.assign(np.full(kernel.shape, self.value))


def test_nan_stops_the_run_names_the_weights_and_keeps_the_last_checkpoint(tmp_path):
    model = one_module_reset()
    model.compile("sgd", LOSS, **EAGERLY_ON_TENSORFLOW)
    model.optimizer.build(model.trainable_variables)
    poison = model.routed_modules[0].controller.dense.kernel
    checkpoint = Checkpoint(tmp_path, {})
    callbacks = [Poison("begin", np.nan), StopOnNaN("relax"), checkpoint]
    with pytest.raises(FloatingPointError, match=r"in epoch 2 of stage 'relax'; not finite: .* and \d+ more") as caught:
        model.fit(IMAGES, LABELS, batch_size=16, epochs=4, callbacks=callbacks, verbose=0)
    assert "What was saved after the epoch before, if anything, is kept: try a lower learning rate" in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["epoch-0001.npz"]
    assert checkpoint.restore(model) == (1, False)
    assert np.isfinite(poison).all()


@pytest.mark.slow
def test_weights_that_the_last_batch_has_spoiled_are_not_saved(tmp_path):
    model = one_module_reset()
    model.compile("sgd", LOSS, **EAGERLY_ON_TENSORFLOW)
    model.optimizer.build(model.trainable_variables)
    callbacks = [Poison("end", np.inf), StopOnNaN(), Checkpoint(tmp_path, {})]
    expected = r"Weights became NaN or infinite in epoch 2; not finite: .*controller/dense/kernel\. What was saved"
    with pytest.raises(FloatingPointError, match=expected):
        model.fit(IMAGES, LABELS, batch_size=16, epochs=4, callbacks=callbacks, verbose=0)
    assert [file.name for file in tmp_path.iterdir()] == ["epoch-0001.npz"]


def test_a_constant_that_is_infinite_from_the_start_ends_no_training():
    model = small_reset()
    bias = model.routed_modules[0].controller.dense.bias  # as a mask may be
    bias.assign(np.full(bias.shape, -np.inf))
    model.compile(keras.optimizers.SGD(0.0), LOSS)
    stop = StopOnNaN()
    stop.set_model(model)
    stop.on_train_begin()
    stop.on_epoch_end(0, {"loss": 1.0})
    with pytest.raises(FloatingPointError, match=r"not finite: .*controller/dense/bias"):
        stop.on_epoch_end(1, {"loss": np.nan})
    kernel = model.layers[-1].kernel
    kernel.assign(np.full(kernel.shape, np.inf))  # by the last batch, whose loss was still finite
    with pytest.raises(FloatingPointError, match=f"not finite: .*{kernel.path}"):
        stop.on_epoch_end(2, {"loss": 1.0})


def test_nan_in_the_data_is_told_from_nan_in_the_weights():
    model = small_reset()
    model.compile(keras.optimizers.SGD(0.0), LOSS)
    stop = StopOnNaN()
    stop.set_model(model)
    with pytest.raises(FloatingPointError, match=r"images or labels that are not. No epoch was finished: try"):
        stop.on_epoch_end(0, {"loss": np.inf})
    stop.on_epoch_end(0, {"loss": 1.0})


def test_a_choice_of_one_thing_is_no_sign():
    """A module of one unit, without a zero unit: its policy is certain, and the same for all images."""
    assert list(signs(Routes([{"logits": np.zeros((5, 2, 1)), "scores": np.ones((5, 2, 1))}], (False,)))) == []


def test_the_warnings_of_a_run_go_into_its_log(tmp_path):
    digits, workdir = rk.data.load_digits(), rk.training.WorkDirectory(tmp_path, {})
    observer = rk.callbacks.RunObserver(digits, workdir)
    model = rk.ReSetNet((1,), None, 10, digits.image_shape, width=4)
    observer.callbacks("first", model, tmp_path, {})["warnings"].on_warning(3, "unit 2 is idle")
    assert workdir.metrics() == [{"event": "warning", "stage": "first", "epoch": 3, "message": "unit 2 is idle"}]
