"""A run's report: one HTML file that needs nothing else."""

import base64
import io
import pathlib
import warnings
from typing import Any

import jinja2
from matplotlib.backends.backend_svg import FigureCanvasSVG

from reset_keras.analysis.class_routes_figure import class_routes_figure
from reset_keras.analysis.easiest_images_figure import easiest_images_figure, has_easy_images
from reset_keras.analysis.figures import TRAINING_CURVES, trade_off, training_curve
from reset_keras.analysis.route_figures import HISTORY, ROUTES, deviations_of, evolution_of, neighbours_of
from reset_keras.analysis.routes import Routes
from reset_keras.analysis.similar_routes import first_of_classes
from reset_keras.analysis.table import NOTE, cells, columns
from reset_keras.atomic_write import atomic_write
from reset_keras.data import ImageDataset
from reset_keras.training import WorkDirectory

QUERIES = 4
"""Images of figure 5."""


def write_report(workdir: WorkDirectory, rows: list[dict[str, Any]], dataset: ImageDataset) -> pathlib.Path:
    """Writes `report.html`: stages, warnings, curves, what routes mean, figures 4 to 6, settings, the command.

    Args:
        workdir: The run.
        rows: The stages' rows, as `Pipeline.run` returns them.
        dataset: What the run was trained on.

    Returns:
        The file's path.
    """
    template = jinja2.Environment(autoescape=True).from_string(
        pathlib.Path(__file__).with_name("report.html.jinja").read_text()
    )
    metrics = workdir.metrics()
    page = template.render(
        title=workdir.path.name,
        command=workdir.command,
        columns=columns(rows),
        rows=rows,
        cells=cells,
        note=NOTE,
        warnings=[line for line in metrics if line["event"] == "warning"],
        trade_off=_image("Accuracy against cost", trade_off(rows)),
        figures=[_image(title, training_curve(metrics, rows, series, unit)) for title, series, unit in TRAINING_CURVES],
        budgets=_budget_section(workdir, rows, dataset),
        stages=_stage_sections(workdir, rows, dataset),
        config=workdir.config,
    )
    path = workdir.path / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page)
    return path


def _budget_section(workdir: WorkDirectory, rows: list[dict[str, Any]], dataset: ImageDataset) -> dict[str, str] | None:
    """The easiest and hardest images of the last stage whose images halt."""
    for index, row in reversed(list(enumerate(rows))):
        name, path = row["stage"], workdir.stage(index, row["stage"]) / ROUTES
        if not row["skip_fraction"] or not path.exists():
            continue
        try:
            routes = Routes.load(path)
        except ValueError as error:
            _warn_of_routes(name, error)
            continue
        if has_easy_images(routes):
            figure = easiest_images_figure(routes, dataset, f"Units that images run in each module ({name})")
            return _image("Easiest and hardest images", figure)
    return None


def _warn_of_routes(stage: str, error: ValueError) -> None:
    warnings.warn(f"The report goes without the routes of stage '{stage}': {error}", stacklevel=3)


def _stage_sections(workdir: WorkDirectory, rows: list[dict[str, Any]], dataset: ImageDataset) -> list[dict[str, Any]]:
    """Figures of the routes of each stage whose routing was trained; all of them for the last one."""
    images = first_of_classes(dataset.test.labels, QUERIES)
    sections = []
    for index, row in enumerate(rows):
        folder, name = workdir.stage(index, row["stage"]), row["stage"]
        if not (folder / HISTORY).exists() or not (folder / ROUTES).exists():
            continue
        try:
            found = Routes.load(folder / ROUTES)
            evolution = evolution_of(folder / HISTORY, name)
        except ValueError as error:
            _warn_of_routes(name, error)
            continue
        routes = found
        figures = {
            "Evolution of the policy (figure 6)": evolution,
            "How much scores differ between images (figure 4)": deviations_of(routes, name),
        }
        sections.append({"name": name, "figures": [_image(text, figure) for text, figure in figures.items()]})
    if sections:
        title = f"Mean routes of the classes ({sections[-1]['name']})"
        figures = {
            "Routes of the classes": class_routes_figure(routes, dataset.class_names, title),
            "Images with similar routes (figure 5)": neighbours_of(routes, sections[-1]["name"], dataset, images),
        }
        sections[-1]["figures"] += [_image(text, figure) for text, figure in figures.items()]
    return sections


def _image(title: str, figure: Any) -> dict[str, str]:
    """A figure as the data URI of an SVG."""
    buffer = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(buffer)  # `savefig` lays it out and draws it twice
    return {"title": title, "uri": f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"}
