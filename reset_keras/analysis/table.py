from typing import Any

from rich.console import Console
from rich.table import Table

TEST_NAMES = {"test": "Test", "cifar10_1_v4": "C10.1 v4", "cifar10_1_v6": "C10.1 v6"}


def columns(rows: list[dict[str, Any]]) -> list[str]:
    """Headings of a run's table: one accuracy for each test set."""
    accuracies = [f"{TEST_NAMES.get(name, name)} %" for name in names_of_tests(rows)]
    return ["Step", "Stage", *accuracies, "Compute", "Skipped %", "Entropy", "Time"]


def names_of_tests(rows: list[dict[str, Any]]) -> list[str]:
    """Names of the test sets of all rows: a run that goes on elsewhere may find more of them at hand, or fewer."""
    return list(dict.fromkeys(name for row in rows for name in row["accuracy"]))


def cells(row: dict[str, Any], tests: list[str]) -> list[str]:
    """A stage's row as text, under the `columns` of a table with these test sets."""
    accuracies = [f"{100 * row['accuracy'][name]:.2f}" if name in row["accuracy"] else "-" for name in tests]
    entropy = "-" if row["policy_entropy"] is None else f"{row['policy_entropy']:.3f}"
    return [
        row["paper_steps"],
        row["stage"],
        *accuracies,
        f"{row['compute_fraction']:.3f}",
        f"{100 * row['skip_fraction']:.1f}",
        entropy,
        f"{row['relative_time']:.2f}x",
    ]


NOTE = (
    "Step: of the paper's pipeline (0 is before it, 9 a finetuning after it), or a row or section of the paper. "
    "Compute: MACs of the units scored above zero, and of all else, over the ResNet's. Skipped: iterations without a "
    "unit. Entropy: mean of the policies, in nats. Time: measured inference of 128 images by the frozen network, which "
    "skips what is not chosen, over the frozen ResNet's."
)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints a run's table, a row for each stage.

    Args:
        rows: What `rk.training.Pipeline.run` returned: a dict for each stage, with the keys `"paper_steps"`, `"stage"`,
            `"accuracy"` (by test set), `"compute_fraction"`, `"skip_fraction"`, `"policy_entropy"` (`None` without
            routes) and `"relative_time"`.

    Examples:
        >>> row = {"paper_steps": "0", "stage": "pretrain", "accuracy": {"test": 0.98}, "compute_fraction": 1.0}
        >>> print_table([row | {"skip_fraction": 0.0, "policy_entropy": None, "relative_time": 1.0}])
        ... # doctest: +ELLIPSIS
        ┏━...
    """
    table = Table(caption=NOTE, caption_justify="left")
    for index, heading in enumerate(columns(rows)):
        table.add_column(heading, justify="left" if index < 2 else "right")
    for row in rows:
        table.add_row(*cells(row, names_of_tests(rows)))
    Console().print(table)
