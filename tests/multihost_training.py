"""Trains one network as one process of several, or alone, and prints what a test compares as JSON."""

import json
import os
import sys

import keras
import numpy as np
import tensorflow as tf

import reset_keras as rk
from networks import LOSS, images_and_labels
from reset_keras.training import own_work_directory

BATCH_SIZE, STEPS = 16, 5


def main() -> None:
    keras.utils.set_random_seed(0)
    if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
        keras.distribution.initialize()
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    model = soft_and_noisy()
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        LOSS,
        metrics=["accuracy"],
        entropy=rk.Entropy(0.2, 0.1),
        skip_reward=rk.SkipReward(0.1),
        gradient_clip_norm=0.5,
    )
    images, labels = images_and_labels(BATCH_SIZE * STEPS)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH_SIZE)
    history = model.fit(dataset, verbose=0).history
    logs = {name: values[0] for name, values in history.items()}
    state = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    print(json.dumps({"logs": logs, "state": [array.astype(np.float64).tolist() for array in state]}))
    folder = own_work_directory(sys.argv[1])
    print(json.dumps([str(folder), sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))]))


def soft_and_noisy():
    """A small network with a module whose scores are the policy, and one that draws its units."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    x, soft = rk.ReSet(units=2, num_iterations=1, scorer="softmax", return_routes=True)(x)
    units = [keras.layers.Dense(4, activation="tanh") for _ in range(2)]
    x, noisy = rk.ReSet(units=units, num_iterations=2, scorer="gumbel_st", return_routes=True)(x)
    outputs = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x))
    return rk.RoutedModel(inputs, outputs, routes=[soft, noisy])


if __name__ == "__main__":
    main()
