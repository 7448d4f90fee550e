"""What `speed.py` measures: for each group a function that times its computations in turns."""

import functools
import importlib.util
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

import reset_keras as rk
from onnx_measurements import SIZES, images_of_cifar10, onnx_files, run_all, torch_runner
from reset_keras.inference import FrozenNetwork, export, freeze, interleaved_times
from reset_keras.models.backbone import under_policy
from rows import HERE, Row, ratio
from timed_networks import LEARNED, as_trained, noise, routed, with_skips
from training_measurements import fixed_routes, input_pipeline, training

NONE_SKIPPED, MORE_IF_ODD, MORE_IF_EVEN = (0, 0), (1, 2), (2, 1)
"""Iterations of five that images with an even and with an odd place in the batch skip: none, and 30 % of them."""
Runs = dict[str, Callable[[], Any]]


def inference(batch_size: int, rows: Mapping[str, list[Row]], rounds: int, dtype: str = "float32") -> list[Row]:
    """Frozen networks at a batch size and in a type; `rows` by the name of what they compare with the ResNet.

    What no row of this device needs is neither made nor timed.
    """
    images = noise(batch_size)
    here = {name for name, lines in rows.items() if any(row.where in HERE for row in lines)}
    if "pytorch" in here and not importlib.util.find_spec("torch"):
        print("Not measured: PyTorch is not installed: pip install '.[benchmarks]'")
        here.remove("pytorch")
    if not here:
        return [row for lines in rows.values() for row in lines]
    frozen = functools.partial(freeze, dtype=dtype)
    networks = {"resnet": frozen(as_trained(rk.models.resnet38()))}
    if "one" in here:
        networks["one"] = frozen(routed(NONE_SKIPPED))
    if "skipped" in here:
        networks["odd"] = frozen(routed(MORE_IF_ODD))
    if "skipped" in here and batch_size == 1:
        networks["even"] = frozen(routed(MORE_IF_EVEN))
    if "soft" in here:
        networks["soft"] = frozen(as_trained(rk.models.reset38()))
    runs: Runs = {name: functools.partial(network, images) for name, network in networks.items()}
    if "pytorch" in here:
        runs["pytorch"] = functools.partial(torch_runner(), np.array(images))
    times = interleaved_times(runs, rounds)
    if "skipped" in here:
        times["skipped"] = (times["odd"] + times["even"]) / 2 if batch_size == 1 else times["odd"]
    compared = {name: ("resnet", name) if name == "pytorch" else (name, "resnet") for name in here}
    named = [(row, name) for name, lines in rows.items() for row in lines]
    return [ratio(row, times, *compared[name]) if name in here else row for row, name in named]


def learned_routes(batch_size: int, targets: Mapping[str, float], rounds: int) -> list[Row]:
    """Learned routes of 0.70 of the operations over ResNet-38, on test images; `targets` by the type of both."""
    rows = {
        (name, dtype): Row(f"{name}, inference in {dtype}, batch {batch_size}", "CPU", target)
        for name in LEARNED
        for dtype, target in targets.items()
    }
    if "CPU" not in HERE:
        return [*rows.values()]
    images, are_learned_on = images_of_cifar10()
    if not are_learned_on:
        return [*rows.values()]
    batches = images[: batch_size * SIZES[batch_size]].reshape(-1, batch_size, *images.shape[1:])
    networks = {
        (name, dtype): freeze(rk.models.from_preset(name), compute=compute, dtype=dtype)
        for name, compute in {"resnet38_cifar10": None, **LEARNED}.items()
        for dtype in targets
    }
    runs: Runs = {" ".join(key): functools.partial(run_all, network, batches) for key, network in networks.items()}
    times = interleaved_times(runs, rounds)
    return [ratio(row, times, f"{name} {dtype}", f"resnet38_cifar10 {dtype}") for (name, dtype), row in rows.items()]


def inference_1(rounds: int) -> list[Row]:
    """One image: the mean of a network that skips one and two iterations of five in turns, and of its opposite."""
    return learned_routes(1, {"float32": 0.95}, rounds) + inference(
        1,
        {
            "one": [Row("one unit per image and iteration, inference, batch 1", "CPU", 1.15)],
            "skipped": [Row("the same, 30 % of the iterations skipped", "CPU", 0.9)],
            "pytorch": [Row("ResNet-38 frozen over PyTorch, batch 1", "CPU", 1.0)],
        },
        rounds,
    )


def inference_128(rounds: int) -> list[Row]:
    """A batch of 128 images, in float32 and in bfloat16."""
    in_float32 = {
        "one": [
            Row("one unit per image and iteration, inference, batch 128", "CPU", 1.05),
            Row("the same, stock operations in TensorFlow", "GPU", 0.95),
        ],
        "skipped": [Row("the same, 30 % of the iterations skipped", "CPU", 0.78)],
        "soft": [
            Row("soft inference, folded, batch 128", "CPU", 4.0),
            Row("soft inference, folded, XLA, batch 128", "GPU", 1.1),
        ],
        "pytorch": [Row("ResNet-38 frozen over PyTorch, batch 128", "CPU", 1.0)],
    }
    in_bfloat16 = {
        "one": [Row("one unit per image and iteration, inference in bfloat16, batch 128", "CPU", 1.15)],
        "skipped": [Row("the same, 30 % of the iterations skipped", "CPU", 0.85)],
    }
    learned = learned_routes(128, {"float32": 0.78, "bfloat16": 0.85}, rounds)
    return learned + inference(128, in_float32, rounds) + inference(128, in_bfloat16, rounds, "bfloat16")


