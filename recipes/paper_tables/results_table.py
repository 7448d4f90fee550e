"""What runs measured, as lines of CSV files."""

from __future__ import annotations

import csv
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from paper_tables.comparison import against_baseline, against_static
from paper_tables.controls import Workdirs, along_other_routes
from paper_tables.paper import Row, file_of
from reset_keras.atomic_write import atomic_write

Line = Mapping[str, Any]
"""A line of a CSV file, by column."""
KEY = ("table", "row", "model", "strength", "dataset", "preset", "scale", "seed", "start", "precision")
COLUMNS = (
    *KEY,
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
    "parameters",
    "relative_time",
    "relative_time_of_one",
    "better",
    "worse",
    "p_value",
    "shuffled",
    "shuffled_p",
    "one_for_all",
    "one_for_all_p",
    "static",
    "static_accuracy",
    "static_compute",
    "static_better",
    "static_worse",
    "static_p",
)


def collect(row: Row, seed: int, preset: str, scale: float, workdirs: Workdirs) -> dict[str, Any] | None:
    """The line of a row, or `None` where its stage has not ended yet.

    Args:
        row: The row.
        seed: Integer, the run's seed.
        preset: Name of the run's preset.
        scale: Float, by which its trainings were shortened.
        workdirs: Work directories of the runs that are done or begun, by experiment.

    Raises:
        ValueError: the run is done, and was of other settings, without the row's network.
    """
    if row.experiment not in workdirs:
        return None
    workdir = workdirs[row.experiment]
    results = {line["stage"]: line for line in map(_json, sorted(workdir.glob("stages/*/result.json")))}
    done = workdir / "provenance.json"
    if row.stage not in results:
        if not done.exists():
            return None
        raise ValueError(
            f"{workdir} is a run of other settings: it has the stages {', '.join(results)}, and no {row.stage}. Move "
            "it away to have it run again"
        )
    result = results[row.stage]
    accuracy = {name: 100 * value for name, value in result["accuracy"].items()}
    newer = accuracy.get("cifar10_1_v6", accuracy.get("cifar10_1_v4"))
    provenance, config = _json(done if done.exists() else workdir / "begun.json"), _json(workdir / "config.json")
    return {
        "table": row.table,
        "row": row.number,
        "model": row.model,
        "strength": row.strength,
        "dataset": config["dataset"],
        "preset": preset,
        "scale": f"{scale:g}",
        "seed": seed,
        "start": provenance.get("start", provenance.get("resnet", "")),  # as older runs call it
        "precision": config.get("precision", "float32"),
        **{name: provenance[name] for name in ("command", "commit", "date")},
        "hardware": result["device"],
        "wall_time_s": round(sum(results[stage]["seconds"] for stage in _ancestry(results, row.stage))),
        "accuracy": f"{accuracy['test']:.2f}",
        "accuracy_10_1_v4": _two_digits(accuracy.get("cifar10_1_v4")),
        "accuracy_10_1_v6": _two_digits(accuracy.get("cifar10_1_v6")),
        "gap": _two_digits(None if newer is None else accuracy["test"] - newer),
        "compute_fraction": f"{result['compute_fraction']:.3f}",
        "parameters": result.get("parameters", ""),  # which older runs lack, as they do the time of one image
        "relative_time": f"{result['relative_time']:.2f}",
        "relative_time_of_one": _two_digits(result.get("relative_time_of_one")),
        **against_baseline(row, workdirs),
        **along_other_routes(row, workdir),
        **against_static(row, workdirs),
    }


def merge(folder: pathlib.Path, lines: Iterable[Line]) -> None:
    """Puts lines into the CSV files of a folder, each in the place of an earlier one of the same row and run."""
    folder.mkdir(parents=True, exist_ok=True)
    for (table, dataset), new in grouped(lines, ("table", "dataset")).items():
        path = folder / file_of(table, dataset)
        merged = {key(line, KEY): line for line in [*read(path), *new]}
        with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(merged.values(), key=_order))


def read(path: pathlib.Path) -> list[dict[str, str]]:
    """The lines of a CSV file, in the order of tables; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return sorted(map(_of_older_versions, csv.DictReader(file)), key=_order)


def grouped(lines: Iterable[Line], names: tuple[str, ...]) -> dict[tuple[str, ...], list[Line]]:
    """Lines by what they have in some columns, in their order."""
    groups: dict[tuple[str, ...], list[Line]] = {}
    for line in lines:
        groups.setdefault(key(line, names), []).append(line)
    return groups


def key(line: Line, names: tuple[str, ...]) -> tuple[str, ...]:
    """What a line has in some columns, as text; empty for a column that it lacks."""
    return tuple(str(line.get(name, "")) for name in names)


def _ancestry(results: Mapping[str, dict[str, Any]], stage: str) -> list[str]:
    """The stage, the one that it starts from, and so on."""
    stages: list[str] = []
    current: str | None = stage
    while current is not None:
        stages.append(current)
        current = results[current]["start"]
    return stages


def _of_older_versions(line: dict[str, str]) -> dict[str, str]:
    """A line with the columns of today: `start` was called `resnet`, and the precision was not told."""
    if "resnet" in line:
        line["start"] = line.pop("resnet")
    return line


def _json(path: pathlib.Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _two_digits(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _order(line: Line) -> tuple[int, str, float, int]:
    return int(line["row"]), str(line["preset"]), -float(line["scale"]), int(line["seed"])
