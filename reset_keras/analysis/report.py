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
    from reset_keras.analysis.figures import trade_off

    template = jinja2.Environment(autoescape=True).from_string(
        pathlib.Path(__file__).with_name("report.html.jinja").read_text()
    )
    page = template.render(
        title=f"{pathlib.Path(workdir.path).name}",
        command=workdir.command,
        columns=columns(rows),
        rows=[(row["title"], cells(row)) for row in rows],
        note=NOTE,
        trade_off=_image("Accuracy against cost", trade_off(rows)),
        figures=_training_figures(workdir.metrics(), rows),
        config=workdir.config,
    )
    path = workdir.path / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page)
    return path


def _training_figures(metrics: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    from reset_keras.analysis.figures import TRAINING_CURVES, training_curve

    return [_image(title, training_curve(metrics, rows, series, unit)) for title, series, unit in TRAINING_CURVES]


def _image(title: str, figure: Any) -> dict[str, str]:
    """A figure as the data URI of an SVG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return {"title": title, "uri": f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"}
