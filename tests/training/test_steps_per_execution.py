"""Several steps without Python in between: the same training."""

import numpy as np
import pytest
import tensorflow as tf

import reset_keras as rk
from networks import images_and_labels
from reset_keras.callbacks import RunObserver, TwoPhase
from reset_keras.data import ImageDataset, LabelledImages
from reset_keras.training import Pipeline, Stage, Training, WorkDirectory, make_optimizer
from reset_keras.training.stages import pipeline

STEPS_PER_EPOCH = 6


def dataset():
    images, labels = images_and_labels(16 * STEPS_PER_EPOCH)
    part = LabelledImages(np.clip(40 * images + 128, 0, 255).astype("uint8"), labels)
    return ImageDataset("patterns", part, {"test": part}, 4, crop_padding=1)


def stage():
    def options():
        reward = rk.SkipReward(0.1, estimator="reinforce")
        return {"optimizer": make_optimizer("sgd", 0.05, 12), "entropy": rk.Entropy(0.1), "skip_reward": reward}

    def network(_):
        return rk.ReSetNet((2,), (1,), 4, (8, 8, 1), scorer="gumbel_st", width=4)

    return Stage("train", "-", "ReSet", network, Training(2 * STEPS_PER_EPOCH, options), start=None)


class Unmeasured(RunObserver):
    """Watches the training, and keeps the weights of the network that it ends with, which it does not measure."""

    def measure(self, model, *_):
        self.weights = [(weight.path, np.array(weight)) for weight in model.weights]
        return {"accuracy": {}, "compute_fraction": 1.0}

    def show(self, *_):
        """Nothing."""


def run(folder, longest, monkeypatch):
    monkeypatch.setattr(pipeline, "LONGEST_EXECUTION", longest)
    workdir = WorkDirectory(folder, {})
    observer = Unmeasured(dataset(), workdir)
    Pipeline(dataset(), workdir, 16, 0, tf.distribute.get_strategy(), observer).run([stage()])
    epochs = [line for line in workdir.metrics() if line["event"] == "epoch"]
    return observer.weights, epochs


@pytest.mark.slow
def test_steps_taken_in_one_execution_are_the_steps_taken_one_by_one(tmp_path, monkeypatch):
    tf.config.experimental.enable_op_determinism()
    weights, epochs = run(tmp_path / "one", 1, monkeypatch)
    longer_weights, longer_epochs = run(tmp_path / "more", 16, monkeypatch)
    assert len(epochs) == 2
    for one, more in zip(epochs, longer_epochs, strict=True):
        assert one.keys() == more.keys()
        for name, value in one.items():
            assert more[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-5, abs=1e-6)), name
    for (path, ours), (_, expected) in zip(longer_weights, weights, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6, err_msg=path)


def test_an_execution_never_goes_beyond_an_epoch():
    lengths = {steps: pipeline._steps_per_execution(steps, []) for steps in (1, 6, 22, 97, 345, 390)}
    assert lengths == {1: 1, 6: 6, 22: 11, 97: 1, 345: 15, 390: 15}
    assert pipeline._steps_per_execution(390, [TwoPhase("steps")]) == 1
