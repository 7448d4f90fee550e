"""The tables: each row with the paper's figures, and the experiment of ours that makes it.

An experiment is one run of a recipe; it may make several rows, and start from a network that another one trained.
"""

import dataclasses

from experiment.systems import SYSTEMS, last_stage

TABLES = {"1": "Table 1", "2": "Table 2", "3": "Table 3", "systems": "Systems"}
"""Headings, by the name that `--table` takes: the paper's tables by their numbers, and one of ours."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A run of a recipe.

    Args:
        recipe: Name of the recipe.
        flags: Its flags, beyond the preset.
        pretrained: Experiment and stage whose network it starts from, or `None`.
    """

    recipe: str
    flags: tuple[str, ...] = ()
    pretrained: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        table: Name of the table, in `TABLES`.
        number: Number of the row; its place in tables 1 and systems, which have no numbers.
        model: The paper's name of it, or the system's.
        experiment: Name of the experiment that makes it.
        stage: The experiment's stage whose network it is.
        accuracy: The paper's accuracy on CIFAR-10, in percent, or `None` where it has none. Default `None`.
        accuracy_10_1: The same on CIFAR-10.1. Default `None`.
        time: The paper's time relative to its baseline, or `None` where it has none. Default `None`.
        baseline: Number of the row that it is compared with; itself for a baseline. Default 1.
        strength: How strongly a system is pressed to compute less, or an empty string where nothing presses it. Default
            empty.
    """

    table: str
    number: int
    model: str
    experiment: str
    stage: str
    accuracy: float | None = None
    accuracy_10_1: float | None = None
    time: float | None = None
    baseline: int = 1
    strength: str = ""


RESNET38 = ("resnet38", "resnet")
SOFTMAX = ("softmax", "train")
ENTROPY = ("--entropy-across", "0.02")
ADAM = ("--optimizer", "adam")


def _flags(system: str) -> tuple[str, ...]:
    strengths = [f"{strength:g}" for strength in SYSTEMS[system].strengths]
    return ("--system", system, *(("--strengths", *strengths) if any(SYSTEMS[system].strengths) else ()))


EXPERIMENTS = {
    "resnet38": Experiment("resnet_baseline"),
    "softmax": Experiment("from_scratch"),
    "softmax_adam": Experiment("from_scratch", ADAM),
    "softmax_entropy": Experiment("from_scratch", ENTROPY),
    "softmax_entropy_adam": Experiment("from_scratch", (*ADAM, *ENTROPY)),
    "gumbel_softmax_entropy": Experiment("from_scratch", ("--scorer", "gumbel_softmax", *ENTROPY)),
    "gumbel_st": Experiment("from_scratch", ("--scorer", "gumbel_st")),
    "controller_only": Experiment("controller_only", pretrained=RESNET38),
    "relaxation": Experiment("relaxation", ("--skip-rewards", "0.02", "0.05", "0.1"), RESNET38),
    "batch_replication": Experiment("batch_replication", pretrained=RESNET38),
    **{f"top_{k}": Experiment("top_k", ("--k", str(k)), SOFTMAX) for k in (1, 2, 4)},
    **{f"shortened_{name}": Experiment("shortened", ("--architectures", name)) for name in ("1-1-5", "1-5-1", "5-1-1")},
    "pool_size": Experiment("pool_size"),
    **{f"systems_{name}": Experiment("systems", _flags(name), RESNET38) for name in SYSTEMS},
}
"""Each experiment stands after the one that it starts from."""
STATIC = "static_"
"""How the name of an experiment begins that trains a static control; its units follow: `static_2-0-5`."""


def _shortened(first: int, name: str, resnet: tuple[float, float], reset: tuple[float, float]) -> list[Row]:
    experiment = f"shortened_{name}"
    return [
        Row("1", first, f"ResNet {name}", experiment, f"resnet_{name}", *resnet, None, first),
        Row("1", first + 1, f"ReSet {name}", experiment, f"reset_{name}", *reset, None, first),
    ]


def _systems() -> list[Row]:
    cases = [(name, strength) for name, system in SYSTEMS.items() for strength in system.strengths]
    rows = [Row("systems", 1, "ResNet", *RESNET38)]
    for number, (name, strength) in enumerate(cases, start=2):
        stage, pressed = last_stage(name, strength), f"{strength:g}" if strength else ""
        rows.append(Row("systems", number, SYSTEMS[name].name, f"systems_{name}", stage, strength=pressed))
    return rows


ROWS = [
    *_shortened(1, "1-1-5", (88.7, 79.5), (88.9, 79.5)),
    *_shortened(3, "1-5-1", (87.0, 78.1), (88.0, 78.7)),
    *_shortened(5, "5-1-1", (86.5, 78.0), (87.1, 78.2)),
    Row("2", 1, "ResNet38 (baseline)", "resnet38", "resnet", 92.8, 83.8, 1.0),
    Row("2", 2, "SM", "softmax", "train", 91.9, 83.5, 1.92),
    Row("2", 3, "SM, Adam", "softmax_adam", "train", 89.9, 81.8, 2.0),
    Row("2", 4, "SM+ENTR", "softmax_entropy", "train", 92.1, 85.1, 1.92),
    Row("2", 5, "SM+ENTR, Adam", "softmax_entropy_adam", "train", 89.3, 79.5, 2.0),
    Row("2", 6, "GSM+ENTR", "gumbel_softmax_entropy", "train", 89.0, 80.8, 1.92),
    Row("2", 7, "GST", "gumbel_st", "train", 60.5, 54.1, 1.08),
    Row("2", 8, "SM pretr., Contr.", "controller_only", "rnn_softmax", 91.8, 81.9, 2.0),
    Row("2", 9, "GSM pretr. SM, Contr.", "controller_only", "gumbel_softmax", 91.8, 83.5, 2.0),
    Row("2", 10, "GST pretr. SM, Contr.", "controller_only", "gumbel_st", 66.5, 54.1, 1.0),
    Row("2", 11, "GST pretr. GSM, Contr.", "controller_only", "gumbel_st_relaxed", 70.1, 57.3, 1.0),
    Row("2", 12, "GST pretr. GSM", "batch_replication", "single", 68.3, 56.0, 1.0),
    Row("2", 13, "HybRL pretr GST", "relaxation", "hybrid_0.02", 60.7, 51.3, 0.88),
    Row("2", 14, "HybRL pretr GST", "relaxation", "hybrid_0.05", 48.8, 42.2, 0.79),
    Row("2", 15, "HybRL pretr GST", "relaxation", "hybrid_0.1", 35.3, 30.4, 0.71),
    Row("2", 16, "7 then finetune all", "relaxation", "finetune", 89.8, 79.9, 2.08),
    Row("2", 17, "GST pretr., batch rep. x4", "batch_replication", "replicated", 72.2, 60.9, 1.08),
    Row("2", 18, "SM pretr., top-k 1", "top_1", "top_1", 92.6, 83.9, 1.31),
    Row("2", 19, "SM pretr., top-k 2", "top_2", "top_2", 92.7, 84.1, 1.92),
    Row("2", 20, "SM pretr., top-k 4", "top_4", "top_4", 92.1, 83.7, 1.69),
    Row("3", 1, "ResNet baseline, 2 CU & 2 iters", "pool_size", "resnet", 86.1, 75.0),
    Row("3", 2, "ReSet, 6 CU & 2 iter", "pool_size", "reset_6x2", 87.2, 76.9, 1.0),
    Row("3", 3, "ReSet, 3 CU & 2 iters", "pool_size", "reset_3x2", 86.5, 78.4, 1.0),
    Row("3", 4, "ReSet, 2 CU & 3 iters", "pool_size", "reset_2x3", 86.4, 77.0, 1.08),
    Row("3", 5, "SM, 2 CU & 6 iters", "pool_size", "reset_2x6", 87.3, 77.0, 1.33),
    *_systems(),
]


def experiment_of(name: str) -> Experiment:
    """The experiment of a name: one of the tables', or the ResNet that is a static control."""
    if not name.startswith(STATIC):
        return EXPERIMENTS[name]
    return Experiment("resnet_baseline", ("--units", *name.removeprefix(STATIC).split("-")))


