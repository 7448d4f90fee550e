"""The result of `tune.py`: its trials in order, and the best one's network."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuning.search_space import NAMES

COLUMNS = ("rank", "trial", "objective", "accuracy", "compute_fraction", "steps", "seconds", "worker", "failure")
"""Columns of `ranking.csv`, before those of the hyperparameters."""


def ranking(workdir: str) -> list[dict[str, Any]]:
    """What each trial wrote, from the best to the worst; trials that failed come last and have no rank."""
    rows = [json.loads(path.read_text()) for path in sorted(Path(workdir).glob("trials/trial_*/result.json"))]
    done = sorted((row for row in rows if "failure" not in row), key=lambda row: -row["objective"])
    return [{"rank": rank, **row} for rank, row in enumerate(done, 1)] + [row for row in rows if "failure" in row]


def write_ranking(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes the ranking as CSV; cells are empty where a hyperparameter does not count."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *NAMES], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, **row["hyperparameters"]} for row in rows)


def print_ranking(rows: Sequence[dict[str, Any]], compute_limit: float) -> None:
    """Prints the ranking, with the hyperparameters in which trials differ."""
    from rich.console import Console
    from rich.table import Table

    note = (
        f"Objective: accuracy on validation images, less 0.01 for each 0.01 of compute beyond {compute_limit:g}. "
        "Compute: operations over the ResNet's. Scorers other than gumbel_st weight all units and compute all of them, "
        "which is beyond every limit near 1."
    )
    table = Table(caption=note, caption_justify="left", show_lines=True)
    for heading in ("Rank", "Trial", "Objective", "Acc. %", "Compute"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("What differs")
    for row, differing in zip(rows, differences(rows), strict=True):
        reason = [f"failed: {row['failure']}"] if "failure" in row else []
        table.add_row(*_cells(row), "\n".join([described(differing), *reason]))
    Console().print(table)


def differences(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each trial the hyperparameters, and the length in batches, that are not the same in all trials."""
    settings = [{**row["hyperparameters"], "steps": row["steps"]} for row in rows]
    names = [name for name in (*NAMES, "steps") if len({str(each.get(name)) for each in settings}) > 1]
    return [{name: each[name] for name in names if name in each} for each in settings]


def described(hyperparameters: dict[str, Any]) -> str:
    """Hyperparameters in one line."""
    return " ".join(f"{name}={value}" for name, value in hyperparameters.items())


def outcome(row: dict[str, Any]) -> str:
    """A trial's result in a few words."""
    if "failure" in row:
        return f"failed: {row['failure']}"
    return (
        f"objective {row['objective']:.4f}, accuracy {100 * row['accuracy']:.2f} %, "
        f"compute fraction {row['compute_fraction']:.3f}"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    if "failure" in row:
        return ["-", row["trial"], "-", "-", "-"]
    return [
        str(row["rank"]),
        row["trial"],
        f"{row['objective']:.4f}",
        f"{100 * row['accuracy']:.2f}",
        f"{row['compute_fraction']:.3f}",
    ]
