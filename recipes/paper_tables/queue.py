"""The order in which rows matter, for a machine that trains them in the background."""

from __future__ import annotations

from paper_tables.paper import Row, experiments_of, rows_of
from paper_tables.run import Run
from paper_tables.settings import GIVEN, ReproduceConfig

ORDER = (
    ("2", (1, 2, 4, 7, 8, 9, 10, 11, 13, 14, 15, 16, 18, 19, 20, 3, 5, 6, 12, 17), (0,)),
    ("1", (1, 2, 3, 4, 5, 6), (0,)),
    ("3", (1, 2, 3, 4, 5), (0,)),
    ("2", (1, 2, 4, 7, 13, 14, 15, 16), (1, 2)),
    ("systems", tuple(row.number for row in rows_of("systems")), (0, 1, 2)),
)
"""Tables, their rows, and the seeds of these."""
SEEDS = 1 + max(seed for *_, seeds in ORDER for seed in seeds)


def queued_runs(config: ReproduceConfig) -> list[Run]:
    """The runs of all tables, those first that matter most, each after the one that it starts from."""
    rows = [
        (rows_of(table, (number,)), seed) for table, numbers, seeds in ORDER for seed in seeds for number in numbers
    ]
    return list(dict.fromkeys(run for group, seed in rows for run in runs_of(config, group, seed)))


def runs_of(config: ReproduceConfig, rows: list[Row], seed: int) -> list[Run]:
    """The runs that make these rows, each after the one that it starts from; a given network is not trained."""
    given = {experiment for experiment, stage in GIVEN if config.given((experiment, stage))}
    return [Run(config, name, seed) for name in experiments_of(rows) if name not in given]