def rows_of(table: str, numbers: tuple[int, ...] = ()) -> list[Row]:
    """Rows of a table, all of them or those of the given numbers with their baselines.

    Raises:
        ValueError: the table has no such row.
    """
    rows = [row for row in ROWS if row.table == table]
    known = {row.number for row in rows}
    if not set(numbers) <= known:
        raise ValueError(f"table {table} has the rows {min(known)} to {max(known)}; received {sorted(numbers)}")
    wanted = known if not numbers else {*numbers, *(row.baseline for row in rows if row.number in numbers)}
    return [row for row in rows if row.number in wanted]


def file_of(table: str, dataset: str) -> str:
    """Name of the CSV file with a table's rows on a dataset."""
    return f"{TABLES[table].lower().replace(' ', '')}_{dataset}.csv"


def experiments_of(rows: list[Row]) -> list[str]:
    """Names of the experiments that make these rows and of those that they start from, in an order to run them in."""
    wanted = {row.experiment for row in rows}
    for name in reversed(EXPERIMENTS):
        pretrained = EXPERIMENTS[name].pretrained
        if name in wanted and pretrained is not None:
            wanted.add(pretrained[0])
    return [name for name in EXPERIMENTS if name in wanted]


def networks_to_keep(experiment: str) -> set[str]:
    """Stages of an experiment whose networks are rows of a table, or what another experiment starts from."""
    starts = {
        other.pretrained[1] for other in EXPERIMENTS.values() if other.pretrained and other.pretrained[0] == experiment
    }
    return starts | stages_of(experiment)


def stages_of(experiment: str) -> set[str]:
    """Stages of an experiment whose networks are rows of a table."""
    return {row.stage for row in ROWS if row.experiment == experiment}
