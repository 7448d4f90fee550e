"""What `speed.py` measures: for each group a function that times its computations in turns."""

import dataclasses
import functools
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from prescribed_controller import PrescribedController

import reset_keras as rk
from reset_keras.data import ImageDataset, LabelledImages, training_batches
from reset_keras.distribution import has_gpu
from reset_keras.inference import FrozenNetwork, freeze, interleaved_times

HERE = "GPU" if has_gpu() else "CPU"
Runs = dict[str, Callable[[], Any]]


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        what: What is measured.
        where: `"CPU"`, `"GPU"` or `"any"`: the device that the target is for.
        target: Largest value that meets it (smallest, where `at_least`).
        at_least: Whether more is better. Default `False`.
        unit: `"x"` for a ratio, `"s"` for seconds. Default `"x"`.
        value: Median, or `None` where it is not measured.
        spread: Quartiles of the turns.
    """

    what: str
    where: str
    target: float
    at_least: bool = False
    unit: str = "x"
    value: float | None = None
    spread: tuple[float, float] | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met, `None` where nothing was measured."""
        if self.value is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def measured(self, turns: np.ndarray) -> "Row":
        """The row with the median and the quartiles of what the turns gave."""
        low, middle, high = map(float, np.quantile(turns, [0.25, 0.5, 0.75]))
        return dataclasses.replace(self, value=middle, spread=(low, high))


def ratio(row: Row, times: Mapping[str, np.ndarray], ours: str, baseline: str) -> Row:
    """The row with the ratio of two computations in each turn, if its target is for this device."""
    return row.measured(times[ours] / times[baseline]) if row.where in (HERE, "any") else row


def noise(batch_size: int) -> Any:
    """Images as unlike each other in brightness as in pattern, so that routes differ where no table sets them."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, 32, 32, 3)) + rng.normal(size=(batch_size, 1, 1, 1))
    return keras.ops.convert_to_tensor(images, dtype="float32")


def routed(skipped: tuple[int, int]) -> FrozenNetwork:
    """A frozen ReSet-38 with one unit per image and iteration, and so many iterations of five skipped."""
    controller = PrescribedController(6, 5, skipped)
    return freeze(as_trained(rk.ReSetNet((5, 5, 5), scorer="gumbel_st", controller=controller)))


def as_trained(model: keras.Model) -> keras.Model:
    """Gives batch norms the statistics of no particular training: those of the start vanish when they are folded."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name.startswith(("gamma", "moving_variance")):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.name.startswith(("beta", "moving_mean")):
            weight.assign(rng.normal(0, 0.3, weight.shape))
    return model


def inference(batch_size: int, rows: Mapping[str, list[Row]], rounds: int) -> list[Row]:
    """Frozen networks at a batch size; `rows` by the name of what they compare with the ResNet."""
    images = noise(batch_size)
    resnet, every = freeze(as_trained(rk.models.resnet38())), routed((0, 0))
    odd, even = routed((1, 2)), routed((2, 1))
    runs: Runs = {"resnet": lambda: resnet(images), "one": lambda: every(images), "odd": lambda: odd(images)}
    if batch_size == 1:
        runs["even"] = lambda: even(images)
    if "soft" in rows:
        soft = freeze(as_trained(rk.models.reset38()))
        runs["soft"] = lambda: soft(images)
    times = interleaved_times(runs, rounds)
    times["skipped"] = (times["odd"] + times["even"]) / 2 if batch_size == 1 else times["odd"]
    return [ratio(row, times, name, "resnet") for name, lines in rows.items() for row in lines]


def inference_1(rounds: int) -> list[Row]:
    """One image: the mean of a network that skips one and two iterations of five in turns, and of its opposite."""
    return inference(
        1,
        {
            "one": [Row("one unit per image and iteration, inference, batch 1", "CPU", 1.15)],
            "skipped": [Row("the same, 30 % of the iterations skipped", "CPU", 0.9)],
        },
        rounds,
    )


def inference_128(rounds: int) -> list[Row]:
    """A batch of 128 images."""
    return inference(
        128,
        {
            "one": [
                Row("one unit per image and iteration, inference, batch 128", "CPU", 1.05),
                Row("the same, stock operations in TensorFlow", "GPU", 0.95),
            ],
            "skipped": [Row("the same, 30 % of the iterations skipped", "CPU", 0.78)],
            "soft": [
                Row("soft inference, folded, batch 128", "CPU", 4.0),
                Row("soft inference, folded, XLA, batch 128", "GPU", 1.1),
            ],
        },
        rounds,
    )


