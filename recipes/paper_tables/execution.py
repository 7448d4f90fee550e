"""Carries out runs one after the other, each in a process, and notes by which commit."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import subprocess
import sys
from datetime import UTC, datetime

from paper_tables.controls import ROUTE_CONTROLS, routed_networks, with_controls
from paper_tables.deadline import Deadline
from paper_tables.paper import experiment_of, networks_to_keep
from paper_tables.run import Run
from paper_tables.settings import RECIPES, ROOT

# In git's patterns * also stands for slashes, so that the packages in recipes/ are included.
CODE = ("reset_keras", "recipes/*.py", "pyproject.toml")
"""What results depend on, as git takes it: not the tables, which are written next to it."""


def run_all(runs: list[Run], deadline: Deadline) -> list[Run]:
    """Carries out the runs that are not done, one after the other, and returns those that failed."""
    failed: list[Run] = []
    places = {run: f"[{place}/{len(runs)}]" for place, run in enumerate(runs, start=1)}
    for run in with_controls(runs):
        if run.done:
            continue
        if deadline.reached:
            break
        if why := run.lacks or _of_another_command(run):
            print(f"{places.get(run, '[control]')} {run.name}: not run, as {why}", flush=True)
            failed += [] if run.lacks else [run]
            continue
        print(f"{places.get(run, '[control]')} {run.name}", flush=True)
        note_begin(run)
        code = carry_out(run, [f"{experiment_of(run.experiment).recipe}.py", *run.flags], deadline)
        if code == 0 and measure_routes(run, deadline):
            finish(run)
        elif not deadline.reached:
            print(f"  failed with exit code {code}; see {run.workdir / 'log.txt'}", flush=True)
            failed.append(run)
    return failed


def carry_out(run: Run, command: list[str], deadline: Deadline) -> int:
    """Runs a recipe for a run, shows the stages that end, and returns its exit code; at the deadline it is ended."""
    # The process has another working directory, where a relative path would lead nowhere.
    data = os.environ.get("TFDS_DATA_DIR")
    environment = {**os.environ, **({"TFDS_DATA_DIR": str(pathlib.Path(data).absolute())} if data else {})}
    with (
        (run.workdir / "log.txt").open("a") as log,
        subprocess.Popen(
            [sys.executable, str(RECIPES / command[0]), *command[1:]],
            cwd=run.config.workdir,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
        deadline.ends(process, run.config.pause),
    ):
        for line in process.stdout or ():
            log.write(line)
            if line.startswith("["):
                print(f"  {line.rstrip()}", flush=True)
        return process.wait()


def measure_routes(run: Run, deadline: Deadline) -> bool:
    """Measures what the routes of a run's networks are worth, and returns whether there was time for it.

    Networks whose routes cannot be given to other images, as those that halt, are left out, which the log tells.
    """
    networks = [str(network.relative_to(run.config.workdir)) for network in routed_networks(run)]
    output = run.workdir / ROUTE_CONTROLS
    if not networks or output.exists():
        return True
    dataset = json.loads((run.workdir / "config.json").read_text())["dataset"]
    flags = ["--dataset", dataset, "--output", f"{run.name}/{ROUTE_CONTROLS}", "--network", *networks]
    code = carry_out(run, ["route_controls.py", *flags], deadline)
    if code and not deadline.reached:
        print(f"  some networks were not run along other routes; see {run.workdir / 'log.txt'}", flush=True)
    return output.exists() or not deadline.reached


def finish(run: Run) -> None:
    """Notes where a run's results come from, and drops the networks that no row needs."""
    from reset_keras.atomic_write import write_json

    keep = networks_to_keep(run.experiment)
    for network in run.workdir.glob("stages/*/model.keras"):
        if network.parent.name.partition("-")[2] not in keep:
            network.unlink()
    begun = json.loads(run.begun.read_text())
    write_json(run.provenance, {**begun, "date": today()})  # it says that the run is done: whole, or not there


def note_begin(run: Run) -> None:
    """Notes where results of the run come from so far: its rows count as soon as their stages have ended."""
    commits = json.loads(run.begun.read_text())["commit"].split() if run.begun.exists() else []
    run.workdir.mkdir(parents=True, exist_ok=True)
    commits = " ".join(dict.fromkeys([*commits, commit()]))  # it is carried out piece by piece
    begun = {"start": run.given, "command": _command(run), "commit": commits, "date": today()}
    temporary = run.begun.with_suffix(".new")  # whole, or not there; `write_json` would load the library first
    temporary.write_text(json.dumps(begun))
    temporary.replace(run.begun)


def _of_another_command(run: Run) -> str:
    """That a run was begun by another command, whose results must not pass for this one's; else an empty string."""
    if not run.begun.exists():
        return ""
    begun = json.loads(run.begun.read_text())["command"]
    same = begun == _command(run)
    return "" if same else f"{run.workdir} was begun by another command, {begun}: move it away to have it run again"


def _command(run: Run) -> str:
    return shlex.join(["python", f"recipes/{experiment_of(run.experiment).recipe}.py", *run.flags])


def today() -> str:
    """The date, in UTC."""
    return datetime.now(UTC).date().isoformat()


def commit() -> str:
    """The commit, with `+` where the code differs from it; outside a git repository what `RESET_COMMIT` says it is."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True, stderr=subprocess.DEVNULL)
        changes = subprocess.check_output([*git, "status", "--porcelain", "--", *CODE], text=True)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("RESET_COMMIT", "unknown")
    return head.strip() + ("+" if changes.strip() else "")
