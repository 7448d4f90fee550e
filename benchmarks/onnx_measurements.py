"""What `speed.py` measures of ONNX files: routed networks against ResNet-38, each as ONNX Runtime runs it."""

import functools
import importlib.util
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np

import reset_keras as rk
from plain_resnet import torch_resnet38
from reset_keras.data import DatasetUnavailableError
from reset_keras.inference import FrozenNetwork, export, freeze, interleaved_times
from rows import Row, ratio
from timed_networks import LEARNED, as_trained, noise, with_skips

SIZES = {1: 64, 128: 4}
"""Batches of one turn by their size: routes differ from image to image."""
Runner = Callable[[np.ndarray], object]


def onnx_files(rounds: int) -> list[Row]:
    """Learned routes of 0.70 of the operations, and one unit in each iteration, of images that differ in them."""
    rows = {
        batch_size: {
            **{name: Row(f"ONNX file, {name}, batch {batch_size}", "any", learned) for name in LEARNED},
            "one": Row(f"ONNX file, one unit per image and iteration, batch {batch_size}", "any", one),
            "pytorch": Row(f"ONNX file of ResNet-38 over PyTorch, batch {batch_size}", "CPU", 1.0),
        }
        for batch_size, learned, one in ((1, 0.95, 1.25), (128, 0.85, 1.1))
    }
    if importlib.util.find_spec("onnxruntime") is None:
        print("Not measured: ONNX files need onnxruntime: pip install '.[benchmarks]'")
        return [row for named in rows.values() for row in named.values()]
    images, are_learned_on = images_of_cifar10()
    networks = {"resnet": freeze(as_trained(rk.models.resnet38())), "one": freeze(with_skips(0.0))}
    if are_learned_on:
        presets = {name: rk.models.from_preset(name) for name in LEARNED}
        networks |= {name: freeze(model, compute=LEARNED[name]) for name, model in presets.items()}
    measured = []
    for size, named in rows.items():
        runners = {name: onnx_runner(network, size == 1) for name, network in networks.items()}
        if importlib.util.find_spec("torch"):
            runners["pytorch"] = torch_runner()
        batches = images[: size * SIZES[size]].reshape(-1, size, *images.shape[1:])
        runs = {name: functools.partial(run_all, run, batches) for name, run in runners.items()}
        times = interleaved_times(runs, rounds)
        print(f"ResNet-38, batch {size}: {1000 * np.median(times['resnet']) / SIZES[size]:.2f} ms", flush=True)
        for name, row in named.items():
            compared = ("resnet", "pytorch") if name == "pytorch" else (name, "resnet")
            measured.append(ratio(row, times, *compared) if name in times else row)
    return measured


def run_all(run: Runner, batches: np.ndarray) -> object:
    """One turn, and its last result, which is waited for."""
    *_, last = map(run, batches)
    return last


def images_of_cifar10() -> tuple[np.ndarray, bool]:
    """CIFAR-10's first test images, and that there are any: routes are learned on them; else noise."""
    count = max(size * batches for size, batches in SIZES.items())
    try:
        cifar10 = rk.data.load_dataset("cifar10")
    except DatasetUnavailableError as error:
        print(f"Not measured: {' and '.join(LEARNED)} need CIFAR-10. {error}")
        return np.array(noise(count)), False
    return cifar10.normalize(cifar10.test.images[:count]), True


def onnx_runner(network: FrozenNetwork, one_image: bool) -> Runner:
    """A frozen network as ONNX Runtime runs it, on as many threads as there are cores."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "network.onnx"
        export(network, path, "onnx", one_image)
        print(f"{network.graph.name}: a file of {path.stat().st_size / 1e6:.1f} MB", flush=True)
        options = onnxruntime.SessionOptions()
        # Threads of another session that still wait for work, busily, would slow the one whose turn it is.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["outputs"], {"images": images})


def torch_runner() -> Runner:
    """ResNet-38 in PyTorch, channels last."""
    import torch

    network = torch_resnet38().eval()

    def run(images: np.ndarray) -> object:
        with torch.inference_mode():
            # A view, not a copy: memory stays as it is, which PyTorch calls channels last.
            return network(torch.from_numpy(np.moveaxis(images, -1, 1)))

    return run
