"""Runs the paper's tables, row by row, and writes them with our figures beside the paper's.

    python recipes/reproduce.py --table 2                                   # on digits, to see it work
    python recipes/reproduce.py --table 2 --rows 1 2 4 --preset fast        # CIFAR-10, trainings of 15 passes
    python recipes/reproduce.py --table 2 --rows 1 2 4 --preset paper       # CIFAR-10, at full length: needs a GPU
    python recipes/reproduce.py --preset paper --scale 0.01 --time-limit 3000

What is missing is run, what was cut off goes on, what is done is kept; rows share the networks that they start from. A
run that a time limit ends has lost less than an epoch. The work directory may be copied to another machine: the same
command goes on there. Where that one has the code but no git repository, `RESET_COMMIT` names its commit. Each run
leaves its log, its metrics and the networks of its rows; results go into `results/table*_DATASET.csv`, a line for each
row and seed, and from there into `recipes/README.md`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

from config import FAST, Settings, fail, flag, parse
from deadline import Deadline
from paper import EXPERIMENTS, RESNET38, Row, experiments_of, networks_to_keep, rows_of

RECIPES = pathlib.Path(__file__).parent
ROOT = RECIPES.parent
CODE = ("reset_keras", "recipes/*.py", "requirements.txt")
"""What results depend on, as git takes it: not the tables, which this command writes itself."""


@dataclasses.dataclass(frozen=True)
class ReproduceConfig(Settings):
    """Settings of the reproduction."""

    table: tuple[str, ...] = flag(("1", "2", "3"), "tables of the paper", choices=("1", "2", "3"))
    rows: tuple[int, ...] = flag((), "rows of the table, where it is one; a row's baseline comes with it", least=1)
    seeds: int = flag(1, "runs of each experiment, with seeds from 0", least=1)
    scale: float = flag(1.0, "factor on the length of every training", above=0)
    time_limit: float | None = flag(
        None, "after which the command ends, to go on another time", unit="seconds", above=0
    )
    resnet: str | None = flag(None, "a trained ResNet for the rows that start from one, instead of training row 1")
    results: str = flag(str(ROOT / "results"), "folder that the CSV files go to")
    readme: str = flag(str(RECIPES / "README.md"), "file that the tables go to")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of an experiment with a seed.

    Args:
        config: Settings of the reproduction.
        experiment: Name of the experiment.
        seed: Integer.
    """

    config: ReproduceConfig
    experiment: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its work directory, which lies in that of the reproduction."""
        scale = "" if self.config.scale == 1 else f"-scale{self.config.scale:g}"
        start = "-from-" + re.sub(r"\W+", "-", self.given).strip("-") if self.given else ""
        return f"{self.config.preset}{scale}/{self.experiment}{start}-seed{self.seed}"

    @property
    def workdir(self) -> pathlib.Path:
        """Its work directory."""
        return pathlib.Path(self.config.workdir, self.name)

    @property
    def flags(self) -> list[str]:
        """Flags of its recipe. Paths are relative to the reproduction's work directory, so that it can be moved."""
        experiment = EXPERIMENTS[self.experiment]
        flags = ["--preset", self.config.preset, "--workdir", self.name, "--seed", str(self.seed), *experiment.flags]
        if self.config.scale != 1:
            of_preset = FAST["epochs_scale"] if self.config.preset == "fast" else 1.0
            flags += ["--epochs-scale", f"{self.config.scale * of_preset:g}"]
        return [*flags, *(["--pretrained", self._network()] if experiment.pretrained else [])]

    @property
    def given(self) -> str:
        """The given ResNet that it starts from, or an empty string."""
        return self.config.resnet or "" if EXPERIMENTS[self.experiment].pretrained == RESNET38 else ""

    @property
    def source(self) -> Run | None:
        """The run whose network it starts from."""
        pretrained = EXPERIMENTS[self.experiment].pretrained
        return None if pretrained is None or self.given else Run(self.config, pretrained[0], self.seed)

    def _network(self) -> str:
        """The network that it starts from: the given one, or that of another run."""
        pretrained = EXPERIMENTS[self.experiment].pretrained
        if pretrained is None or self.source is None:
            given = pathlib.Path(self.given)
            return str(given.absolute() if given.exists() else given)
        return str(next(self.source.networks(pretrained[1])).relative_to(self.config.workdir))

    def networks(self, stage: str) -> Iterator[pathlib.Path]:
        """The file of a stage's network, if it is there."""
        return self.workdir.glob(f"stages/*-{stage}/model.keras")

    @property
    def lacks(self) -> str:
        """What it cannot start without, as text; empty where nothing is missing."""
        pretrained = EXPERIMENTS[self.experiment].pretrained
        if self.source is None or pretrained is None:
            return ""
        if not self.source.done:
            return f"{self.source.name} is not done"
        return (
            "" if any(self.source.networks(pretrained[1])) else f"{self.source.name} lacks its {pretrained[1]} network"
        )

    @property
    def provenance(self) -> pathlib.Path:
        """The file that says that the run is done: command, commit, date."""
        return self.workdir / "provenance.json"

    @property
    def commits(self) -> pathlib.Path:
        """The file with the commits by which it has been carried out so far, a line each."""
        return self.workdir / "commits.txt"

    @property
    def done(self) -> bool:
        """Whether the run is done."""
        return self.provenance.exists()