def kernel(rounds: int) -> list[Row]:
    """Networks in bfloat16 by the kernel for routed units, on JAX; of the zero unit as much as is asked for."""
    rows = [
        [
            Row(f"one unit per image, inference by the kernel, batch {batch_size}", "GPU", 0.7),
            Row("the same, 30 % of the iterations skipped", "GPU", 0.55),
            Row(f"the kernel over all units for each image, batch {batch_size}", "GPU", 0.5),
        ]
        for batch_size in (128, 1024, 4096)
    ]
    if "GPU" not in HERE or keras.backend.backend() != "jax":
        return [row for of_size in rows for row in of_size]
    with under_policy("mixed_bfloat16"):
        resnet = freeze(as_trained(rk.models.resnet38()))
        networks = {str(share): freeze(with_skips(share), "kernel") for share in (0.0, 0.3)}
        networks["dense"] = freeze(with_skips(0.0), "dense")
    measured = []
    for batch_size, (every, skipped, over_dense) in zip((128, 1024, 4096), rows, strict=True):
        images = noise(batch_size)
        runs: Runs = {"resnet": functools.partial(resnet, images)}
        runs |= {name: functools.partial(network, images) for name, network in networks.items()}
        times = interleaved_times(runs, rounds)
        measured += [ratio(every, times, "0.0", "resnet"), ratio(skipped, times, "0.3", "resnet")]
        measured.append(ratio(over_dense, times, "0.0", "dense"))
    return measured


def start_up(rounds: int) -> list[Row]:
    """`import reset_keras` after `import keras`, each time in a new process."""
    code = "import keras, time; start = time.perf_counter(); import reset_keras; print(time.perf_counter() - start)"
    command = [sys.executable, "-c", code]
    times = [
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # noqa: S603 - a line of ours
        for _ in range(rounds)
    ]
    return [Row("`import reset_keras` beyond `import keras`", "any", 0.3, unit="s").measured(np.array(times))]


def litert(rounds: int) -> list[Row]:
    """LiteRT files, on two threads: all units, only the chosen ones, and these with two iterations of five skipped."""
    rows = {
        batch_size: {
            "dense": Row(f"LiteRT file with all units, batch {batch_size}", "any", 4.0),
            "sparse": Row(f"LiteRT file, one unit per image and iteration, batch {batch_size}", "any", 1.15),
            "skipped": Row("the same, 40 % of the iterations skipped", "any", 0.8),
        }
        for batch_size in (1, 32)
    }
    rows[1] |= {
        "one": Row("LiteRT file for one image, one unit per image and iteration", "any", 1.15),
        "one skipped": Row("the same, 40 % of the iterations skipped", "any", 0.8),
    }
    if keras.backend.backend() != "tensorflow" or importlib.util.find_spec("ai_edge_litert") is None:
        print("Not measured: LiteRT files need the TensorFlow backend, and ai_edge_litert: pip install '.[benchmarks]'")
        return [row for named in rows.values() for row in named.values()]
    every = routed((0, 0))
    networks = {
        "resnet": freeze(as_trained(rk.models.resnet38())),
        "dense": freeze(every, "dense"),
        "sparse": freeze(every, "sparse"),
        "skipped": freeze(routed((2, 2)), "sparse"),
    }
    runners = {name: litert_runner(network) for name, network in networks.items()}
    of_one = {"one": litert_runner(networks["sparse"], True), "one skipped": litert_runner(networks["skipped"], True)}
    measured = []
    for batch_size, named in rows.items():
        images = np.array(noise(batch_size))
        taking = runners | of_one if batch_size == 1 else runners
        times = interleaved_times({name: functools.partial(run, images) for name, run in taking.items()}, rounds)
        measured += [ratio(row, times, name, "resnet") for name, row in named.items()]
    return measured


def litert_runner(network: FrozenNetwork, one_image: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    """A frozen network as LiteRT runs it."""
    from ai_edge_litert.interpreter import Interpreter

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "network.tflite"
        export(network, path, "litert", one_image)
        signature = Interpreter(model_content=path.read_bytes(), num_threads=2).get_signature_runner("serving_default")
    return lambda images: signature(images=images)["outputs"]


GROUPS: dict[str, Callable[[int], list[Row]]] = {
    "kernel": kernel,
    "inference-1": inference_1,
    "inference-128": inference_128,
    "litert": litert,
    "onnx": onnx_files,
    "training": training,
    "fixed-routes": fixed_routes,
    "input": input_pipeline,
    "import": start_up,
}
