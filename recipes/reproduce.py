"""Runs the paper's tables, row by row, and writes them with our figures beside the paper's.

    python recipes/reproduce.py --table 2                                   # on digits, to see it work
    python recipes/reproduce.py --table 2 --rows 1 2 4 --preset fast        # CIFAR-10, trainings of 20 passes
    python recipes/reproduce.py --table 2 --rows 1 2 4 --preset paper       # CIFAR-10, at full length: needs a GPU
    python recipes/reproduce.py --preset paper --scale 0.01 --time-limit 3000

What is missing is run, what was cut off goes on, what is done is kept; rows share the networks that they start from. A
run that a time limit ends has lost less than an epoch. The work directory may be copied to another machine: the same
command goes on there. Where that one has the code but no git repository, `RESET_COMMIT` names its commit. Each run
leaves its log, its metrics and the networks of its rows; results go into `results/table*_DATASET.csv`, a line for each
row and seed, and from there into `recipes/README.md`.
"""

from __future__ import annotations

import pathlib

from experiment.config import fail, parse
from paper_tables.deadline import Deadline
from paper_tables.execution import run_all
from paper_tables.paper import RESNET38, Row, experiments_of, rows_of
from paper_tables.run import Run
from paper_tables.settings import ReproduceConfig


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


def write_tables(config: ReproduceConfig, rows: list[Row]) -> None:
    """Adds what the runs have measured to the CSV files, and writes all of these into the README."""
    from paper_tables.results_table import collect, merge, write_readme

    lines = []
    for seed in range(config.seeds):
        workdirs = {run.experiment: run.workdir for run in runs_of(config, rows, seed) if run.done}
        lines += [collect(row, seed, config.preset, config.scale, workdirs) for row in rows]
    merge(pathlib.Path(config.results), filter(None, lines))
    write_readme(pathlib.Path(config.results), pathlib.Path(config.readme))


if __name__ == "__main__":
    main(parse(ReproduceConfig, __doc__))
