"""Measures the speed claims of the project on this machine, and writes them as a table and as JSON.

    pip install ".[benchmarks]"                      # with ONNX Runtime, LiteRT and PyTorch
    python benchmarks/speed.py                       # all that this machine can measure: minutes
    python benchmarks/speed.py --only inference-1    # one group
    KERAS_BACKEND=jax python benchmarks/speed.py --only kernel    # on a GPU: the kernel for routed units

ReSet-38 (five units and five iterations in each of three modules) against ResNet-38, on images of 32 by 32 pixels.
Every ratio is the median over turns within one run, in which each computation is timed once. Targets for another device
stand as open, and those that need a package which is not installed. The files are written after each group; one that
fails is left out, and the exit code is 1.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clone import ROOT

if TYPE_CHECKING:
    from rows import Row

# Named here beside `measurements.GROUPS`, as flags are read before that module is imported, and TensorFlow with it.
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
"""The variable by which TensorFlow computes with oneDNN or without."""
GROUPS = ("inference-1", "inference-128", "litert", "onnx", "kernel", "training", "fixed-routes", "input", "import")


def main() -> None:
    """Measures, writes the table after each group, and prints it."""
    settings = _parser().parse_args()
    groups = "" if set(settings.only) == set(GROUPS) else "-" + "-".join(settings.only)
    output = settings.output or ROOT / f"results/speed{groups}"
    import keras

    import measurements

    about = source("speed.py", keras.backend.backend(), settings.rounds)
    rows: list[Row] = []
    failed = []
    for name in settings.only:
        print(f"Measuring {name}", flush=True)
        try:
            rows += measurements.GROUPS[name](settings.rounds)
        except Exception:
            traceback.print_exc()
            failed.append(name)
        write(output, "speed", about, rows)
    print(as_table(about, rows))
    if failed:
        sys.exit(f"error: not measured, as they failed: {', '.join(failed)}")


def source(script: str, backend: str, rounds: int) -> dict[str, Any]:
    """What was run, where and when."""
    from reset_keras.inference import device_name

    given = [f"{ONEDNN}={os.environ[ONEDNN]}"] if ONEDNN in os.environ else []
    command = shlex.join([*given, "python", f"benchmarks/{script}", *sys.argv[1:]])
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"command": command, "backend": backend, "device": device_name(), "date": date, "rounds": rounds}


def write(folder: pathlib.Path, name: str, about: dict[str, Any], rows: Sequence["Row"], before: str = "") -> None:
    """What is measured so far, as JSON and as Markdown after what comes `before`: a run that is killed keeps it."""
    from reset_keras.atomic_write import atomic_write

    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[str, Any] = {**about, "rows": [{**dataclasses.asdict(row), "met": row.met} for row in rows]}
    for suffix, text in {"json": json.dumps(lines, indent=1) + "\n", "md": before + as_table(about, rows)}.items():
        with atomic_write(folder / f"{name}.{suffix}") as unfinished:
            unfinished.write_text(text)


def as_table(about: dict[str, Any], rows: Sequence["Row"]) -> str:
    """The rows as a Markdown table, with what was run where and when below it."""
    from rich.box import MARKDOWN
    from rich.console import Console
    from rich.table import Table

    table = Table(box=MARKDOWN)
    for heading in ("What", "Where", "Target", "Measured", "Quartiles of the turns", ""):
        table.add_column(heading, justify="left" if heading in ("What", "Where") else "right")
    for row in rows:
        table.add_row(row.what, row.where, *_figures(row))
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    body = "\n".join(line.rstrip() for line in capture.get().strip().splitlines())
    source = f"`{about['command']}` on {about['backend']}, {about['device']}, {about['date']}"
    return f"{body}\n\n{source}; medians of {about['rounds']} turns.\n"


def _figures(row: "Row") -> tuple[str, str, str, str]:
    target = f"{'>=' if row.at_least else '<='} {row.target:g}{row.unit}"
    if row.value is None or row.spread is None:
        return target, "open", "", ""
    low, high = row.spread
    met = {True: "met", False: "missed", None: "for another device"}[row.met]
    return target, f"{row.value:.2f}{row.unit}", f"{low:.2f} to {high:.2f}", met


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each computation (default 15)")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="groups to measure (default all)")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        help="folder of the table (default results/speed, with the names of the groups where not all are measured)",
    )
    return parser


if __name__ == "__main__":
    main()
