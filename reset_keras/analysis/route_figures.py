import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

from reset_keras.analysis.policy_evolution import policy_evolution_figure
from reset_keras.analysis.routes import Routes
from reset_keras.analysis.score_deviation import score_deviation_figure
from reset_keras.analysis.similar_routes import first_of_classes, similar_routes
from reset_keras.analysis.similar_routes_figure import similar_routes_figure
from reset_keras.argument_checks import check_integer
from reset_keras.array_files import read_arrays
from reset_keras.data import ImageDataset, hold_out, load_dataset
from reset_keras.models.routed_outputs import in_order_of_modules
from reset_keras.training import read_config, read_result

HISTORY = "route_history.npz"
ROUTES = "routes.npz"
QUERIES = 4
"""Images of figure 5, where there are as many classes."""


def write_route_figures(
    workdir: str | os.PathLike, output: str | os.PathLike, stage: str | None = None, queries: int | None = None
) -> list[pathlib.Path]:
    """Draws figures 4, 5 and 6 of the paper from a run's work directory, each as PNG and as PDF.

    Figures 4 and 5 are of a stage's network, on the first test set; figure 6 is of a stage's training, from the history
    that it left. Files are `figureN-STAGE.png` and `.pdf`. Figure 5 shows images: a run whose config does not say by
    `dataset` and `image_size` how `rk.data.load_dataset` finds them goes without it, with a warning.

    Args:
        workdir: Folder of the run.
        output: Folder for the files, which is made if need be.
        stage: Name of a finished stage with a routed network. Default `None`: the last one for figures 4 and 5, all
            that were trained for figure 6.
        queries: Integer, images of figure 5, each of another class. Default: 4, or as many as there are classes.

    Returns:
        The files' paths.

    Raises:
        ValueError: the folder holds no run, or no finished stage with a routed network, or not this one, or there are
            not as many classes as queries.

    Examples:
        >>> write_route_figures("runs/relaxation", "runs/relaxation/figures")  # doctest: +SKIP
    """
    if queries is not None:
        check_integer("queries", queries, least=1)
    workdir, output = pathlib.Path(workdir), pathlib.Path(output)
    folders = routed_stages(workdir)
    if stage is not None and stage not in folders:
        raise ValueError(f"{workdir} has no finished stage '{stage}' with a routed network; it has {[*folders]}")
    drawn = stage or [*folders][-1]
    figures = list(_figures_of_network(drawn, folders[drawn], workdir, queries))
    trained = {name: folder for name, folder in folders.items() if stage in (None, name)}
    histories = {name: folder / HISTORY for name, folder in trained.items() if (folder / HISTORY).exists()}
    figures += [(f"figure6-{name}", evolution_of(path, name)) for name, path in histories.items()]
    output.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures:
        for suffix in ("png", "pdf"):
            paths.append(output / f"{name}.{suffix}")
            figure.savefig(paths[-1], dpi=150)
    return paths


def routed_stages(workdir: pathlib.Path) -> dict[str, pathlib.Path]:
    """Folders of a run's finished stages whose network is routed, by the stage's name, in the run's order.

    Raises:
        ValueError: there is no run in the folder, or no such stage.
    """
    _config(workdir)
    folders = {}
    for result in sorted(workdir.glob("stages/*/result.json")):
        row = read_result(result)
        if row.get("policy_entropy") is not None:
            folders[row["stage"]] = result.parent
    if not folders:
        raise ValueError(f"{workdir} has no finished stage with a routed network yet")
    return folders


def _config(workdir: pathlib.Path) -> dict[str, Any]:
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"{workdir} is no work directory of a recipe: there is no {path}")
    return read_config(path)


def _figures_of_network(
    stage: str, folder: pathlib.Path, workdir: pathlib.Path, queries: int | None
) -> Iterator[tuple[str, Any]]:
    routes, config = Routes.load(folder / ROUTES), _config(workdir)
    yield f"figure4-{stage}", deviations_of(routes, stage)
    lacking = [repr(name) for name in ("dataset", "image_size") if name not in config]
    if lacking:
        warnings.warn(
            f"Figure 5, which shows images, is left out: {workdir / 'config.json'} has no {' and no '.join(lacking)}",
            stacklevel=3,
        )
        return
    dataset = load_dataset(config["dataset"], config["image_size"])
    if config.get("validation") is not None:  # the run was tested on these
        dataset = hold_out(dataset, config["validation"])
    if not dataset.has_pictures:
        warnings.warn("Figure 5, which shows images, is left out: the dataset's are no pictures", stacklevel=3)
        return
    images = first_of_classes(dataset.test.labels, QUERIES if queries is None else queries)
    if queries is not None and len(images) < queries:
        raise ValueError(f"each query shows another class, of which there are {len(images)}. Received: {queries}")
    yield f"figure5-{stage}", neighbours_of(routes, stage, dataset, images)


def deviations_of(routes: Routes, stage: str) -> Any:
    """Figure 4 of a stage's network."""
    title = f"Standard deviation of the scores\nover {len(routes):,} test images ({stage})"
    return score_deviation_figure(routes.deviations(), routes.zero_units, title)


def neighbours_of(routes: Routes, stage: str, dataset: ImageDataset, images: list[int]) -> Any:
    """Figure 5 of a stage's network, for these test images."""
    title = f"Test images with the most similar routes ({stage})"
    found = similar_routes(routes.scores, images)
    return similar_routes_figure(found, routes.scores, dataset, routes.zero_units, title)


def evolution_of(path: pathlib.Path, stage: str) -> Any:
    """Figure 6 of a stage's training, from the history that it left; `ValueError` if that cannot be read."""
    try:
        history = read_arrays(path)
        steps, scores, zero_units = history["steps"], in_order_of_modules(history), history["zero_units"].tolist()
        if not scores or len(steps) == 0:
            raise ValueError("it has no record")
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} holds no history that can be read ({error}): run the stage again") from error
    return policy_evolution_figure(steps, scores, zero_units, f"Evolution of the policy ({stage})")
