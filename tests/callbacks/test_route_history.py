import keras
import numpy as np
import pytest

from networks import EAGERLY_ON_TENSORFLOW, LOSS, images_and_labels, one_module_reset, small_reset
from reset_keras.analysis import Routes
from reset_keras.callbacks import RouteHistory, RouteProbe
from reset_keras.training import Checkpoint

IMAGES, LABELS = images_and_labels()


def new_model(make=one_module_reset, **options):
    keras.utils.set_random_seed(7)
    model = make("gumbel_softmax")
    model.compile(keras.optimizers.Adam(0.01), LOSS, **options)
    model.optimizer.build(model.trainable_variables)
    return model


def fit(model, callbacks, first_epoch=0, epochs=4):
    return model.fit(
        IMAGES,
        LABELS,
        batch_size=16,
        shuffle=False,
        initial_epoch=first_epoch,
        epochs=epochs,
        callbacks=callbacks,
        verbose=0,
    )


@pytest.mark.slow
def test_it_holds_the_mean_scores_of_the_images_at_each_epoch():
    model, expected = new_model(small_reset, **EAGERLY_ON_TENSORFLOW), []

    def predict(*_):
        expected.append([np.mean(route["scores"], axis=0) for route in model.predict_routes(IMAGES, verbose=0)])

    history = RouteHistory(IMAGES)
    fit(model, [keras.callbacks.LambdaCallback(on_train_begin=predict, on_epoch_end=predict), history], epochs=2)
    state = history.state()
    assert state["steps"].tolist() == [0, 2, 4]
    for index, name in enumerate(("module_0", "module_1")):
        assert state[name].shape == (3, 2, 3)
        np.testing.assert_allclose(state[name], [means[index] for means in expected], atol=1e-5)
    assert np.abs(np.diff(state["module_1"], axis=0)).max() > 1e-3


def recorded(history, model, epochs, first_epoch=0):
    """Goes through a training's epochs, of one step each, without training."""
    history.set_model(model)
    history.set_params({"epochs": epochs})
    history.on_train_begin()
    for epoch in range(first_epoch, epochs):
        model.optimizer.iterations.assign(epoch + 1)
        history.on_epoch_end(epoch)
    return history.state()


def test_it_changes_nothing_in_the_model():
    model = new_model()
    before = [np.array(variable) for variable in model.variables]
    recorded(RouteHistory(IMAGES), model, 2)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)


@pytest.mark.faults
@pytest.mark.slow
def test_a_resumed_history_is_that_of_an_undisturbed_training(tmp_path):
    undisturbed = RouteHistory(IMAGES)
    fit(new_model(), [undisturbed])

    first = RouteHistory(IMAGES)
    fit(new_model(), [first, Checkpoint(tmp_path, {"route_history": first})], epochs=2)
    second, resumed = RouteHistory(IMAGES), new_model()
    checkpoint = Checkpoint(tmp_path, {"route_history": second})
    assert checkpoint.restore(resumed) == (2, False)
    fit(resumed, [second, checkpoint], first_epoch=2)

    assert second.state().keys() == undisturbed.state().keys()
    assert second.state()["steps"].tolist() == [0, 2, 4, 6, 8]
    for name, records in undisturbed.state().items():
        np.testing.assert_allclose(second.state()[name], records, atol=1e-6)


def test_a_checkpoint_of_before_there_was_a_history_is_gone_on_with():
    history, model = RouteHistory(IMAGES), new_model()
    model.optimizer.iterations.assign(2)
    history.restore({})
    assert recorded(history, model, epochs=3, first_epoch=2)["steps"].tolist() == [2, 3]


@pytest.mark.parametrize(("epochs", "most"), [(50, 51), (51, 27), (165, 43)])
def test_a_long_training_leaves_few_records(epochs, most, monkeypatch):
    monkeypatch.setattr(RouteProbe, "routes", lambda *_: Routes([{"scores": np.ones((1, 1, 2))}], (True,)))
    steps = recorded(RouteHistory(IMAGES[:1]), new_model(), epochs)["steps"].tolist()
    assert len(steps) <= most
    assert (steps[0], steps[-1]) == (0, epochs)
    assert sorted(set(steps)) == steps


def test_where_another_callback_ends_the_training_is_recorded():
    history, model = RouteHistory(IMAGES), new_model()
    history.set_model(model)
    history.set_params({"epochs": 1000})
    for epoch in range(3):
        model.optimizer.iterations.assign(epoch + 1)
        model.stop_training = epoch == 2
        history.on_epoch_end(epoch)
    assert history.state()["steps"].tolist() == [3]


@pytest.mark.slow
def test_a_training_that_a_later_callback_ends_is_recorded_to_its_end():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 2

    history = RouteHistory(IMAGES)
    fit(new_model(**EAGERLY_ON_TENSORFLOW), [history, Stop()], epochs=200)
    assert history.state()["steps"].tolist() == [0, 6]


@pytest.mark.slow
def test_steps_are_batches_where_gradients_of_several_are_added():
    for scales in (False, True):
        optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=4)
        model = one_module_reset("gumbel_softmax")
        given = keras.optimizers.LossScaleOptimizer(optimizer) if scales else optimizer
        model.compile(given, LOSS, **EAGERLY_ON_TENSORFLOW)
        history = RouteHistory(IMAGES)
        fit(model, [history], epochs=3)
        assert history.state()["steps"].tolist() == [0, 2, 4, 6]


def test_the_file(tmp_path):
    history, model = RouteHistory(IMAGES), new_model(small_reset)
    state = recorded(history, model, 2)
    for index, route in enumerate(model.predict_routes(IMAGES, verbose=0)):
        np.testing.assert_allclose(state[f"module_{index}"][-1], route["scores"].mean(axis=0), atol=1e-5)
    history.save(str(tmp_path / "route_history.npz"), zero_units=(True, False))
    with np.load(tmp_path / "route_history.npz") as file:
        assert set(file.files) == {"steps", "module_0", "module_1", "zero_units"}
        assert file["zero_units"].tolist() == [True, False]
        for name, records in state.items():
            np.testing.assert_array_equal(file[name], records)
    assert [path.name for path in tmp_path.iterdir()] == ["route_history.npz"]


def test_a_training_that_goes_on_adds_to_the_records_and_another_model_begins_new_ones():
    history, model = RouteHistory(IMAGES), new_model()
    assert recorded(history, model, epochs=2)["steps"].tolist() == [0, 1, 2]
    assert recorded(history, model, epochs=3, first_epoch=2)["steps"].tolist() == [0, 1, 2, 3]
    other = new_model()
    fresh = recorded(RouteHistory(IMAGES), new_model(), epochs=1)
    again = recorded(history, other, epochs=1)
    assert again["steps"].tolist() == [0, 1]
    np.testing.assert_allclose(again["module_0"], fresh["module_0"], atol=1e-6)


def test_a_restored_history_records_its_beginning_once():
    records = {"steps": np.array([0, 1]), "module_0": np.ones((2, 2, 3))}
    history, model = RouteHistory(IMAGES), new_model()
    history.restore(records)
    model.optimizer.iterations.assign(1)  # as the checkpoint's
    assert recorded(history, model, epochs=3, first_epoch=1)["steps"].tolist() == [0, 1, 2, 3]
