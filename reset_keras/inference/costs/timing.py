"""Measured time, as ratios within one run: on a shared machine nothing else can be compared."""

import functools
import math
import os
import pathlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from reset_keras.argument_checks import check_integer, check_real
from reset_keras.inference.frozen.frozen_network import FrozenNetwork, freeze
from reset_keras.models import ReSetNet, ResNet, static_twin

BATCH_SIZE = 128
ONE_BY_ONE = 16
"""Images that the time of one is the mean of."""
INSTRUCTIONS = {
    "amx_tile": "AMX",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}
"""Of a CPU, those first that networks profit most from, as Linux calls them."""
ROUNDS = 7
ROUND_SECONDS = 0.05


def interleaved_times(
    runs: Mapping[str, Callable[[], Any]], rounds: int = ROUNDS, round_seconds: float = ROUND_SECONDS
) -> dict[str, np.ndarray]:
    """Seconds that computations take, measured in turns, so that changes of the machine's speed affect all of them.

    Each is called twice first, to compile it and to find how often it must be called in a turn.

    Args:
        runs: What is timed, by name: functions without arguments that return a tensor, or a nest of them.
        rounds: Integer, turns of each. Default 7.
        round_seconds: Float, how long a turn lasts at least, in seconds. Default 0.05.

    Returns:
        For each name a float64 array of shape `(rounds,)`: seconds of one call.

    Raises:
        ValueError: a number is not positive, or a function returns nothing that can be waited for.

    Examples:
        >>> runs = {"small": lambda: keras.ops.ones((8,)), "large": lambda: keras.ops.ones((8_000,))}
        >>> times = interleaved_times(runs, rounds=3, round_seconds=0.001)
        >>> {name: seconds.shape for name, seconds in times.items()}
        {'small': (3,), 'large': (3,)}
    """
    check_integer("rounds", rounds, least=1)
    check_real("round_seconds", round_seconds, above=0.0)
    for run in runs.values():
        _seconds(run, repeats=1)
    repeats = {name: math.ceil(round_seconds / _seconds(run, repeats=1)) for name, run in runs.items()}
    turns = [{name: _seconds(run, repeats[name]) for name, run in runs.items()} for _ in range(rounds)]
    return {name: np.array([turn[name] for turn in turns]) for name in runs}


def relative_inference_times(model: keras.Model, baseline: keras.Model, images: np.ndarray) -> dict[int, float]:
    """Time of a network over that of another, both frozen: for one image, and for a batch of 128.

    Routes differ by image, and so does the time that one takes: it is the mean of 16 images, one after the other.

    Args:
        model: The network to be timed.
        baseline: What it is compared with.
        images: Array of normalized images; the first 128 are used, repeated if there are fewer.

    Returns:
        For the batch sizes 1 and 128 the ratio of the median times: below 1 is faster than the baseline.

    Examples:
        >>> networks = [ResNet(blocks, input_shape=(8, 8, 1)) for blocks in [(1, 1), (2, 2)]]
        >>> sorted(relative_inference_times(*networks, np.zeros((4, 8, 8, 1))))
        [1, 128]
    """
    networks = {"ours": freeze(model), "baseline": freeze(baseline)}
    images = np.resize(images, (BATCH_SIZE, *images.shape[1:]))
    singly, at_once = np.split(images[:ONE_BY_ONE], ONE_BY_ONE), [images]
    medians = {len(batches[0]): median_times(networks, batches) for batches in (singly, at_once)}
    return {size: seconds["ours"] / seconds["baseline"] for size, seconds in medians.items()}


def median_times(networks: Mapping[str, FrozenNetwork], batches: Sequence[np.ndarray]) -> dict[str, float]:
    """Median seconds that frozen networks take for some batches of images, measured in turns."""

    def run(network: FrozenNetwork, tensors: Sequence[Any]) -> Any:
        # `map` is lazy: unpacking it makes all the calls.
        *_, last = map(network, tensors)
        return last

    runs = {
        name: functools.partial(run, network, [keras.ops.convert_to_tensor(x, network.input_dtype) for x in batches])
        for name, network in networks.items()
    }
    times = interleaved_times(runs)
    return {name: float(np.median(turns)) for name, turns in times.items()}


def static_baseline(model: ResNet | ReSetNet) -> ResNet:
    """The `static_twin` that a network's time is compared with.

    Its batch norms have offsets, as in a trained network: folding would remove zeros, and the operations timed would
    not be a trained ResNet's.

    Args:
        model: A `ReSetNet` or a `ResNet`.

    Returns:
        A `ResNet` of the same blocks and width, with new weights.

    Raises:
        ValueError: `model` is of another kind.

    Examples:
        >>> static_baseline(ReSetNet((2, 2), input_shape=(8, 8, 1))).stage_blocks
        (3, 3)
    """
    twin = static_twin(model)
    for weight in twin.weights:
        if weight.name.startswith("beta"):
            weight.assign(keras.ops.full(weight.shape, 0.1))
    return twin


def device_name() -> str:
    """Name of the GPU that the backend computes on, or of the CPU, with the cores that this process may use.

    Of a CPU it also tells the instructions that networks profit most from.

    Examples:
        >>> isinstance(device_name(), str)  # such as "AMD EPYC 9B45, 2 cores, AVX-512 BF16"
        True
    """
    if keras.backend.backend() == "jax":
        import jax

        if jax.default_backend() != "cpu":
            return str(jax.devices()[0].device_kind)
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            return str(tf.config.experimental.get_device_details(gpu).get("device_name", "GPU"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # Linux has it
    name = _of_cpu("model name") or platform.processor() or platform.machine()
    flags = _of_cpu("flags").split()
    widest = [text for flag, text in INSTRUCTIONS.items() if flag in flags][:1]
    return ", ".join([name, f"{cores} cores", *widest])


def _of_cpu(field: str) -> str:
    """What Linux says of the first core; an empty string where it says nothing."""
    information = pathlib.Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def _seconds(run: Callable[[], Any], repeats: int) -> float:
    """Mean time of `repeats` calls, the last of which is waited for; JAX can wait without a copy to the host."""
    start = time.perf_counter()
    outputs = [run() for _ in range(repeats)]
    tensors = [leaf for leaf in keras.tree.flatten(outputs[-1]) if leaf is not None]
    if not tensors:
        raise ValueError(
            "What is timed must return a tensor, or a nest of them, as it has ended only when that is there. Received: "
            f"a function that returned {outputs[-1]!r}"
        )
    last = tensors[0]
    last.block_until_ready() if hasattr(last, "block_until_ready") else keras.ops.convert_to_numpy(last)
    return (time.perf_counter() - start) / repeats
