"""Settings of the reproduction."""

import pathlib

from experiment.config import Settings, flag
from paper_tables.paper import RESNET38, SOFTMAX, TABLES

RECIPES = pathlib.Path(__file__).parents[1]
ROOT = RECIPES.parent
GIVEN = {RESNET38: "resnet", SOFTMAX: "softmax"}
"""Networks that a setting can give, by experiment and stage, and that setting."""


class ReproduceConfig(Settings):
    """Settings of the reproduction."""

    table: tuple[str, ...] = flag(
        ("1", "2", "3"), "tables of the paper, and systems, those that ReSet stands beside", choices=tuple(TABLES)
    )
    rows: tuple[int, ...] = flag((), "rows of the table, where it is one; a row's baseline comes with it", least=1)
    seeds: int = flag(1, "runs of each experiment, with seeds from 0", least=1)
    scale: float = flag(1.0, "factor on the length of every training", above=0)
    time_limit: float | None = flag(
        None, "after which the command ends, to go on another time", unit="seconds", above=0
    )
    resnet: str | None = flag(None, "a trained ResNet for the rows that start from one, instead of training row 1")
    softmax: str | None = flag(
        None, "a trained softmax-routed ReSet for the rows that start from one, instead of training row 2"
    )
    queue: bool = flag(
        False, "run the rows of all tables, those first that matter most, and then some of them with further seeds"
    )
    collect: bool = flag(False, "run nothing: bring what is done into the tables of this clone")
    results: str = flag(
        "",
        "folder that the CSV files go to; empty: `results`, of this clone with --collect, else of the work directory",
    )
    readme: str = flag(
        "",
        "file that the tables go to; empty: `recipes/README.md` of this clone with --collect, else `tables/README.md`",
    )

    def given(self, network: tuple[str, str] | None) -> str:
        """The file or name of a network, by its experiment and stage, that a setting gives; else an empty string."""
        return getattr(self, GIVEN[network]) or "" if network in GIVEN else ""

    @property
    def results_folder(self) -> pathlib.Path:
        """The folder that the CSV files go to."""
        return pathlib.Path(self.results or self._place / "results")

    @property
    def readme_file(self) -> pathlib.Path:
        """The file that the tables go to."""
        return pathlib.Path(self.readme or self._place / ("recipes" if self.collect else "tables") / "README.md")

    @property
    def _place(self) -> pathlib.Path:
        """Only --collect changes the clone's own tables, which others' rows stand in."""
        return ROOT if self.collect else pathlib.Path(self.workdir)

    @property
    def pause(self) -> pathlib.Path:
        """The file that pauses what is run, while it is there."""
        return pathlib.Path(self.workdir, "pause")
