"""Accuracy of the systems over the operations that they take, drawn from `systems_DATASET.csv`."""

from __future__ import annotations

import pathlib
import statistics
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from experiment.systems import SYSTEMS
from paper_tables.paper import RESNET38, ROWS, file_of
from paper_tables.results_table import Line, grouped, read

LENGTH = ("preset", "scale", "start", "precision")
RESNET = next(row.model for row in ROWS if (row.table, row.experiment) == ("systems", RESNET38[0]))
STYLE: dict[str, Any] = {"linewidth": 1.2, "markersize": 4, "elinewidth": 0.8, "capsize": 2}
STYLES: dict[str, dict[str, Any]] = {
    RESNET: {"color": "black", "marker": "*", "markersize": 11, "zorder": 3},
    **{
        system.name: {"color": f"C{index}", "marker": "osDv^<>pPX"[index % 10]}
        for index, system in enumerate(SYSTEMS.values())
    },
    SYSTEMS["static"].name: {"color": "black", "marker": ".", "linestyle": "--"},
}
"""How each is drawn, by its name."""


def write_systems_figures(folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws each `systems_DATASET.csv` of a folder into its `figures`, and returns the files."""
    paths = []
    for csv_file in sorted(folder.glob(file_of("systems", "*"))):
        path = folder / "figures" / csv_file.with_suffix(".svg").name
        path.parent.mkdir(exist_ok=True)
        with mpl.rc_context({"svg.hashsalt": "systems", "svg.fonttype": "none"}):  # the same bytes each time, and few
            systems_figure(read(csv_file)).savefig(path, metadata={"Date": None})
        paths.append(path)
    return paths


def systems_figure(lines: list[dict[str, str]]) -> Figure:
    """Accuracy over operations, a curve for each system, a panel for each length of training.

    Args:
        lines: Those of a `systems_DATASET.csv`. Points are means over seeds, bars standard deviations.
    """
    lengths = grouped(lines, LENGTH)
    figure = Figure(figsize=(4.2 * len(lengths) + 1.6, 3.6), layout="constrained")
    panels = figure.subplots(1, len(lengths), squeeze=False)[0]
    for axes, ((preset, scale, given, precision), of_length) in zip(panels, lengths.items(), strict=True):
        for (name,), of_system in grouped(of_length, ("model",)).items():
            points = sorted(_point(runs) for runs in grouped(of_system, ("strength",)).values())
            compute, accuracy, deviation = zip(*points, strict=True)
            axes.errorbar(compute, accuracy, deviation, label=name, **STYLE | STYLES.get(name, {}))
        start = f", from {given}" if given else ""
        length = f"preset {preset}{f', scale {scale}' if scale != '1' else ''}"
        axes.set_title(f"{length}{start}{f', {precision}' if precision != 'float32' else ''}", fontsize=9)
        axes.set(xlabel="operations over the ResNet's", ylabel="test accuracy, %")
        axes.spines[["top", "right"]].set_visible(False)
    drawn = [pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in drawn}
    figure.legend(handles.values(), handles, loc="outside right center", frameon=False, fontsize=8)
    return figure


def _point(lines: list[Line]) -> tuple[float, float, float]:
    """Mean operations, mean accuracy, and its standard deviation, of runs that differ in the seed."""
    compute = [float(line["compute_fraction"]) for line in lines]
    accuracies = [float(line["accuracy"]) for line in lines]
    deviation = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    return statistics.mean(compute), statistics.mean(accuracies), deviation
