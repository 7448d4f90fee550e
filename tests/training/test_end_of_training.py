"""A run that is killed between a training's last checkpoint and its result: the next start does what is left."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import reset_keras as rk
from networks import images_and_labels
from reset_keras.callbacks import RunObserver, StopAtCompute
from reset_keras.data import ImageDataset, LabelledImages
from reset_keras.training import Pipeline, Stage, Training, WorkDirectory

IMAGES, LABELS = images_and_labels(32)
PART = LabelledImages(np.clip(40 * IMAGES + 128, 0, 255).astype("uint8"), LABELS)
DATASET = ImageDataset("patterns", PART, {"test": PART}, 4)


class Killed(keras.callbacks.Callback):
    """Acts before the callbacks that write at the end of a training."""

    def on_train_end(self, logs=None):
        raise KeyboardInterrupt


class Unmeasured(RunObserver):
    """Watches the training, and measures nothing of the network that it ends with."""

    is_killed = False

    def measure(self, *_):
        if self.is_killed:
            raise KeyboardInterrupt
        return {"accuracy": {}, "compute_fraction": 1.0}

    def show(self, *_):
        """Nothing."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::reset_keras.callbacks.RoutingWarning")
@pytest.mark.parametrize(("stops", "epochs"), [(False, 3), (True, 1)])
def test_a_run_that_was_killed_after_the_last_epoch_ends_as_an_undisturbed_one(tmp_path, stops, epochs):
    def run(folder, killed_in=None):
        def callbacks(_):
            stop = {"stop": StopAtCompute(IMAGES, 1.5)} if stops else {}
            return stop | ({"killed": Killed()} if killed_in == "training" else {})

        def options():
            reward = rk.SkipReward(target=1.0)
            return {"optimizer": keras.optimizers.SGD(0.1), "skip_reward": reward, "run_eagerly": True}

        def network(_):
            return rk.ReSetNet((2,), (1,), 4, (8, 8, 1), scorer="gumbel_st", width=4)

        workdir = WorkDirectory(folder, {})
        observer = Unmeasured(DATASET, workdir)
        observer.is_killed = killed_in == "measurement"
        stage = Stage("train", "-", "", network, Training(6, options, callbacks), start=None)
        (row,) = Pipeline(DATASET, workdir, 16, 0, tf.distribute.get_strategy(), observer).run([stage])
        log = [(line["event"], line.get("epoch"), line.get("message")) for line in workdir.metrics()]
        shown = {
            path.name: path for path in workdir.tensorboard(0, "train").glob("routes/*") if "events" not in path.name
        }
        return row["epochs"], log, shown

    expected = run(tmp_path / "undisturbed")
    for place in ("training", "measurement"):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", place)
    found = run(tmp_path / "killed")
    assert found[:2] == expected[:2]
    assert found[0] == epochs
    (message,) = [message for event, _, message in found[1] if event == "warning"]
    assert "the target was 1." in message
    assert set(found[2]) == set(expected[2]) > {"routes.tsv", "labels.tsv"}
    vectors = [np.loadtxt(shown["routes.tsv"]) for *_, shown in (found, expected)]
    np.testing.assert_allclose(*vectors, atol=1e-4)