def training(rounds: int) -> list[Row]:
    """Whole training steps of batch 128: by `auto`, and with the units one by one and no XLA."""
    rows = [
        Row("training step, softmax, XLA, batch 128", "GPU", 2.0),
        Row("speed over that of unit by unit without XLA", "GPU", 4.0, at_least=True),
        Row("compile time of that step", "GPU", 25.0, unit="s"),
    ]
    if HERE != "GPU":
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
    inputs = keras.Input((32, 32, 3))
    x, routes = rk.ResNet((1,)).backbone.stem(inputs), []
    for stage in range(3):
        x = rk.ResNet((1,)).backbone.block(x, stage, 0)
        units = [rk.ResidualUnit(16 * 2**stage, num_iterations=5) for _ in range(5)]
        x, route = rk.ReSet(units, 5, return_routes=True)(x)
        routes.append(route)
    return rk.RoutedModel(inputs, rk.ResNet((1,)).backbone.classifier(x), routes)


def training_step(model: keras.Model, **options: Any) -> Callable[[], Any]:
    """A compiled step on one batch that stays on the device."""
    import tensorflow as tf

    labels = tf.constant(np.random.default_rng(0).integers(0, 10, 128))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, **options)
    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors((noise(128), labels)).repeat())
    return functools.partial(model.train_function, batches)


def kernel(rounds: int) -> list[Row]:
    """Networks in bfloat16 by the kernel for routed units, on JAX; of the zero unit as much as is asked for."""
    rows = [
        [
            Row(f"one unit per image, inference by the kernel, batch {batch_size}", "GPU", 0.7),
            Row("the same, 30 % of the iterations skipped", "GPU", 0.55),
        ]
        for batch_size in (128, 1024, 4096)
    ]
    if HERE != "GPU" or keras.backend.backend() != "jax":
        return [row for pair in rows for row in pair]
    keras.config.set_dtype_policy("mixed_bfloat16")
    resnet = freeze(as_trained(rk.models.resnet38()))
    networks = {share: freeze(with_skips(share), "kernel") for share in (0.0, 0.3)}
    measured = []
    for batch_size, (every, skipped) in zip((128, 1024, 4096), rows, strict=True):
        images = noise(batch_size)
        runs: Runs = {"resnet": functools.partial(resnet, images)}
        runs |= {str(share): functools.partial(network, images) for share, network in networks.items()}
        times = interleaved_times(runs, rounds)
        measured += [ratio(every, times, "0.0", "resnet"), ratio(skipped, times, "0.3", "resnet")]
    return measured


def with_skips(share: float) -> rk.ReSetNet:
    """A ReSet-38 whose controllers, drawn at random, take the zero unit in so many of the iterations."""
    model = as_trained(rk.models.reset38(scorer="gumbel_st"))
    rng = np.random.default_rng(0)
    for module in model.routed_modules:
        dense = module.controller.dense
        dense.kernel.assign(rng.normal(0, 3, dense.kernel.shape))
    for index, module in enumerate(model.routed_modules):
        for bias in np.linspace(-50, 50, 101):
            module.controller.dense.bias.assign([0.0] * 5 + [bias])
            scores = model.predict_routes(np.array(noise(256)), verbose=0)[index]["scores"]
            if share == 0 or scores[..., -1].mean() >= share:
                break
    return model


def input_pipeline(rounds: int) -> list[Row]:
    """`fit` on augmented batches, against the bare step on one batch: ResNet-38, the hardest to keep busy."""
    rng = np.random.default_rng(0)
    part = LabelledImages(rng.integers(0, 256, (12_800, 32, 32, 3)).astype("uint8"), rng.integers(0, 10, 12_800))
    dataset = ImageDataset("random", part, {"test": part}, num_classes=10, crop_padding=4, flip=True)
    bare, fitted = rk.models.resnet38(), rk.models.resnet38()
    step, _ = training_step(bare), training_step(fitted)
    batches, steps = training_batches(dataset, 128, seed=0), 8 if HERE == "CPU" else 200

    def fit() -> Any:
        return np.array(fitted.fit(batches, steps_per_epoch=steps, verbose=0).history["loss"])

    def bare_steps() -> Any:
        return [step() for _ in range(steps)][-1]

    times = interleaved_times({"fit": fit, "bare": bare_steps}, max(3, rounds // 3))
    row = Row("`fit` of ResNet-38 on augmented batches: share of the bare step's throughput", "any", 0.9, at_least=True)
    return [ratio(row, times, "bare", "fit")]


def start_up(rounds: int) -> list[Row]:
    """`import reset_keras` after `import keras`, each time in a process of its own."""
    code = "import keras, time; start = time.perf_counter(); import reset_keras; print(time.perf_counter() - start)"
    command = [sys.executable, "-c", code]
    times = [
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # noqa: S603 - a line of ours
        for _ in range(rounds)
    ]
    return [Row("`import reset_keras` beyond `import keras`", "any", 0.3, unit="s").measured(np.array(times))]


GROUPS: dict[str, Callable[[int], list[Row]]] = {
    "kernel": kernel,
    "inference-1": inference_1,
    "inference-128": inference_128,
    "training": training,
    "input": input_pipeline,
    "import": start_up,
}
