"""What runs measured, as lines of CSV files, and those as the tables of `recipes/README.md`."""

from __future__ import annotations

import csv
import itertools
import json
import pathlib
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import jinja2
import numpy as np
from scipy.stats import binomtest

from paper_tables.paper import EXPERIMENTS, ROWS, Row
from reset_keras.array_files import read_arrays
from reset_keras.atomic_write import atomic_write

COLUMNS = (
    "table",
    "row",
    "model",
    "dataset",
    "preset",
    "scale",
    "seed",
    "resnet",
    "command",
    "commit",
    "date",
    "hardware",
    "wall_time_s",
    "accuracy",
    "accuracy_10_1_v4",
    "accuracy_10_1_v6",
    "gap",
    "compute_fraction",
    "relative_time",
    "better",
    "worse",
    "p_value",
)
KEY = ("table", "row", "dataset", "preset", "scale", "seed", "resnet")
GROUP = ("row", "preset", "scale", "resnet")
TEMPLATE = pathlib.Path(__file__).with_name("README.md.jinja")


def collect(
    row: Row, seed: int, preset: str, scale: float, workdirs: Mapping[str, pathlib.Path]
) -> dict[str, Any] | None:
    """The line of a row, or `None` where its run is not done.

    Args:
        row: The row.
        seed: Integer, the run's seed.
        preset: Name of the run's preset.
        scale: Float, by which its trainings were shortened.
        workdirs: Work directories of the runs that are done, by experiment.
    """
    if row.experiment not in workdirs:
        return None
    workdir = workdirs[row.experiment]
    results = {line["stage"]: line for line in map(_json, sorted(workdir.glob("stages/*/result.json")))}
    result = results[row.stage]
    accuracy = {name: 100 * value for name, value in result["accuracy"].items()}
    newer = accuracy.get("cifar10_1_v6", accuracy.get("cifar10_1_v4"))
    provenance = _json(workdir / "provenance.json")
    return {
        "table": row.table,
        "row": row.number,
        "model": row.model,
        "dataset": _json(workdir / "config.json")["dataset"],
        "preset": preset,
        "scale": f"{scale:g}",
        "seed": seed,
        **provenance,
        "hardware": result["device"],
        "wall_time_s": round(sum(results[stage]["seconds"] for stage in _ancestry(results, row.stage))),
        "accuracy": f"{accuracy['test']:.2f}",
        "accuracy_10_1_v4": _percent(accuracy.get("cifar10_1_v4")),
        "accuracy_10_1_v6": _percent(accuracy.get("cifar10_1_v6")),
        "gap": _percent(None if newer is None else accuracy["test"] - newer),
        "compute_fraction": f"{result['compute_fraction']:.3f}",
        "relative_time": f"{result['relative_time']:.2f}",
        **_comparison(row, workdirs),
    }


