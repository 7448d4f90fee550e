"""Runs, on three replicas, what a number of images that three does not divide has stopped: run by a test."""

import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

from networks import images_and_labels, one_module_reset
from reset_keras.callbacks import RunObserver
from reset_keras.data import ImageDataset, LabelledImages
from reset_keras.training import Checkpoint, Pipeline, Stage, Training, WorkDirectory, get_strategy, imitate_routes

IMAGES, LABELS = images_and_labels(100)


class Unmeasured(RunObserver):
    """Watches nothing: this is about images and replicas."""

    def callbacks(self, stage, model, log_dir, of_training):
        return of_training

    def measure(self, *_):
        return {"accuracy": {"test": 0.0}, "compute_fraction": 1.0}

    def show(self, *_):
        """Nothing."""


def main(folder):
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 3)
    strategy = get_strategy("mirrored")
    with strategy.scope():
        model = one_module_reset("gumbel_st")
        model.compile("sgd", "mse")
    imitate_routes(model, IMAGES, [np.tile([1, 0], (100, 1))], epochs=40)
    print("taught", (model.predict_routes(IMAGES[:9], verbose=0)[0]["logits"].argmax(axis=-1) == [1, 0]).mean())
    print("restored", Checkpoint(folder / "checkpoints", {}).restore(model))
    print("trained", trained(folder / "run", strategy))


def trained(folder, strategy):
    pictures = np.clip(40 * IMAGES + 128, 0, 255).astype("uint8")
    part = LabelledImages(pictures, LABELS)
    dataset = ImageDataset("a hundred", part, {"test": part}, 4)

    def network(_):
        inputs = keras.Input((8, 8, 1))
        return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Conv2D(2, 8)(inputs)[:, 0, 0]))

    workdir = WorkDirectory(folder, {})
    stage = Stage("train", prepare=network, training=Training(4, lambda: {"optimizer": "sgd"}), start=None)
    Pipeline(dataset, workdir, 24, 0, strategy, Unmeasured(dataset, workdir)).run([stage])
    return sum("val_accuracy" in line for line in workdir.metrics())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
