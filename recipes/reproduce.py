"""Runs the paper's tables, row by row, and a table of other systems; writes our figures beside the paper's.

    python recipes/reproduce.py --table 2                                   # on digits, to see it work
    python recipes/reproduce.py --table 2 --rows 1 2 4 --preset fast        # CIFAR-10, trainings of 20 passes
    python recipes/reproduce.py --table 2 --rows 1 2 4 --preset paper       # CIFAR-10, at full length: needs a GPU
    python recipes/reproduce.py --preset paper --time-limit 3000            # ends in time, to go on later
    python recipes/reproduce.py --table systems --seeds 3                   # ReSet beside SkipNet, ACT and others
    python recipes/reproduce.py --table 2 --rows 18 --preset fast --softmax reset38_softmax_cifar10
    nice -n 19 python recipes/reproduce.py --preset fast --queue            # all rows, in the background, for days
    python recipes/reproduce.py --preset fast --queue --collect             # what it has finished, into the tables

A run whose networks have routes also runs them along the routes of other images, and along one for all; and where a row
of the paper's tables skips, a static ResNet of its cost is trained after it.

Finished rows are kept, interrupted ones go on; a row counts when its stage has ended, also within a longer run; rows
share the networks that they start from. A run that the time limit ends loses less than one epoch. While there is a file
`pause` in the work directory, training waits, so that something else can be measured. The work directory may be copied
to another machine: the same command goes on there. If that machine has the code but no git repository, set
`RESET_COMMIT` to its commit. Each run leaves its log, its metrics and the networks of its rows; results go into
`results/table*_DATASET.csv` and `results/systems_DATASET.csv` of the work directory, a line for each row and seed, and
from there into `tables/README.md`. The systems' accuracy over operations is drawn into
`results/figures/systems_DATASET.svg`. With `--collect` all three are those of the clone, and the tables are in
`recipes/README.md`.
"""

from __future__ import annotations

import pathlib

from experiment.config import fail, parse
from paper_tables.controls import SHORTER, static_controls, with_controls
from paper_tables.deadline import Deadline
from paper_tables.execution import run_all
from paper_tables.given import check_given
from paper_tables.paper import ROWS, Row, experiments_of, rows_of
from paper_tables.queue import SEEDS, queued_runs, runs_of
from paper_tables.run import Run
from paper_tables.settings import ReproduceConfig


def main(config: ReproduceConfig) -> None:
    """Runs what is missing, writes the tables, and ends with exit code 1 if a run failed, 128 + n by a signal n."""
    if config.queue and (config.rows or config.seeds != 1 or config.table != ReproduceConfig.table):
        fail("--queue sets tables, rows and seeds itself: leave out --table, --rows and --seeds")
    if config.rows and len(config.table) > 1:
        fail(f"--rows are those of one table; received --table {' '.join(config.table)}: give one of them")
    try:
        rows = ROWS if config.queue else [row for table in config.table for row in rows_of(table, config.rows)]
    except ValueError as error:
        fail(str(error))
    check_places(config, rows)
    deadline = Deadline(config.time_limit)
    if config.time_limit is not None:
        # Now, as at the end there is time for no more than to write.
        import paper_tables.readme
        import paper_tables.results_table
        import paper_tables.systems_figure  # noqa: F401
    seeds = SEEDS if config.queue else config.seeds
    runs = queued_runs(config) if config.queue else [r for seed in range(seeds) for r in runs_of(config, rows, seed)]
    failed = [] if config.collect else run_all(runs, deadline)
    refused = write_tables(config, rows, seeds)
    runs = list(with_controls(runs))
    left = [run.name for run in runs if not run.done]
    print(f"{len(runs) - len(left)} of {len(runs)} runs are done. Tables: {config.readme_file}")
    if left:
        print(f"Left: {', '.join(left)}. {'Not run: --collect.' if config.collect else 'The same command goes on.'}")
    if refused:
        fail("; ".join(refused))
    if deadline.exit_code or failed:
        raise SystemExit(deadline.exit_code or 1)


def check_places(config: ReproduceConfig, rows: list[Row]) -> None:
    """Ends the process where files that the command needs are not there, or cannot be written later."""
    if not config.collect:
        check_given(config, rows)
    for folder in (pathlib.Path(config.workdir), config.results_folder, config.readme_file.parent):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fail(f"cannot make the folder {folder}: {error.strerror}")


def write_tables(config: ReproduceConfig, rows: list[Row], seeds: int) -> list[str]:
    """Adds what the runs have measured to the CSV files, and writes all of these into the README and the figures.

    Returns:
        Why runs were left out, a sentence for each.
    """
    # They load scipy, matplotlib and the library, which `--help` and mistakes in flags need not wait for.
    from paper_tables.readme import write_readme
    from paper_tables.results_table import collect, merge
    from paper_tables.systems_figure import write_systems_figures

    lines, refused = [], []
    for seed in range(seeds):
        # Not `runs_of`: a given network hides no run that is done from the rows that are compared with it.
        shorter = [SHORTER] if any(row.table == "systems" for row in rows) else []
        found = [Run(config, experiment, seed) for experiment in [*experiments_of(rows), *shorter]]
        found += [control for run in found if run.done for control in static_controls(run)]
        workdirs = {run.experiment: run.workdir for run in found if run.begun.exists() or run.done}
        for row in rows:
            try:
                lines.append(collect(row, seed, config.preset, config.scale, workdirs))
            except ValueError as error:
                refused.append(str(error))
    merge(config.results_folder, filter(None, lines))
    write_systems_figures(config.results_folder)
    write_readme(config.results_folder, config.readme_file)
    return list(dict.fromkeys(refused))


if __name__ == "__main__":
    main(parse(ReproduceConfig, __doc__))