def mcnemar(ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test of two classifiers on the same images.

    Args:
        ours: Classes that one predicts, shape `(images,)`.
        theirs: Classes that the other predicts.
        labels: The true classes.

    Returns:
        The number of images that only the first gets right, the number that only the second gets right, and the
        two-sided p-value of both being equally likely.
    """
    right, other_right = ours == labels, theirs == labels
    better, worse = int(np.sum(right & ~other_right)), int(np.sum(~right & other_right))
    return better, worse, float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def merge(folder: pathlib.Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Puts lines into the CSV files of a folder, each in the place of an earlier one of the same row and run."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[pathlib.Path, list[Mapping[str, Any]]] = {}
    for line in lines:
        files.setdefault(folder / f"table{line['table']}_{line['dataset']}.csv", []).append(line)
    for path, new in files.items():
        merged = {_key(line, KEY): line for line in [*_read(path), *new]}
        with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(merged.values(), key=_order))


def write_readme(folder: pathlib.Path, readme: pathlib.Path) -> None:
    """Writes the tables of all CSV files of a folder, ours beside the paper's."""
    tables = []
    for path in sorted(folder.glob("table*_*.csv")):
        lines = sorted(_read(path), key=_order)
        groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
        for line in lines:
            groups.setdefault(_key(line, GROUP), []).append(line)
        entries = [_entry(group) for group in groups.values()]
        about = {"table": lines[0]["table"], "dataset": lines[0]["dataset"], "file": path.name}
        tables.append({**about, "entries": entries, "lines": lines})
    numbers = sorted({row.table for row in ROWS})
    missing = {(number, preset): _missing(number, preset, tables) for number in numbers for preset in ("fast", "paper")}
    environment = jinja2.Environment(autoescape=False, trim_blocks=True, lstrip_blocks=True)  # noqa: S701 - Markdown
    text = environment.from_string(TEMPLATE.read_text()).render(tables=tables, missing=missing)
    readme.write_text(text.rstrip() + "\n")


def _missing(number: int, preset: str, tables: list[dict[str, Any]]) -> list[str]:
    """Rows of a table of the paper that were not run on its dataset with the whole length of a preset, as ranges."""
    ours = [table["entries"] for table in tables if (int(table["table"]), table["dataset"]) == (number, "cifar10")]
    whole = [entry for entries in ours for entry in entries if (entry["preset"], float(entry["scale"])) == (preset, 1)]
    done = {int(entry["row"]) for entry in whole}
    left = [row.number for row in ROWS if row.table == number and row.number not in done]
    ranges = itertools.groupby(enumerate(left), lambda place: place[1] - place[0])
    ends = [[row for _, row in part] for _, part in ranges]
    return [f"{part[0]} to {part[-1]}" if len(part) > 1 else str(part[0]) for part in ends]


def _comparison(row: Row, workdirs: Mapping[str, pathlib.Path]) -> dict[str, Any]:
    """McNemar's test against the row's baseline; empty for the baseline, and where that was not run."""
    (baseline,) = (other for other in ROWS if (other.table, other.number) == (row.table, row.baseline))
    experiment, stage = baseline.experiment, baseline.stage
    if EXPERIMENTS[row.experiment].pretrained == (experiment, stage):
        experiment, stage = row.experiment, "pretrain"  # the same network, also where it was given
    if baseline is row or experiment not in workdirs:
        return {"better": "", "worse": "", "p_value": ""}
    ours = _predictions(workdirs[row.experiment], row.stage)
    theirs = _predictions(workdirs[experiment], stage)
    better, worse, p_value = mcnemar(ours["test"], theirs["test"], ours["test_labels"])
    return {"better": better, "worse": worse, "p_value": f"{p_value:.2g}"}


def _predictions(workdir: pathlib.Path, stage: str) -> dict[str, np.ndarray]:
    (path,) = workdir.glob(f"stages/*-{stage}/predictions.npz")
    return read_arrays(path)


def _ancestry(results: Mapping[str, dict[str, Any]], stage: str) -> list[str]:
    """The stage, the one that it starts from, and so on."""
    stages: list[str] = []
    current: str | None = stage
    while current is not None:
        stages.append(current)
        current = results[current]["start"]
    return stages


def _entry(lines: list[Mapping[str, Any]]) -> dict[str, Any]:
    """What a table says of the runs of one row that differ only in the seed."""
    first = lines[0]
    (paper,) = (row for row in ROWS if (row.table, row.number) == (int(first["table"]), int(first["row"])))
    p_values = [float(line["p_value"]) for line in lines if line["p_value"]]
    numbers = ("accuracy", "accuracy_10_1_v4", "accuracy_10_1_v6", "gap", "compute_fraction", "relative_time")
    return {
        **first,
        **{
            name: _mean_and_deviation([line[name] for line in lines], 3 if name == "compute_fraction" else 2)
            for name in numbers
        },
        "paper": paper,
        "seeds": len(lines),
        "p_value": f"{max(p_values):.2g}" if p_values else "",
    }


def _mean_and_deviation(values: list[str], digits: int) -> str:
    numbers = [float(value) for value in values if value]
    if not numbers:
        return ""
    mean = f"{statistics.mean(numbers):.{digits}f}"
    return f"{mean} ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else mean


def _read(path: pathlib.Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _json(path: pathlib.Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _key(line: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(line.get(name, "")) for name in names)


def _order(line: Mapping[str, Any]) -> tuple[int, str, float, int]:
    return int(line["row"]), str(line["preset"]), -float(line["scale"]), int(line["seed"])
