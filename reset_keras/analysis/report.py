"""A run's report: one HTML file that needs nothing else."""

import base64
import io
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import jinja2
from matplotlib.backends.backend_svg import FigureCanvasSVG

from reset_keras.analysis.class_routes_figure import class_routes_figure
from reset_keras.analysis.easiest_images_figure import easiest_images_figure, has_easy_images
from reset_keras.analysis.figures import TRAINING_CURVES, trade_off, training_curve
from reset_keras.analysis.route_figures import HISTORY, ROUTES, deviations_of, evolution_of, neighbours_of
from reset_keras.analysis.routes import Routes
from reset_keras.analysis.similar_routes import first_of_classes
from reset_keras.analysis.table import NOTE, cells, columns, names_of_tests
from reset_keras.atomic_write import atomic_write
from reset_keras.data import ImageDataset
from reset_keras.training import WorkDirectory

QUERIES = 4
"""Images of figure 5."""
RoutedStage = tuple[dict[str, Any], Routes, Any]


def write_report(workdir: WorkDirectory, rows: list[dict[str, Any]], dataset: ImageDataset) -> pathlib.Path:
    """Writes `report.html`: stages, warnings, curves, what routes mean, figures 4 to 6, settings, the command.

    Args:
        workdir: The run.
        rows: The stages' rows, as `Pipeline.run` returns them.
        dataset: What the run was trained on.

    Returns:
        The file's path.

    Examples:
        >>> import tempfile
        >>> from reset_keras.data import load_digits
        >>> folder = tempfile.TemporaryDirectory()
        >>> write_report(WorkDirectory(folder.name, {"seed": 0}), rows=[], dataset=load_digits()).name
        'report.html'
    """
    template = jinja2.Environment(autoescape=True).from_string(
        pathlib.Path(__file__).with_name("report.html.jinja").read_text()
    )
    metrics, routed = workdir.metrics(), list(_routed_stages(workdir, rows))
    page = template.render(
        title=workdir.path.name,
        command=workdir.command,
        columns=columns(rows),
        rows=rows,
        cells=lambda row: cells(row, names_of_tests(rows)),
        note=NOTE,
        warnings=[line for line in metrics if line.get("event") == "warning"],
        trade_off=_image("Accuracy against cost", trade_off(rows)),
        figures=[_image(title, training_curve(metrics, rows, series, unit)) for title, series, unit in TRAINING_CURVES],
        budgets=_budget_section(routed, dataset),
        stages=_stage_sections(routed, dataset),
        config=workdir.config,
    )
    path = workdir.path / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page)
    return path


def _routed_stages(workdir: WorkDirectory, rows: list[dict[str, Any]]) -> Iterator[RoutedStage]:
    """The row and the routes of each stage that left some, and figure 6 of its training, `None` where it had none."""
    for index, row in enumerate(rows):
        folder, name = workdir.stage(index, row["stage"]), row["stage"]
        if not (folder / ROUTES).exists():
            continue
        try:
            trained = (folder / HISTORY).exists()
            yield row, Routes.load(folder / ROUTES), evolution_of(folder / HISTORY, name) if trained else None
        except ValueError as error:
            warnings.warn(f"The report goes without the routes of stage '{name}': {error}", stacklevel=3)


def _budget_section(stages: list[RoutedStage], dataset: ImageDataset) -> dict[str, str] | None:
    """The easiest and hardest images of the last stage whose images halt."""
    for row, routes, _ in reversed(stages):
        if row["skip_fraction"] and has_easy_images(routes) and dataset.has_pictures:
            title = f"Units that images run in each module ({row['stage']})"
            return _image("Easiest and hardest images", easiest_images_figure(routes, dataset, title))
    return None


def _stage_sections(stages: list[RoutedStage], dataset: ImageDataset) -> list[dict[str, Any]]:
    """Figures of the routes of each stage whose routing was trained; all of them for the last one."""
    sections = []
    for row, routes, evolution in stages:
        if evolution is not None:
            name, last = row["stage"], routes
            figures = {
                "Evolution of the policy (figure 6)": evolution,
                "How much scores differ between images (figure 4)": deviations_of(routes, name),
            }
            sections.append({"name": name, "figures": [_image(text, figure) for text, figure in figures.items()]})
    if sections:
        title = f"Mean routes of the classes ({name})"
        figures = {"Routes of the classes": class_routes_figure(last, dataset.class_names, title)}
        if dataset.has_pictures:
            images = first_of_classes(dataset.test.labels, QUERIES)
            figures["Images with similar routes (figure 5)"] = neighbours_of(last, name, dataset, images)
        sections[-1]["figures"] += [_image(text, figure) for text, figure in figures.items()]
    return sections


def _image(title: str, figure: Any) -> dict[str, str]:
    """A figure as the data URI of an SVG."""
    buffer = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(buffer)  # `savefig` lays it out and draws it twice
    return {"title": title, "uri": f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"}
