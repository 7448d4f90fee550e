"""Measures training steps: this package's networks, plain Keras, PyTorch, and an earlier commit, in turns.

    python benchmarks/steps.py
    git worktree add ../before 2b6e25c && python benchmarks/steps.py --before ../before
    pip install ".[benchmarks]" torch==2.13.0                  # PyTorch is timed where it is installed
    python benchmarks/steps.py --networks resnet softmax straight_through --precisions float32 tf32 bfloat16 \\
        --batch-size 512 --output results/steps-gpu-512        # on a GPU, where steps are compiled by XLA
    python benchmarks/steps.py --output results/steps-pools --networks resnet \\
        softmax/split softmax/grouped top_k/split top_k/grouped hard/split hard/grouped
    python benchmarks/steps.py --output results/steps-onednn --networks resnet softmax top_k/split \\
        --precisions float32 --without-onednn

ResNet-38 and ReSet-38 on batches of images of 32 by 32 pixels. Each has a separate process, so that the peak of its
memory is known; all wait while one of them takes its turn, so that a machine whose speed changes slows all. Ratios are
of the same turn. Targets are for a CPU with AMX; `results/steps` gets the table. TensorFlow computes with oneDNN, as in
the recipes, unless TF_ENABLE_ONEDNN_OPTS is set.
"""

import argparse
import contextlib
import importlib.util
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import speed
from clone import ROOT

if TYPE_CHECKING:
    import numpy as np

    from rows import Row

PRECISIONS = ("float32", "tf32", "bfloat16")
NETWORKS = (
    "resnet",
    "softmax",
    "straight_through",
    "fixed_routes",
    "fixed_routes_skipped",
    "every_budget",
    "keras",
    "torch",
)
POOL_FORMS = ("softmax/split", "softmax/grouped", "top_k/split", "top_k/grouped", "hard/split", "hard/grouped")
"""ReSets by scorer, with the operations of their pools: what `ResidualPool(execution="auto")` chooses by."""
BEFORE = "before"
RATIOS = (
    ("ResNet-38 over PyTorch", "resnet", "torch", {"float32": 0.85, "bfloat16": 0.8}),
    ("ResNet-38 over plain Keras layers", "resnet", "keras", {"float32": 0.6}),
    ("ReSet-38, softmax, over ResNet-38", "softmax", "resnet", {"float32": 4.4, "bfloat16": 4.4}),
    ("ReSet-38, softmax, over the earlier commit", "softmax", BEFORE, {"float32": 0.65, "bfloat16": 0.35}),
    ("ReSet-38 along fixed routes over ResNet-38", "fixed_routes", "resnet", {"float32": 1.0, "bfloat16": 1.0}),
    ("the same, 30 % skipped", "fixed_routes_skipped", "resnet", {"float32": 0.75, "bfloat16": 0.75}),
    ("the network for every budget over ResNet-38", "every_budget", "resnet", {"float32": 0.7, "bfloat16": 0.7}),
)
"""What is compared with what, and the largest ratio that meets the target. The earlier commit is timed in float32."""
WITHOUT_ONEDNN = " without oneDNN"
"""Ends the name of a network that is timed without TensorFlow's oneDNN."""
Subject = tuple[str, str]
"""A network and a precision."""


