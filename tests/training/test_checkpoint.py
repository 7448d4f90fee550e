import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import LOSS, images_and_labels, one_module_reset
from reset_keras.atomic_write import atomic_write
from reset_keras.callbacks import PolicyConvergence
from reset_keras.training import Checkpoint
from reset_keras.training.stages import stage_clock

IMAGES, LABELS = images_and_labels()
pytestmark = pytest.mark.faults


def new_model():
    keras.utils.set_random_seed(7)
    model = one_module_reset("gumbel_st")
    model.compile(
        keras.optimizers.Adam(0.01), LOSS, entropy=rk.Entropy(0.1), skip_reward=rk.SkipReward(0.1, "reinforce")
    )
    return model


def fit(model, checkpoint, first_epoch, epochs, callbacks=()):
    model.fit(
        IMAGES,
        LABELS,
        batch_size=16,
        shuffle=False,
        initial_epoch=first_epoch,
        epochs=epochs,
        callbacks=[*callbacks, checkpoint],
        verbose=0,
    )


def test_a_resumed_training_ends_where_an_undisturbed_one_does(tmp_path):
    undisturbed = new_model()
    watch = PolicyConvergence(IMAGES, 1e-6)
    fit(undisturbed, Checkpoint(str(tmp_path / "new" / "whole"), {"watch": watch}), 0, 4, [watch])

    first_watch, second_watch = PolicyConvergence(IMAGES, 1e-6), PolicyConvergence(IMAGES, 1e-6)
    fit(new_model(), Checkpoint(tmp_path / "halves", {"watch": first_watch}), 0, 2, [first_watch])
    resumed, checkpoint = new_model(), Checkpoint(tmp_path / "halves", {"watch": second_watch})
    assert checkpoint.restore(resumed) == (2, False)
    fit(resumed, checkpoint, 2, 4, [second_watch])

    pairs = zip(
        [*undisturbed.variables, *undisturbed.optimizer.variables],
        [*resumed.variables, *resumed.optimizer.variables],
        strict=True,
    )
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=ours.path)
    np.testing.assert_allclose(watch.state()["policy"], second_watch.state()["policy"], atol=1e-6)


def test_weights_in_bfloat16_come_back_exactly(tmp_path):
    inputs = keras.Input((3,))
    saved, restored = (
        keras.Model(inputs, keras.layers.Dense(2, dtype="bfloat16", kernel_initializer="normal")(inputs))
        for _ in range(2)
    )
    checkpoint = Checkpoint(tmp_path, {})
    for model in (saved, restored):
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        model.optimizer.build(model.trainable_variables)
    saved.fit(np.ones((4, 3)), np.ones((4, 2)), callbacks=[checkpoint], verbose=0)
    assert checkpoint.restore(restored) == (1, False)
    for ours, theirs in zip(saved.weights, restored.weights, strict=True):
        assert theirs.dtype == "bfloat16"
        np.testing.assert_array_equal(np.array(ours).astype("float32"), np.array(theirs).astype("float32"))


def test_a_stage_lasts_as_long_as_its_pieces_up_to_their_checkpoints(tmp_path, monkeypatch):
    now = SimpleNamespace(time=100.0)
    monkeypatch.setattr(stage_clock, "time", SimpleNamespace(monotonic=lambda: now.time))
    clock, model = stage_clock.StageClock(), new_model()
    checkpoint = Checkpoint(tmp_path, {"clock": clock})
    checkpoint.set_model(model)
    now.time = 130.0
    checkpoint.on_epoch_end(0)
    now.time = 145.0  # 15 seconds that are lost

    for total in (37.0, 44.0):
        now.time += 1000.0
        clock = stage_clock.StageClock()
        checkpoint = Checkpoint(tmp_path, {"clock": clock})
        checkpoint.restore(model)
        checkpoint.set_model(model)
        now.time += 7.0
        assert clock.seconds == total
        checkpoint.on_epoch_end(1)


def test_a_stopped_training_is_known_as_stopped(tmp_path):
    model, watch = new_model(), PolicyConvergence(IMAGES, 0.99, patience=1)
    checkpoint = Checkpoint(tmp_path, {"watch": watch})
    fit(model, checkpoint, 0, 9, [watch])
    assert checkpoint.restore(new_model()) == (2, True)


@pytest.fixture(scope="module")
def of_four_epochs(tmp_path_factory):
    """The folder that a training of four epochs leaves; it is only looked at."""
    folder = tmp_path_factory.mktemp("checkpoint")
    fit(new_model(), Checkpoint(folder, {}), 0, 4)
    return folder


