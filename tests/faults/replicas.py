"""Trains networks with one, two or four replicas on logical CPU devices: run by a test, a process for each number.

    python replicas.py FOLDER REPLICAS train SCORER ...     # writes FOLDER/REPLICAS.npz
    python replicas.py FOLDER REPLICAS resume OTHERS        # goes on from the checkpoint of another number

Noise is drawn for the whole batch and each replica takes its part, so that all runs see the same.
"""

import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import reset_keras as rk
from networks import LOSS, images_and_labels, one_module_reset
from reset_keras.distribution import num_replicas, replica_id
from reset_keras.layers import scorers
from reset_keras.training import Checkpoint

STEPS, BATCH = 12, 16  # rounding stays rounding: from about the 14th step on a ReLU sees another sign now and then
IMAGES, LABELS = images_and_labels(STEPS * BATCH)
FOLDER, REPLICAS, TASK, *NAMES = sys.argv[1:]
HALF = "gumbel_softmax"
"""Scorer of the training that changes its number of replicas half-way."""


def main() -> None:
    count = int(REPLICAS)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    place = tf.distribute.get_strategy()
    if count > 1:
        place = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(count)])
    results = {}
    if TASK == "train":
        results["noise_differs"] = np.array(count == 1 or noise_differs(place))
        scorers.gumbel_noise = shared_noise
        for scorer in NAMES:
            model = compiled(scorer, place)
            results |= named(f"{scorer}/before", state(model), {})
            logs = train(model, 0, STEPS)
            results |= named(scorer, state(model), logs)
        results |= ragged(place)
        results |= words(place)
        first_half(place)
    else:
        scorers.gumbel_noise = shared_noise
        results |= named("resumed", second_half(place), {})
    np.savez(pathlib.Path(FOLDER) / f"{TASK}-{count}.npz", **results)


def named(name, arrays, logs):
    return {f"{name}/weight/{index}": array for index, array in enumerate(arrays)} | {
        f"{name}/log/{log}": value for log, value in logs.items()
    }


def state(model):
    return [keras.ops.convert_to_numpy(variable) for variable in model.variables if "seed" not in variable.path]


def shared_noise(shape, seed):
    """The part of this replica in noise for the global batch: the draw is the same on all replicas."""
    drawn = keras.random.SeedGenerator.next(seed) if isinstance(seed, keras.random.SeedGenerator) else seed
    uniform = tf.random.stateless_uniform((BATCH, shape[1]), tf.cast(drawn, tf.int32), 1e-7, 1.0 - 1e-7)
    local = BATCH // num_replicas()
    start = tf.cast(replica_id() * local, tf.int32)
    return (-tf.math.log(-tf.math.log(uniform)))[start : start + local]


def compiled(scorer, place):
    keras.utils.set_random_seed(0)
    estimator = "reinforce" if scorer == "hard" else "straight_through"
    reward = rk.SkipReward(0.1, estimator) if scorer == "top_k" else rk.SkipReward(0.1, estimator, target=1.3)
    with place.scope():
        model = one_module_reset(scorer)
        model.compile(
            keras.optimizers.SGD(0.05, momentum=0.9),
            LOSS,
            metrics=["accuracy"],
            entropy=rk.Entropy(0.2, 0.1),
            skip_reward=reward,
            gradient_clip_norm=0.5,
        )
        model.optimizer.build(model.trainable_variables)
    return model


def train(model, first, last, callbacks=()):
    """Trains from one step to another, and returns what was logged."""
    part = slice(first * BATCH, last * BATCH)
    options = {"batch_size": BATCH, "shuffle": False, "callbacks": list(callbacks), "verbose": 0}
    return {name: values[0] for name, values in model.fit(IMAGES[part], LABELS[part], **options).history.items()}


def ragged(place):
    """Logs of an evaluation whose last batch has seven images, and the weights after a training on such batches."""
    model = compiled("softmax", place)
    images, labels = IMAGES[: 2 * BATCH + 7], LABELS[: 2 * BATCH + 7]
    logs = model.evaluate(images, labels, batch_size=BATCH, return_dict=True, verbose=0)
    model.fit(images, labels, batch_size=BATCH, shuffle=False, verbose=0)
    return named("ragged", state(model), logs)


def words(place):
    """Weights after a training with an embedding, then logs of one whose last batch leaves replicas without a word."""
    keras.utils.set_random_seed(0)
    with place.scope():
        inputs = keras.Input((5,), dtype="int32")
        x, routes = rk.ReSet([keras.layers.Dense(4)], 2, return_routes=True)(keras.layers.Embedding(7, 4)(inputs))
        model = rk.RoutedModel(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(x)), routes=[routes])
        model.compile("sgd", LOSS, entropy=rk.Entropy(0.2, 0.1), skip_reward=rk.SkipReward(0.1))
    rng = np.random.default_rng(0)
    texts, labels = rng.integers(0, 7, (2 * BATCH + 1, 5)), rng.integers(0, 4, 2 * BATCH + 1)
    model.fit(texts[:-1], labels[:-1], batch_size=BATCH, shuffle=False, verbose=0)
    weights = state(model)
    history = model.fit(texts, labels, batch_size=BATCH, shuffle=False, verbose=0).history
    return named("words", weights, {name: values[0] for name, values in history.items()})


def first_half(place):
    folder = pathlib.Path(FOLDER) / f"half-{place.num_replicas_in_sync}"
    folder.mkdir()
    train(compiled(HALF, place), 0, STEPS // 2, [Checkpoint(folder, {})])


def second_half(place):
    model = compiled(HALF, place)
    if Checkpoint(pathlib.Path(FOLDER) / f"half-{NAMES[0]}", {}).restore(model) != (1, False):
        raise AssertionError("the checkpoint was not found")
    train(model, STEPS // 2, STEPS)
    return state(model)


def noise_differs(place):
    """Whether no two replicas draw the same noise."""
    with place.scope():
        scorer = rk.GumbelSoftmaxScorer(seed=1)
        scorer.build((4, 3))
    scores = place.run(lambda: scorer(tf.zeros((4, 3)), training=True))
    drawn = place.experimental_local_results(scores)
    pairs = [(a, b) for index, a in enumerate(drawn) for b in drawn[:index]]
    return not any(np.allclose(a, b) for a, b in pairs)


if __name__ == "__main__":
    main()