class Worker:
    """A process that takes turns.

    Args:
        network: One of `NETWORKS` or `POOL_FORMS`, without oneDNN where its name ends so.
        precision: One of `PRECISIONS`.
        batch_size: Integer.
        checkout: Folder whose `reset_keras` it imports.
    """

    def __init__(self, network: str, precision: str, batch_size: int, checkout: pathlib.Path) -> None:
        name = network.removesuffix(WITHOUT_ONEDNN)
        self.command = [sys.executable, str(ROOT / "benchmarks/step_worker.py"), name, precision, str(batch_size)]
        environment = {speed.ONEDNN: "1", **os.environ, "KERAS_BACKEND": "tensorflow"}
        environment |= {"PYTHONPATH": str(checkout.resolve())}
        if name != network:
            environment[speed.ONEDNN] = "0"
        self.process = subprocess.Popen(  # noqa: S603 - a script of ours
            self.command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def turn(self, steps: int) -> tuple[float, float]:
        """Mean seconds of a step, and the peak of memory so far, in MiB."""
        assert self.process.stdin is not None  # noqa: S101 - for the type checker
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        seconds, memory = map(float, self.read().split())
        return seconds, memory

    def read(self) -> str:
        """The next line that it prints; the first says that its step is compiled."""
        assert self.process.stdout is not None  # noqa: S101
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{shlex.join(self.command)} ended with exit code {self.process.wait()}")
        return line

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.communicate()


def main() -> None:
    """Measures, writes the table and prints it."""
    settings = _parser().parse_args()
    names = [name for name in settings.networks if name != "torch" or importlib.util.find_spec("torch")]
    if settings.without_onednn:
        os.environ[speed.ONEDNN] = "1"  # for the others
        names += [f"{name}{WITHOUT_ONEDNN}" for name in names if name != "torch"]
    subjects = [(name, precision) for name in names for precision in settings.precisions]
    checkouts = dict.fromkeys(subjects, ROOT)
    if settings.before:
        checkouts[BEFORE, "float32"] = settings.before
    workers = {
        (name, precision): Worker("softmax" if name == BEFORE else name, precision, settings.batch_size, checkout)
        for (name, precision), checkout in checkouts.items()
    }
    about = speed.source("steps.py", "tensorflow", settings.rounds)
    for times, memory in measured(workers, settings.rounds, settings.steps):
        # After each turn, as whoever lends a GPU may take it back before the last.
        write(settings.output, {**about, "rounds": len(next(iter(times.values())))}, times, memory)
    print((settings.output / "steps.md").read_text())


def measured(
    workers: Mapping[Subject, Worker], rounds: int, steps: int
) -> Iterator[tuple[dict[Subject, "np.ndarray"], dict[Subject, float]]]:
    """After each turn: seconds of a step in each so far, and peak memory in MiB, of each subject."""
    import numpy as np

    with contextlib.ExitStack() as stack:
        for worker in workers.values():
            stack.callback(worker.close)
        for subject, worker in workers.items():
            print("Waiting for", *subject, flush=True)
            worker.read()
        turns = []
        for index in range(rounds):
            print(f"Turn {index + 1} of {rounds}", flush=True)
            turns.append({subject: worker.turn(steps) for subject, worker in workers.items()})
            times = {subject: np.array([turn[subject][0] for turn in turns]) for subject in workers}
            yield times, {subject: turns[-1][subject][1] for subject in workers}


def ratios(times: Mapping[Subject, "np.ndarray"]) -> list["Row"]:
    """The lines with targets, those that were measured."""
    from rows import Row

    rows = []
    for what, ours, baseline, targets in RATIOS:
        for precision, target in targets.items():
            theirs = (baseline, "float32" if baseline == BEFORE else precision)
            if (ours, precision) in times and theirs in times:
                row = Row(f"{what}, {precision}", "CPU with AMX", target)
                rows.append(row.measured(times[ours, precision] / times[theirs]))
    for name, precision in times:
        if (without := (f"{name}{WITHOUT_ONEDNN}", precision)) in times:
            row = Row(f"{name} with oneDNN over without, {precision}", "CPU", 1.0)
            rows.append(row.measured(times[name, precision] / times[without]))
    return rows


def write(
    folder: pathlib.Path, about: dict[str, Any], times: Mapping[Subject, "np.ndarray"], memory: Mapping[Subject, float]
) -> None:
    """The measurements, as `steps.json` and `steps.md` in a folder."""
    import numpy as np

    networks = [
        {"network": name, "precision": precision, "seconds": turns.tolist(), "peak_mib": round(memory[name, precision])}
        for (name, precision), turns in times.items()
    ]
    lines = ["| Network | Precision | ms a step | Peak memory, MiB |", "|---|---|--:|--:|"]
    lines += [
        f"| {n['network']} | {n['precision']} | {1000 * np.median(n['seconds']):.0f} | {n['peak_mib']} |"
        for n in networks
    ]
    speed.write(folder, "steps", {**about, "networks": networks}, ratios(times), "\n".join([*lines, "", ""]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=pathlib.Path, help="folder with an earlier commit, to compare with")
    choices = (*NETWORKS, *POOL_FORMS)
    parser.add_argument(
        "--networks", nargs="+", choices=choices, default=NETWORKS, help=f"what is timed (default {' '.join(NETWORKS)})"
    )
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=("float32", "bfloat16"), help="default float32 bfloat16"
    )
    parser.add_argument("--without-onednn", action="store_true", help="also time each network without oneDNN")
    parser.add_argument("--batch-size", type=int, default=128, help="images (default 128)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each network (default 7)")
    parser.add_argument("--steps", type=int, default=3, help="training steps in a turn (default 3)")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=ROOT / "results/steps",
        help="folder of the table (default results/steps)",
    )
    return parser


if __name__ == "__main__":
    main()