@pytest.fixture
def copied(of_four_epochs, tmp_path):
    return shutil.copytree(of_four_epochs, tmp_path / "copy")


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: data[:-9] * 2])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(copied, damage):
    newest = copied / "epoch-0004.npz"
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(UserWarning, match="epoch-0004.npz cannot be read"):
        assert Checkpoint(copied, {}).restore(new_model()) == (3, False)


def test_a_file_of_another_name_is_none_of_the_checkpoints(copied):
    for name in ("epoch-best.npz", "epoch-.npz"):
        (copied / name).write_bytes(b"a copy that somebody made")
    checkpoint = Checkpoint(copied, {})
    assert checkpoint.restore(new_model()) == (4, False)
    checkpoint.clear()
    assert sorted(file.name for file in copied.iterdir()) == ["epoch-.npz", "epoch-best.npz"]


def test_only_damaged_checkpoints_are_an_error(tmp_path):
    (tmp_path / "epoch-0001.npz").write_bytes(b"no archive")
    with pytest.warns(UserWarning, match="cannot be read"), pytest.raises(ValueError, match="none of the checkpoints"):
        Checkpoint(tmp_path, {}).restore(new_model())


def test_a_checkpoint_of_another_model_is_refused(of_four_epochs):
    other = rk.ReSetNet((1, 1), None, 4, (8, 8, 1), width=4)
    other.compile("sgd", LOSS)
    with pytest.raises(ValueError, match="do not fit"):
        Checkpoint(of_four_epochs, {}).restore(other)


def test_two_checkpoints_are_kept_and_cleared_at_the_end(copied):
    assert sorted(file.name for file in copied.iterdir()) == ["epoch-0003.npz", "epoch-0004.npz"]
    Checkpoint(copied, {}).clear()
    assert not list(copied.iterdir())


def test_a_shorter_training_in_the_same_folder_keeps_its_own(tmp_path):
    model, checkpoint = SimpleNamespace(variables=[], optimizer=SimpleNamespace(built=True, variables=[])), None
    for epochs in (5, 3):
        checkpoint = Checkpoint(tmp_path, {})
        checkpoint.set_model(model)
        model.stop_training = False
        for epoch in range(epochs):
            checkpoint.on_epoch_end(epoch)
    assert [file.name for file in checkpoint._files()] == ["epoch-0002.npz", "epoch-0003.npz"]


def test_a_state_that_could_not_be_read_again_fails_in_the_first_epoch(tmp_path):
    model = SimpleNamespace(variables=[], optimizer=SimpleNamespace(built=True, variables=[]), stop_training=False)
    checkpoint = Checkpoint(tmp_path, {"mine": SimpleNamespace(state=lambda: {"best": None, "wait": np.array(1)})})
    checkpoint.set_model(model)
    with pytest.raises(ValueError, match=r"takes arrays of numbers or of text\. Received: others as \['mine/best'\]"):
        checkpoint.on_epoch_end(0)
    assert list(tmp_path.glob("epoch-*")) == []


def test_a_model_that_is_not_built_is_named(of_four_epochs):
    model = keras.Sequential([keras.layers.Dense(1)], name="unbuilt")
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"must be built .*Received: 'unbuilt', not built"):
        Checkpoint(of_four_epochs, {}).restore(model)


def test_the_newest_of_ten_thousand_is_kept(tmp_path):
    model, checkpoint = new_model(), Checkpoint(tmp_path, {})
    checkpoint.set_model(model)
    for epoch in range(9_997, 10_001):
        checkpoint.on_epoch_end(epoch)
    assert {file.name for file in tmp_path.iterdir()} == {"epoch-10000.npz", "epoch-10001.npz"}
    assert checkpoint.restore(model) == (10_001, False)


def test_what_fails_while_it_is_written_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before")

    def write_half():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_a_callback_that_came_later_begins_anew(tmp_path):
    model = one_module_reset()
    model.compile("sgd", LOSS, run_eagerly=True)
    model.fit(IMAGES, LABELS, verbose=0, callbacks=[Checkpoint(tmp_path, {})])
    callback = rk.callbacks.RoutingWarnings(IMAGES)
    with pytest.warns(UserWarning, match="has no state of callback 'later', which begins anew"):
        assert Checkpoint(tmp_path, {"later": callback}).restore(model) == (1, False)


class WithoutMemory(keras.callbacks.Callback):
    restored = False

    def state(self):
        return {}

    def restore(self, state):
        self.restored = True


def test_a_callback_may_have_nothing_to_remember(tmp_path, recwarn):
    model, callback = one_module_reset(), WithoutMemory()
    model.compile("sgd", LOSS, run_eagerly=True)
    checkpoint = Checkpoint(tmp_path, {"none": callback})
    model.fit(IMAGES, LABELS, verbose=0, callbacks=[checkpoint])
    checkpoint.restore(model)
    assert callback.restored
    assert not any("begins anew" in str(warning.message) for warning in recwarn)