def main(config: ReproduceConfig) -> None:
    """Runs what is missing, writes the tables, and ends with exit code 1 if a run failed, 128 + n by a signal n."""
    if config.rows and len(config.table) > 1:
        fail(f"--rows are those of one table; received --table {' '.join(config.table)}: give one of them")
    try:
        rows = [row for table in config.table for row in rows_of(int(table), config.rows)]
    except ValueError as error:
        fail(str(error))
    deadline = Deadline(config.time_limit)
    runs = [run for seed in range(config.seeds) for run in runs_of(config, rows, seed)]
    failed = run_all(runs, deadline)
    write_tables(config, rows)
    left = [run.name for run in runs if not run.done]
    print(f"{len(runs) - len(left)} of {len(runs)} runs are done. Tables: {config.readme}")
    if left:
        print(f"Left: {', '.join(left)}. The same command goes on.")
    if deadline.exit_code or failed:
        raise SystemExit(deadline.exit_code or 1)


def runs_of(config: ReproduceConfig, rows: list[Row], seed: int) -> list[Run]:
    """The runs that make these rows, each after the one that it starts from; a given ResNet is not trained."""
    names = [name for name in experiments_of(rows) if name != RESNET38[0] or not config.resnet]
    return [Run(config, name, seed) for name in names]


def run_all(runs: list[Run], deadline: Deadline) -> list[Run]:
    """Carries out the runs that are not done, one after the other, and returns those that failed."""
    failed: list[Run] = []
    for index, run in enumerate(runs):
        if run.done:
            continue
        if deadline.reached:
            break
        if run.lacks:
            print(f"[{index + 1}/{len(runs)}] {run.name}: not run, as {run.lacks}", flush=True)
            continue
        print(f"[{index + 1}/{len(runs)}] {run.name}", flush=True)
        code = carry_out(run, deadline)
        if code == 0:
            finish(run)
        elif not deadline.reached:
            print(f"  failed with exit code {code}; see {run.workdir / 'log.txt'}", flush=True)
            failed.append(run)
    return failed


def carry_out(run: Run, deadline: Deadline) -> int:
    """Starts a run's recipe, shows the stages that it ends, and returns its exit code; at the deadline it is ended."""
    run.workdir.mkdir(parents=True, exist_ok=True)
    note_commit(run)
    command = [sys.executable, str(RECIPES / f"{EXPERIMENTS[run.experiment].recipe}.py"), *run.flags]
    data = os.environ.get("TFDS_DATA_DIR")
    environment = {**os.environ, **({"TFDS_DATA_DIR": str(pathlib.Path(data).absolute())} if data else {})}
    with (
        (run.workdir / "log.txt").open("a") as log,
        subprocess.Popen(
            command,
            cwd=run.config.workdir,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
        deadline.ends(process),
    ):
        for line in process.stdout or ():
            log.write(line)
            if line.startswith("["):
                print(f"  {line.rstrip()}", flush=True)
        return process.wait()


def finish(run: Run) -> None:
    """Notes where a run's results come from, and drops the networks that no row needs."""
    keep = networks_to_keep(run.experiment)
    for network in run.workdir.glob("stages/*/model.keras"):
        if network.parent.name.partition("-")[2] not in keep:
            network.unlink()
    command = shlex.join(["python", f"recipes/{EXPERIMENTS[run.experiment].recipe}.py", *run.flags])
    date = datetime.now(UTC).date().isoformat()
    commits = " ".join(run.commits.read_text().split())
    provenance = {"resnet": run.given, "command": command, "commit": commits, "date": date}
    partial = run.provenance.with_suffix(".partial")
    partial.write_text(json.dumps(provenance, indent=2) + "\n")
    partial.replace(run.provenance)  # it says that the run is done: whole, or not there


def note_commit(run: Run) -> None:
    """Adds the code's commit to those by which the run has been carried out, piece by piece."""
    commits = run.commits.read_text().split() if run.commits.exists() else []
    if commit() not in commits:
        run.commits.write_text("\n".join([*commits, commit()]) + "\n")


def commit() -> str:
    """The commit, with `+` where the code differs from it; outside a git repository what `RESET_COMMIT` says it is."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True, stderr=subprocess.DEVNULL)
        changes = subprocess.check_output([*git, "status", "--porcelain", "--", *CODE], text=True)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("RESET_COMMIT", "unknown")
    return head.strip() + ("+" if changes.strip() else "")


def write_tables(config: ReproduceConfig, rows: list[Row]) -> None:
    """Adds what the runs have measured to the CSV files, and writes all of these into the README."""
    from results_table import collect, merge, write_readme

    lines = []
    for seed in range(config.seeds):
        workdirs = {run.experiment: run.workdir for run in runs_of(config, rows, seed) if run.done}
        lines += [collect(row, seed, config.preset, config.scale, workdirs) for row in rows]
    merge(pathlib.Path(config.results), filter(None, lines))
    write_readme(pathlib.Path(config.results), pathlib.Path(config.readme))


if __name__ == "__main__":
    main(parse(ReproduceConfig, __doc__))
