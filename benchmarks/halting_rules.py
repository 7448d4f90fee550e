"""Compares rules by which images halt, on training images that were held out.

    python benchmarks/halting_rules.py runs/any_budget-fast/stages/01-any_budget/model.keras

All rules look at what the classifier would say after each unit of the last module. A rule's settings (units of each
module, threshold) are chosen on one half of the images and tested on the other, and the reverse, so that a rule with
more settings gets no better by that. The table has the accuracy at some mean compute fractions.
"""

import argparse
import functools
import itertools
from collections.abc import Callable, Iterator

import keras
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import reset_keras as rk
from reset_keras.inference import outputs_at_every_depth
from reset_keras.models.operations import count_operations

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 2.0)
COSTS = (0.3, 0.35, 0.4, 0.5, 0.6, 0.7)
Candidate = tuple[np.ndarray, np.ndarray]
"""One setting of a rule: the compute fraction of each image, and whether it is classified right."""


def sure(probabilities: np.ndarray) -> np.ndarray:
    """The classifier's largest probability: the rule that networks have. All are of shape `(images, depths)`."""
    return probabilities.max(axis=-1)


def ahead(probabilities: np.ndarray) -> np.ndarray:
    """What the largest probability is ahead of the second by."""
    second, first = np.moveaxis(np.sort(probabilities, axis=-1)[..., -2:], -1, 0)
    return first - second


def sure_twice(probabilities: np.ndarray) -> np.ndarray:
    """The largest probability of the mean of this depth and the one before."""
    return sure((probabilities + np.concatenate([probabilities[:, :1], probabilities[:, :-1]], axis=1)) / 2)


def agreed(probabilities: np.ndarray) -> np.ndarray:
    """The largest probability where the depth before says the same, else 0."""
    said = probabilities.argmax(axis=-1)
    return sure(probabilities) * np.concatenate([said[:, :1] >= 0, said[:, 1:] == said[:, :-1]], axis=1)


def never(probabilities: np.ndarray) -> np.ndarray:
    """No image halts: the same units for all."""
    return np.zeros(probabilities.shape[:2])


RULES = (never, sure, ahead, sure_twice, agreed)


class Halting:
    """What each image costs, and whether it is right, when it halts by some rule.

    Args:
        model: A network of every budget.
        images: Array of normalized images.
        labels: Integer array of shape `(images,)`.
    """

    def __init__(self, model: rk.ReSetNet, images: np.ndarray, labels: np.ndarray) -> None:
        logits = outputs_at_every_depth(model, images).astype("float64")
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        self.probabilities = odds / odds.sum(axis=-1, keepdims=True)
        self.right = logits.argmax(axis=-1) == labels.reshape(-1, *[1] * (logits.ndim - 2))
        operations = count_operations(model.network, model.routed_modules)
        self.units = [costs[0] / operations.static for costs in operations.units]
        self.least = (operations.fixed + operations.controllers) / operations.static
        self.entrance = 0.75 * self.units[-1]  # a stage's first block: its first convolution costs half

    @functools.cache  # noqa: B019 - asked for the same thousands of times
    def stops(self, before: tuple[int, ...], rule: Callable, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """For each most units of the last module, how many each image runs, and whether the rule stopped it by then."""
        halts = rule(self.probabilities[:, *before]) >= threshold
        first = np.where(halts.any(axis=1), halts.argmax(axis=1), halts.shape[1])
        depths = np.arange(halts.shape[1])[:, None]
        return np.minimum(first, depths), first <= depths

    def by_rule(self, rule: Callable) -> Iterator[Candidate]:
        """All settings of a rule."""
        images = np.arange(len(self.right))
        for before in np.ndindex(*self.right.shape[1:-1]):
            cost = self.least + np.dot(before, self.units[:-1])
            for threshold in THRESHOLDS[-1:] if rule is never else THRESHOLDS:
                for depth in self.stops(before, rule, threshold)[0]:
                    yield cost + depth * self.units[-1], self.right[images, *before, depth]

    def second_look(self) -> Iterator[Candidate]:
        """Images that are not sure at the end run again from where more units of an earlier module begin."""
        images = np.arange(len(self.right))
        units = np.array(self.units[:-1])
        firsts, seconds = itertools.product((0, 1), (0, 1, 2)), itertools.product((0, 1, 2, 3, 5), (2, 3, 4, 5))
        pairs = itertools.product(map(np.array, firsts), map(np.array, seconds))
        most_of_all = np.array(self.right.shape[1:-1]) - 1
        deeper = [pair for pair in pairs if is_deeper(*pair) and (pair[1] <= most_of_all).all()]
        ends = (THRESHOLDS[3:-1:2], (2, 3, 4), (0.9, 0.97, 2.0), (-1, -2))
        for (first, second), (threshold, most, later, end) in itertools.product(deeper, [*itertools.product(*ends)]):
            depths, stopped = (found[most] for found in self.stops(tuple(first), sure, threshold))
            again, last = ~stopped, self.stops(tuple(second), sure, later)[0][end]
            from_first = second[0] != first[0]
            kept = np.array([first[0], 0 if from_first else first[1]])  # what the second run need not compute again
            more = (second - kept) @ units + self.entrance * (2 if from_first else 1) + last * self.units[-1]
            cost = self.least + first @ units + depths * self.units[-1] + again * more
            before, depths = np.where(again, second[:, None], first[:, None]), np.where(again, last, depths)
            yield cost, self.right[images, *before, depths]


def is_deeper(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether a second run has more units of some module, and fewer of none."""
    return bool((second >= first).all() and (second > first).any())


def accuracies(candidates: Iterator[Candidate]) -> list[tuple[float, float] | None]:
    """For each of `COSTS`, what is spent and the accuracy, of the setting that is best on the other half.

    `None` where no setting is as cheap.
    """
    halves = (slice(0, None, 2), slice(1, None, 2))
    means = np.array([[[x[half].mean() for x in candidate] for half in halves] for candidate in candidates])
    found: list[tuple[float, float] | None] = []
    for cost in COSTS:
        if means[:, :, 0].min(axis=0).max() > cost:
            found.append(None)
            continue
        results = []
        for chosen_on, tested_on in ((0, 1), (1, 0)):
            affordable = np.where(means[:, chosen_on, 0] <= cost, means[:, chosen_on, 1], -1)
            results.append(means[affordable.argmax(), tested_on])
        spent, accuracy = np.mean(results, axis=0)
        found.append((float(spent), float(accuracy)))
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="a .keras file, or a name of rk.models.PRESETS")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--held-out", type=int, default=5000)
    arguments = parser.parse_args()
    is_preset = arguments.network in rk.models.PRESETS
    load = rk.models.from_preset if is_preset else keras.models.load_model
    dataset = rk.data.hold_out(rk.data.load_dataset(arguments.dataset), arguments.held_out)
    halting = Halting(load(arguments.network), dataset.normalize(dataset.test.images), dataset.test.labels)
    table = Table("rule", *map(str, COSTS), box=box.MARKDOWN)
    for rule in RULES:
        table.add_row(rule.__name__, *map(shown, accuracies(halting.by_rule(rule))))
    if len(halting.units) == 3:
        table.add_row("second_look", *map(shown, accuracies(halting.second_look())))
    Console(width=120).print(table)


def shown(result: tuple[float, float] | None) -> str:
    """Accuracy and cost."""
    return "" if result is None else f"{100 * result[1]:.2f} at {result[0]:.2f}"


if __name__ == "__main__":
    main()
