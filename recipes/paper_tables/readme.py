"""The CSV files as the tables of `recipes/README.md`."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import statistics
from typing import Any

import jinja2

from experiment.config import FAST
from experiment.network_config import ScratchConfig
from experiment.systems import SYSTEMS
from experiment.trainings import RATES
from paper_tables.paper import ROWS, TABLES, file_of
from paper_tables.results_table import Line, grouped, read

GROUP = ("row", "model", "strength", "preset", "scale", "start", "precision")
CONTROLS = ("shuffled", "one_for_all", "static_accuracy")
TIMES = ("relative_time", "relative_time_of_one")
TEMPLATE = pathlib.Path(__file__).with_name("README.md.jinja")
CLONE = pathlib.Path(__file__).parents[2]


def write_readme(folder: pathlib.Path, readme: pathlib.Path) -> None:
    """Writes the tables of all CSV files of a folder, ours beside the paper's."""
    tables = []
    for name, heading in TABLES.items():
        for path in sorted(folder.glob(file_of(name, "*"))):
            lines = read(path)
            entries = [_entry(group) for group in grouped(lines, GROUP).values()]
            about = {"table": name, "heading": heading, "dataset": lines[0]["dataset"], "file": path.name}
            tables.append({**about, "entries": entries, "lines": lines})
    missing = {(name, preset): _missing(name, preset, tables) for name in TABLES for preset in ("fast", "paper")}
    environment = jinja2.Environment(autoescape=False, trim_blocks=True, lstrip_blocks=True)  # noqa: S701 - Markdown
    template = environment.from_string(TEMPLATE.read_text())
    # Links lead from the file's folder, which may be that of a run.
    places = {name: os.path.relpath(path, readme.parent) for name, path in (("clone", CLONE), ("results", folder))}
    text = template.render(tables=tables, missing=missing, systems=SYSTEMS.values(), fast=_fast(), **places)
    readme.write_text(text.rstrip() + "\n")


def _fast() -> dict[str, Any]:
    """Settings of a training from scratch with `--preset fast`, by their flags, and what follows from them."""
    papers = {field.name: field.metadata["values"]["paper"] for field in dataclasses.fields(ScratchConfig)}
    batches = round(papers["train_steps"] * FAST["epochs_scale"])
    return {**papers, **FAST, "batches": batches, "rate": RATES[FAST["optimizer"]], "adam_rate": RATES["adam"]}


def _missing(name: str, preset: str, tables: list[dict[str, Any]]) -> list[str]:
    """Rows of a table that were not run on CIFAR-10 with the whole length of a preset, as ranges."""
    ours = [table["entries"] for table in tables if (table["table"], table["dataset"]) == (name, "cifar10")]
    whole = [entry for entries in ours for entry in entries if (entry["preset"], float(entry["scale"])) == (preset, 1)]
    done = {int(entry["row"]) for entry in whole}
    left = [row.number for row in ROWS if row.table == name and row.number not in done]
    # Along consecutive numbers, the number less its place in the list stays the same.
    ranges = itertools.groupby(enumerate(left), lambda place: place[1] - place[0])
    ends = [[row for _, row in part] for _, part in ranges]
    return [f"{part[0]} to {part[-1]}" if len(part) > 1 else str(part[0]) for part in ends]


def _entry(lines: list[Line]) -> dict[str, Any]:
    """What a table says of the runs of one row that differ only in the seed."""
    first = lines[0]
    papers = {(row.table, str(row.number)): row for row in ROWS}
    compared, beside_static = _least_sure(lines, "p_value"), _least_sure(lines, "static_p")
    parameters = [int(line["parameters"]) for line in lines if line.get("parameters")]
    accuracies = ("accuracy", "accuracy_10_1_v4", "accuracy_10_1_v6", "gap")
    # Times of different machines have no mean.
    same = len({line["hardware"] for line in lines}) == 1
    times = {name: _mean_and_deviation([line.get(name, "") if same else "" for line in lines]) for name in TIMES}
    return {
        **first,
        **{name: _mean_and_deviation([line.get(name, "") for line in lines]) for name in accuracies},
        **times,
        "compute_fraction": _mean_and_deviation([line["compute_fraction"] for line in lines], digits=3),
        "paper": papers.get((first["table"], first["row"])),
        "parameters": f"{parameters[0]:,}" if parameters else "",
        "seeds": len(lines),
        **{name: compared.get(name, "") for name in ("better", "worse", "p_value")},
        **{name: _mean_and_deviation([line.get(name, "") for line in lines]) for name in CONTROLS},
        **{f"{name}_p": _least_sure(lines, f"{name}_p").get(f"{name}_p", "") for name in ("shuffled", "one_for_all")},
        **{name: beside_static.get(name, "") for name in ("static_better", "static_worse", "static_p")},
        "static": " or ".join(dict.fromkeys(line["static"] for line in lines if line.get("static"))),
        "has_controls": any(line.get(name) for line in lines for name in CONTROLS),
        "static_compute": _mean_and_deviation([line.get("static_compute", "") for line in lines], digits=3),
    }


def _least_sure(lines: list[Line], name: str) -> Line:
    """The run of which a p-value, in the column of this name, is largest; empty where no run has one."""
    return max((line for line in lines if line.get(name)), key=lambda line: float(line[name]), default={})


def _mean_and_deviation(values: list[str], digits: int = 2) -> str:
    """Empty where a seed has no value: the mean of the others would pass for that of all."""
    if not all(values):
        return ""
    numbers = [float(value) for value in values]
    mean = f"{statistics.mean(numbers):.{digits}f}"
    return f"{mean} ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else mean
