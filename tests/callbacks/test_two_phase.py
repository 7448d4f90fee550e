import keras
import numpy as np
import pytest

from networks import EAGERLY_ON_TENSORFLOW, LOSS, images_and_labels, little_to_trace, one_module_reset, small_reset
from reset_keras.callbacks import TwoPhase
from reset_keras.training import train_all_but_controllers, train_everything, train_last_modules

IMAGES, LABELS = images_and_labels(64)


class Snapshots(keras.callbacks.Callback):
    """All weights after each batch, and before the first."""

    def on_train_begin(self, logs=None):
        self.seen = [self.weights()]

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.weights())

    def weights(self):
        return {weight.path: np.array(weight) for weight in self.model.weights}

    def changed(self, step):
        """Whether the step changed a controller, and whether it changed anything else."""
        before, after = self.seen[step], self.seen[step + 1]
        paths = [path for path in before if not np.array_equal(before[path], after[path])]
        return any("controller" in path for path in paths), any("controller" not in path for path in paths)


def compiled(model, **options):
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS, **options)
    model.optimizer.build(model.trainable_variables)
    return model


def run_eagerly():
    """Where a few steps show which phase is when; what is traced for the phases is shown by two tests."""
    return compiled(one_module_reset(), **EAGERLY_ON_TENSORFLOW)


def fit(model, *callbacks, epochs=2, initial_epoch=0, batch_size=16):
    model.fit(
        IMAGES,
        LABELS,
        batch_size=batch_size,
        epochs=epochs,
        initial_epoch=initial_epoch,
        shuffle=False,
        callbacks=list(callbacks),
        verbose=0,
    )


UNITS, CONTROLLERS = (False, True), (True, False)


@pytest.mark.slow
def test_each_training_begins_with_the_first_phase():
    callback, snapshots = TwoPhase("steps", phase_steps=3), Snapshots()
    for model in (run_eagerly(), run_eagerly()):
        fit(model, snapshots, callback, epochs=1)
        assert [snapshots.changed(step) for step in range(4)] == [UNITS] * 3 + [CONTROLLERS]


def test_phases_of_equal_length_and_afterwards_everything_is_trained():
    snapshots = Snapshots()
    model = compiled(little_to_trace())
    fit(model, snapshots, TwoPhase("steps", phase_steps=3))
    assert [snapshots.changed(step) for step in range(8)] == [UNITS] * 3 + [CONTROLLERS] * 3 + [UNITS] * 2
    assert all(layer.trainable for layer in model.layers)
    fit(model, snapshots, epochs=1)
    assert snapshots.changed(0) == (True, True)


@pytest.mark.slow
def test_the_controllers_phases_grow():
    snapshots = Snapshots()
    fit(run_eagerly(), snapshots, TwoPhase("growing", phase_steps=1, growth=2.0), epochs=3)
    expected = [UNITS, CONTROLLERS, UNITS, *[CONTROLLERS] * 2, UNITS, *[CONTROLLERS] * 4, UNITS, CONTROLLERS]
    assert [snapshots.changed(step) for step in range(12)] == expected


@pytest.mark.parametrize(
    ("tolerance", "losses", "expected"),
    [
        # 1.4 is less than a tenth below 1.5: the controllers follow; 1.3 again is no fall: back to the units.
        (0.1, [2.0, 1.5, 1.4, 1.3, 1.3, 1.0], [0, 0, 0, 1, 1, 0]),
        # -1.5 is more than a tenth below -1.0, -1.6 less than a tenth below -1.5; then a worse loss, then the same.
        (0.1, [-1.0, -1.5, -1.6, -2.0, -1.9, -3.0, -3.0, -3.0], [0, 0, 0, 1, 1, 0, 0, 1]),
        (0.1, [0.5, -0.5, -0.4, 0.0], [0, 0, 0, 1]),
        (0.0, [0.0, 0.0, -1.0, -1.1, -1.1, 0.0], [0, 0, 1, 1, 1, 0]),
    ],
)
def test_a_phase_ends_when_its_loss_no_longer_falls(tolerance, losses, expected):
    callback = TwoPhase("convergence", tolerance=tolerance)
    callback.set_model(compiled(one_module_reset()))
    callback.on_train_begin()
    phases = []
    for epoch, loss in enumerate(losses):
        logs = {"loss": loss}
        callback.on_epoch_end(epoch, logs)
        phases.append(logs["trains_controllers"])
    assert phases == expected


