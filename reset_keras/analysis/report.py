import base64
import io
import pathlib
from typing import Any

import jinja2

from reset_keras.analysis.table import NOTE, cells, columns
from reset_keras.training.atomic import atomic_write
from reset_keras.training.work_directory import WorkDirectory


def write_report(workdir: WorkDirectory, rows: list[dict[str, Any]]) -> pathlib.Path:
    """Writes `report.html`: the stages' table, curves along the training, the settings and the command.

    It is one file that needs nothing else: figures are in it.

    Args:
        workdir: The run.
        rows: The stages' rows, as `Pipeline.run` returns them.

    Returns:
        The file's path.
    """
    template = jinja2.Environment(autoescape=True).from_string(
        pathlib.Path(__file__).with_name("report.html.jinja").read_text()
    )
    page = template.render(
        title=f"{pathlib.Path(workdir.path).name}",
        command=workdir.command,
        columns=columns(rows),
        rows=[(row["title"], cells(row)) for row in rows],
        note=NOTE,
        figures=[_figure(workdir.metrics(), rows, *curve) for curve in CURVES],
        config=workdir.config,
    )
    path = workdir.path / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page)
    return path


CURVES = (
    ("Accuracy", {"accuracy": "training", "val_accuracy": "test"}, "share of right answers"),
    ("Task loss", {"task_loss": "training", "val_task_loss": "test"}, "nats"),
    (
        "Entropy of the policies",
        {"entropy_across": "of the mean policy", "entropy_within": "mean of each"},
        "nats, summed",
    ),
    ("Skipped iterations", {"skip_fraction": "training", "val_skip_fraction": "test"}, "mean score of the zero unit"),
)


def _figure(
    metrics: list[dict[str, Any]], rows: list[dict[str, Any]], title: str, series: dict[str, str], unit: str
) -> dict[str, str]:
    """One curve figure over all stages, as a data URI of an SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    start, offsets = 0, {}
    for row in rows:
        steps = [line["step"] for line in metrics if line["event"] == "epoch" and line["stage"] == row["stage"]]
        if steps:
            offsets[row["stage"]] = start
            axes.axvline(start, color="0.85", linewidth=0.8)
            axes.annotate(row["stage"], (start, 1.0), xycoords=("data", "axes fraction"), rotation=30, fontsize=7)
            start += max(steps)
    for index, (name, label) in enumerate(series.items()):
        points = [
            (offsets[line["stage"]] + line["step"], line[name])
            for line in metrics
            if line["event"] == "epoch" and name in line
        ]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=f"C{index}", linewidth=1.2)
    axes.set(xlabel="training batches", ylabel=unit)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return {"title": title, "uri": f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"}
