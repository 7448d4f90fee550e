"""What `speed.py` measures of trainings."""

import functools
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import reset_keras as rk
from reset_keras.data import ImageDataset, LabelledImages, training_batches
from reset_keras.inference import interleaved_times
from reset_keras.training import with_fixed_routes
from rows import HERE, Row, ratio
from timed_networks import noise, routed


def training(rounds: int) -> list[Row]:
    """Whole training steps of batch 128: by `auto`, and with the units one by one and no XLA."""
    rows = [
        Row("training step, softmax, XLA, batch 128", "GPU", 2.0),
        Row("speed over that of unit by unit without XLA", "GPU", 4.0, at_least=True),
        Row("compile time of that step", "GPU", 25.0, unit="s"),
    ]
    if "GPU" not in HERE or keras.backend.backend() != "tensorflow":
        return rows
    resnet, reset = training_step(rk.models.resnet38()), training_step(rk.models.reset38())
    start = time.monotonic()
    reset()
    compile_time = time.monotonic() - start
    runs = {"resnet": resnet, "reset": reset, "one by one": training_step(one_by_one(), jit_compile=False)}
    times = interleaved_times(runs, rounds)
    return [
        ratio(rows[0], times, "reset", "resnet"),
        ratio(rows[1], times, "one by one", "reset"),
        rows[2].measured(np.array([compile_time])),
    ]


def one_by_one() -> rk.RoutedModel:
    """ReSet-38 with pools of separate residual units."""
    backbone, inputs = rk.models.backbone.Backbone(), keras.Input((32, 32, 3))
    x, routes = backbone.stem(inputs), []
    for stage in range(3):
        x = backbone.block(x, stage, 0)
        units = [rk.ResidualUnit(16 * 2**stage, num_iterations=5) for _ in range(5)]
        x, route = rk.ReSet(units, 5, return_routes=True)(x)
        routes.append(route)
    return rk.RoutedModel(inputs, backbone.classifier(x), routes=routes)


def training_step(model: keras.Model, **options: Any) -> Callable[[], Any]:
    """A compiled step on one batch that stays on the device."""
    import tensorflow as tf

    images, labels = noise(128), tf.constant(np.random.default_rng(0).integers(0, 10, 128))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0, momentum=0.9), loss, **options)  # routes are lost where weights diverge
    if isinstance(model, rk.RoutedModel):
        model._make_state(images, labels)  # as `fit` does, so that the step is traced once
    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())
    return functools.partial(model.train_function, batches)


def fixed_routes(rounds: int) -> list[Row]:
    """Whole training steps of batch 128 along fixed routes: only the chosen units, and all of them."""
    rows = {
        "one": Row("training step along fixed routes, one unit per image and iteration, batch 128", "CPU", 1.0),
        "skipped": Row("the same, 30 % of the iterations skipped", "CPU", 0.8),
        "all": Row("speed over the same step with all units", "CPU", 3.0, at_least=True),
    }
    if "CPU" not in HERE or keras.backend.backend() != "tensorflow":
        return [*rows.values()]
    resets = {name: with_fixed_routes(routed((1, 2) if name == "skipped" else (0, 0))) for name in rows}
    for module in resets["all"].routed_modules:
        module.pool.execution = "auto"
    networks = {"resnet": rk.models.resnet38(), **resets}
    times = interleaved_times({name: training_step(network) for name, network in networks.items()}, rounds)
    baselines = {"one": ("one", "resnet"), "skipped": ("skipped", "resnet"), "all": ("all", "one")}
    return [ratio(row, times, *baselines[name]) for name, row in rows.items()]


def input_pipeline(rounds: int) -> list[Row]:
    """`fit` on augmented batches as recipes call it, against the bare step on one batch."""
    what = "`fit` of ResNet-38 on augmented batches: share of the bare step's throughput"
    rows = [Row(what, where, target, at_least=True) for where, target in (("CPU", 0.95), ("GPU", 0.9))]
    if keras.backend.backend() != "tensorflow":
        return rows
    rng = np.random.default_rng(0)
    part = LabelledImages(rng.integers(0, 256, (12_800, 32, 32, 3)).astype("uint8"), rng.integers(0, 10, 12_800))
    dataset = ImageDataset("random", part, {"test": part}, num_classes=10, crop_padding=4, flip=True)
    bare, fitted = rk.models.resnet38(), rk.models.resnet38()
    step, _ = training_step(bare), training_step(fitted, steps_per_execution=8)
    # Multiples of `steps_per_execution`, or Keras would take the last steps beyond the end of an epoch.
    # Few on a CPU: where others use the machine too, many short turns tell more than a few long ones.
    batches, steps = training_batches(dataset, 128, seed=0), 8 if "CPU" in HERE else 200

    def fit() -> Any:
        return np.array(fitted.fit(batches, steps_per_epoch=steps, verbose=0).history["loss"])

    def bare_steps() -> Any:
        # Whoever waits for the last step has waited for all: each needs the weights of the one before.
        return [step() for _ in range(steps)][-1]

    times = interleaved_times({"fit": fit, "bare": bare_steps}, rounds)
    return [ratio(row, times, "bare", "fit") for row in rows]