@pytest.mark.slow
def test_it_resumes_within_a_phase():
    undisturbed, cut_off = run_eagerly(), run_eagerly()
    cut_off.set_weights(undisturbed.get_weights())
    fit(undisturbed, TwoPhase("steps", phase_steps=2), epochs=2, batch_size=22)  # three steps in an epoch

    before, after = TwoPhase("steps", phase_steps=2), TwoPhase("steps", phase_steps=2)
    fit(cut_off, before, epochs=1, batch_size=22)
    after.restore(before.state())
    fit(cut_off, after, initial_epoch=1, epochs=2, batch_size=22)
    for ours, theirs in zip(cut_off.weights, undisturbed.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_an_optimizer_that_was_not_built_is_built_for_all_weights():
    model = one_module_reset()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS, **EAGERLY_ON_TENSORFLOW)
    batches = ((IMAGES[:8], LABELS[:8]) for _ in range(4))  # of no known shape, so that Keras builds it late
    model.fit(batches, steps_per_epoch=4, epochs=1, verbose=0, callbacks=[TwoPhase("steps", phase_steps=2)])
    assert len(model.optimizer.variables) > len(model.trainable_variables)


def test_a_layer_that_is_not_trained_is_refused_before_the_first_step():
    model = one_module_reset()
    model.get_layer("stem_conv").trainable = False
    with pytest.raises(ValueError, match=r"train_everything\(model\)`, then `compile`. Received: .* \['stem_conv'\]"):
        fit(compiled(model), TwoPhase("steps", phase_steps=1), epochs=1)


@pytest.mark.parametrize("options", [{"rule": "never"}, {"phase_steps": 0}, {"growth": 0.5}, {"tolerance": 1.0}])
def test_bad_arguments(options):
    with pytest.raises(ValueError, match="Received"):
        TwoPhase(**options)


@pytest.mark.parametrize(
    ("backend", "steps", "message"),
    [
        ("tensorflow", 4, r"needs steps_per_execution=1.* Received: steps_per_execution=4"),
        ("jax", 1, "needs TensorFlow; received KERAS_BACKEND=jax"),
    ],
)
def test_where_a_phase_could_not_end_after_a_step(backend, steps, message, monkeypatch):
    model = one_module_reset()
    model.compile("sgd", LOSS, steps_per_execution=steps)
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    with pytest.raises(ValueError, match=message):
        TwoPhase().set_model(model)


@pytest.mark.slow
def test_after_an_exception_everything_is_made_trainable_and_compiled_again():
    def fail(step, logs):
        raise KeyboardInterrupt

    model, snapshots = compiled(one_module_reset()), Snapshots()
    with pytest.raises(KeyboardInterrupt):
        fit(model, TwoPhase("steps", phase_steps=3), keras.callbacks.LambdaCallback(on_train_batch_end=fail))
    train_everything(model)
    model.compile(model.optimizer, LOSS)
    fit(model, snapshots, epochs=1)
    assert snapshots.changed(0) == (True, True)


@pytest.mark.parametrize(("count", "frozen"), [(0, ("stem", "stage")), (1, ("stem", "stage0")), (2, ())])
def test_unfreezing_from_the_end(count, frozen):
    model = small_reset()
    train_last_modules(model, count)
    trained = {variable.path.split("/")[0] for variable in model.trainable_variables}
    everything = {variable.path.split("/")[0] for variable in model.weights if "moving" not in variable.path}
    assert trained == {name for name in everything if not name.startswith(frozen)} or not frozen
    assert bool(frozen) or trained == everything
    assert "classifier" in trained


def test_unfreezing_more_than_there_is():
    with pytest.raises(ValueError, match="number of modules, 2"):
        train_last_modules(small_reset(), 3)


def test_freezing_only_the_controllers():
    model = small_reset()
    train_all_but_controllers(model)
    frozen = {v.path for v in model.weights} - {v.path for v in model.trainable_variables}
    assert {path for path in frozen if "moving" not in path and "temperature" not in path} == {
        weight.path for module in model.routed_modules for weight in module.controller.weights
    }
