"""Trains one network with one replica and with two, and prints how far weights and routes are apart: run by a test."""

import sys

import keras
import numpy as np
import tensorflow as tf

import reset_keras as rk
from networks import LOSS, images_and_labels, randomize, small_reset, small_resnet
from reset_keras.callbacks import RouteHistory

STEPS = 5


def main() -> None:
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # it compiles much, computes little
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    results = [train(strategy) for strategy in (tf.distribute.get_strategy(), two)]
    (one_weights, one_logs), (two_weights, two_logs) = results
    weights = max(np.abs(a - b).max() for a, b in zip(one_weights, two_weights, strict=True))
    logs = max(abs(one_logs[name] - two_logs[name]) for name in one_logs)
    print(f"{weights:.2e} {logs:.2e}")
    print(noise(two))
    print(moved(two))


def train(strategy):
    keras.utils.set_random_seed(0)
    images, labels = images_and_labels(16 * STEPS)
    with strategy.scope():
        model = small_reset(sys.argv[1], halting=rk.ACT(bias=-1.0))
        reward = rk.SkipReward(0.1, sys.argv[2], target=1.3, target_rate=0.5)
        model.compile(
            keras.optimizers.SGD(0.05, momentum=0.9),
            LOSS,
            metrics=["accuracy"],
            entropy=rk.Entropy(0.2, 0.1),
            skip_reward=reward,
            ponder_cost=rk.PonderCost(0.3),
            target_rate=rk.TargetRate([0.9, 0.1, 0.5, 0.3], 20.0),
            distillation=rk.Distillation(randomize(small_resnet())),
            gradient_clip_norm=0.5,
        )
    routes = RouteHistory(images)
    history = model.fit(images, labels, batch_size=16, shuffle=False, callbacks=[routes], verbose=0)
    price = keras.ops.convert_to_numpy(reward.price)
    if price < 0.2:
        raise AssertionError(f"the price has not moved: {price}")
    logs = {name: values[0] for name, values in history.history.items()}
    odd = slice(16 + 7)  # the last batch has 4 images for one replica, and 3 for the other
    evaluated = model.evaluate(images[odd], labels[odd], batch_size=16, return_dict=True, verbose=0)
    logs |= {f"test_{name}": value for name, value in evaluated.items()}
    return [*model.get_weights(), price, *routes.state().values()], logs


def noise(strategy):
    """Whether the replicas draw different noise."""
    with strategy.scope():
        scorer = rk.GumbelSoftmaxScorer(seed=1)
        scorer.build((4, 3))
    scores = strategy.run(lambda: scorer(tf.zeros((4, 3)), training=True))
    first, second = strategy.experimental_local_results(scores)
    return not np.allclose(first, second)


def moved(strategy):
    """For both iterations of a masked module, and both units of its pool, whether a training moves the statistics."""
    with strategy.scope():
        controller = rk.FixedController(3, [0, 2])
        module = rk.ReSet(2, 2, controller, rk.HardScorer(sampled=False), allowed="sequential")
        module.build((None, 8, 8, 1))
    images, _ = images_and_labels(4)
    before = [np.array(mean) for mean in module.pool.norm1.moving_means]
    strategy.run(lambda: module(tf.constant(images), training=True))
    return [(np.array(mean) != old).tolist() for mean, old in zip(module.pool.norm1.moving_means, before, strict=True)]


if __name__ == "__main__":
    main()
