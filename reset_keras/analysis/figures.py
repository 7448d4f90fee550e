"""Figures of a run."""

from typing import Any

from matplotlib.figure import Figure

TRAINING_CURVES = (
    ("Accuracy", {"accuracy": "training", "val_accuracy": "test"}, "share of right answers"),
    ("Task loss", {"task_loss": "training", "val_task_loss": "test"}, "nats"),
    (
        "Entropy of the policies",
        {"entropy_across": "of the mean policy", "entropy_within": "mean of each"},
        "nats, summed",
    ),
    ("Compute", {"compute_fraction": "training images"}, "share of the ResNet's operations"),
    ("Skipped iterations", {"skip_fraction": "training", "val_skip_fraction": "test"}, "mean score of the zero unit"),
)


def training_curve(
    metrics: list[dict[str, Any]], rows: list[dict[str, Any]], series: dict[str, str], unit: str
) -> Figure:
    """Values of the epochs of all stages, one after the other.

    Args:
        metrics: The run's log, as `WorkDirectory.metrics` returns it.
        rows: The stages' rows.
        series: Labels of the lines by the name of their metric.
        unit: Label of the vertical axis.
    """
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    start, offsets = 0, {}
    for row in rows:
        steps = [line["step"] for line in metrics if (line.get("event"), line.get("stage")) == ("epoch", row["stage"])]
        if steps:
            offsets[row["stage"]] = start
            axes.axvline(start, color="0.85", linewidth=0.8)
            axes.annotate(row["stage"], (start, 1.0), xycoords=("data", "axes fraction"), rotation=30, fontsize=7)
            start += max(steps)
    for index, (name, label) in enumerate(series.items()):
        points = [
            (offsets[line["stage"]] + line["step"], line[name])
            for line in metrics
            if line.get("event") == "epoch" and name in line and line["stage"] in offsets  # others were renamed
        ]
        if points:
            marker = "." if len(points) < 15 else ""  # a single epoch is a point, which has no line
            axes.plot(*zip(*points, strict=True), label=label, color=f"C{index}", linewidth=1.2, marker=marker)
    axes.set(xlabel="training batches", ylabel=unit)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def trade_off(rows: list[dict[str, Any]]) -> Figure:
    """Accuracy of each stage's network against what it computes, and against the time that it takes.

    A line joins stages that start from the same network, and that network: the same weights at several budgets, say.

    Args:
        rows: The stages' rows, as `Pipeline.run` returns them.
    """
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    axes_of = {"compute_fraction": "MACs over the ResNet's", "relative_time": "inference time over the ResNet's"}
    for axes, (name, label) in zip(panels, axes_of.items(), strict=True):
        for index, row in enumerate(rows):
            marker = "os^D"[index // 10 % 4]  # there are ten colours
            axes.plot(row[name], _test_percent(row), marker, color=f"C{index}", label=row["stage"])
        for family in _families(rows):
            costs, accuracies = zip(*sorted((row[name], _test_percent(row)) for row in family), strict=True)
            axes.plot(costs, accuracies, color="0.6", linewidth=0.8, zorder=1)
        axes.axvline(1.0, color="0.85", linewidth=0.8, zorder=0)
        axes.set(xlabel=label, xlim=(0, 1.1 * axes.get_xlim()[1]))  # room for the last point and its tick
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("test accuracy, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    return figure


def _test_percent(row: dict[str, Any]) -> float:
    return 100 * next(iter(row["accuracy"].values()))


def _families(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Each stage that two or more others start from, with these."""
    starts = dict.fromkeys(row.get("start") for row in rows if row.get("start"))
    families = [[row for row in rows if start in (row.get("start"), row["stage"])] for start in starts]
    return [family for family in families if len(family) > 2]
