"""Controls of routed networks, without which a row says little of its routes.

Of each network with routes: the same along the routes of other images, and along one route for all. Of each that skips:
a static network of its cost, trained alike. In the paper's tables that is a ResNet with as many blocks in each stage as
the network runs there on average; among the systems it is the shorter ResNet whose operations are nearest.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from paper_tables.paper import RESNET38, ROWS, STATIC, Row, stages_of
from paper_tables.run import Run

Workdirs = Mapping[str, pathlib.Path]
"""Work directories of runs that are done or begun, by experiment."""
ROUTE_CONTROLS = "route_controls.json"
"""File of a run with what `route_controls.py` has found."""
SHORTER = "systems_static"
"""The experiment whose networks are the static controls of the systems."""


def with_controls(runs: Iterable[Run]) -> Iterator[Run]:
    """The runs, each followed by those that train its static controls, which are known when it is done; each once."""
    seen: set[Run] = set()
    for run in runs:
        if run not in seen:
            seen.add(run)
            yield run
        if run.done:
            for control in static_controls(run):
                if control not in seen:
                    seen.add(control)
                    yield control


def static_controls(run: Run) -> list[Run]:
    """Runs that train the static controls of a finished run's rows in the paper's tables."""
    rows = [row for row in ROWS if row.experiment == run.experiment and row.table != "systems"]
    names = filter(None, (_static_control(row, run.workdir) for row in rows))
    return [Run(run.config, name, run.seed) for name in dict.fromkeys(names)]


def control_of(row: Row, workdirs: Workdirs) -> tuple[str, str] | None:
    """Experiment and stage of a row's static control; `None` where the row's network hardly skips, or there is none."""
    if row.table != "systems":
        name = _static_control(row, workdirs[row.experiment])
        return (name, RESNET38[1]) if name else None
    if row.experiment in (SHORTER, RESNET38[0]) or SHORTER not in workdirs:
        return None
    cost = result_of(workdirs[row.experiment], row.stage)["compute_fraction"]
    shorter = {
        stage: result_of(workdirs[SHORTER], stage)["compute_fraction"]
        for stage in stages_of(SHORTER)
        if list(workdirs[SHORTER].glob(f"stages/*-{stage}/result.json"))
    }
    return (SHORTER, min(shorter, key=lambda stage: abs(shorter[stage] - cost))) if shorter else None


def described(control: tuple[str, str]) -> str:
    """A static control by what it is asked for by: `--units` of `resnet_baseline.py`, or a strength of `systems.py`."""
    experiment, stage = control
    if experiment == SHORTER:
        return f"strength {stage.rpartition('_')[2]}"
    return f"units {experiment.removeprefix(STATIC).replace('-', ' ')}"


def along_other_routes(row: Row, workdir: pathlib.Path) -> dict[str, Any]:
    """Accuracy of a row's network along other routes, with p-values; empty where that was not measured."""
    path = workdir / ROUTE_CONTROLS
    measured = json.loads(path.read_text()) if path.exists() else {}
    for network, found in measured.items():
        if pathlib.PurePath(network).parent.name.partition("-")[2] == row.stage:
            return {
                f"{name}{suffix}": found[name][key]
                for name in ("shuffled", "one_for_all")
                for suffix, key in (("", "accuracy"), ("_p", "p_value"))
            }
    return {}


def result_of(workdir: pathlib.Path, stage: str) -> dict[str, Any]:
    """The result of a stage that has ended."""
    (path,) = workdir.glob(f"stages/*-{stage}/result.json")
    return json.loads(path.read_text())


def routed_networks(run: Run) -> list[pathlib.Path]:
    """The networks of a run's rows that have routes."""
    networks = (next(run.networks(stage), None) for stage in sorted(stages_of(run.experiment)))
    return [network for network in networks if network is not None and network.with_name("routes.npz").exists()]


def _static_control(row: Row, workdir: pathlib.Path) -> str:
    """Name of the experiment that trains a row's static control; empty where the row's network hardly skips."""
    from reset_keras.analysis import Routes  # it loads the library, which `--help` need not wait for

    paths = list(workdir.glob(f"stages/*-{row.stage}/routes.npz"))
    if not paths:
        return ""
    routes = Routes.load(paths[0])
    lengths = [scores.shape[1] for scores in routes.scores]
    runs = iter(1 - routes.skips().mean(axis=0))  # how often each iteration runs a unit, module by module
    units = [round(sum(float(next(runs)) for _ in range(length))) for length in lengths]
    return "" if units == lengths else STATIC + "-".join(map(str, units))
