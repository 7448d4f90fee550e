"""Settings of the search."""

from typing import ClassVar

from experiment.config import RecipeConfig, flag

SCORERS = ("softmax", "gumbel_softmax", "gumbel_st")


class TuneConfig(RecipeConfig):
    """Settings of the search."""

    tuner: str = flag("bayesian", "how hyperparameters are chosen", choices=("bayesian", "hyperband", "random"))
    trials: int | None = flag(
        None, "largest number of trials; none: 10, and with Hyperband as many as one round of it has", least=1
    )
    train_steps: int = flag(100, "length of a trial", paper=8_000, unit="batches", least=1)
    compute_limit: float = flag(1.1, "compute fraction beyond which the objective falls", above=0)
    scorers: tuple[str, ...] = flag(SCORERS, "scorers to choose from", choices=SCORERS)
    units: tuple[int, ...] = flag((2, 2), "units, and iterations, of each module", paper=(5, 5, 5), least=1)
    strategy: str = flag(
        "auto",
        "mirrored trains on all devices of this machine, auto does where there are several GPUs",
        choices=("auto", "none", "mirrored"),
    )
    distributed: str = flag("", "this process's part in a shared search: chief, worker0, ...; empty: not shared")
    chief_address: str = flag("", "where the chief of a shared search listens, HOST:PORT")

    REPLACEABLE: ClassVar[tuple[str, ...]] = (*RecipeConfig.REPLACEABLE, "distributed", "chief_address")
