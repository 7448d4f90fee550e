"""Compares rules by which images halt, on training images that were held out.

    python benchmarks/halting_rules.py runs/any_budget-fast/stages/01-any_budget/model.keras

Rules look at what the classifier would say after each unit of the last module; one also asks a second classifier, at
the units of the module before. A rule's settings (units of each module, threshold) are chosen on one half of the images
and tested on the other, and the reverse, so that a rule with more settings gets no better by that. What a rule must
learn, it learns on the first half too. The table has the accuracy at some mean compute fractions.
"""

import argparse
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import clone  # noqa: F401
import reset_keras as rk
from reset_keras.inference.budgets.every_depth import BATCH_SIZE, EveryDepth
from reset_keras.layers.controller import mean_features
from reset_keras.layers.halting_controller import NEVER
from reset_keras.models.operations import count_operations
from reset_keras.training.stages.loading import read_network

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, NEVER)
COSTS = (0.3, 0.35, 0.4, 0.5, 0.6, 0.7)
Candidate = tuple[np.ndarray, np.ndarray]
"""One setting of a rule: the compute fraction of each image, and whether it is classified right."""
HALVES = (slice(0, None, 2), slice(1, None, 2))
"""Images that a rule's settings are chosen on, and those that it is tested on, or the reverse."""


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


class WithFeatures(EveryDepth):
    """Also returns the pooled features of the module before the last, at every depth."""

    def call(self, inputs: Any) -> tuple[Any, Any]:
        *before, last = self.features(inputs)
        # A network of one module has none before the last: nobody asks for its features, which only need a shape.
        pooled = mean_features(before[-1] if before else inputs)
        logits = self.between[-1](last, training=False)
        return self.by_depth(logits, len(self.routed)), self.by_depth(pooled, len(before))


class Halting:
    """What each image costs, and whether it is right, when it halts by some rule.

    Args:
        model: A network for every budget.
        images: Array of normalized images.
        labels: Integer array of shape `(images,)`.
    """

    def __init__(self, model: rk.ReSetNet, images: np.ndarray, labels: np.ndarray) -> None:
        found = WithFeatures(model).predict(images, BATCH_SIZE, verbose=0)
        logits, self.features = (part.astype("float64") for part in found)
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        self.probabilities = odds / odds.sum(axis=-1, keepdims=True)
        self.right = logits.argmax(axis=-1) == labels.reshape(-1, *[1] * (logits.ndim - 2))
        operations = count_operations(model.network, model.routed_modules)
        self.units = [costs[0] / operations.static for costs in operations.units]
        self.least = (operations.fixed + operations.controllers) / operations.static
        self.entrance = 0.75 * self.units[-1]  # a stage's first block: its first convolution costs half

    @functools.cache  # noqa: B019 - asked for the same thousands of times
    def stops(self, before: tuple[int, ...], rule: Callable, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """For each limit to the last module's units: how many each image runs, and whether the rule has stopped it.

        Two arrays of shape `(limits, images)`.
        """
        halts = rule(self.probabilities[:, *before]) >= threshold
        first, depths = first_halt(halts), np.arange(halts.shape[1])[:, None]
        return np.minimum(first, depths), first <= depths

    def by_rule(self, rule: Callable) -> Iterator[Candidate]:
        """All settings of a rule."""
        for before in np.ndindex(*self.right.shape[1:-1]):
            cost = self.least + np.dot(before, self.units[:-1])
            thresholds = THRESHOLDS[-1:] if rule is never else THRESHOLDS
            yield from self.in_last(rule(self.probabilities[:, *before]), self.right[:, *before], cost, thresholds)

    def earlier_head(self, chosen_on: slice) -> Iterator[Candidate]:
        """Images also halt in the module before the last, by a classifier taught there what the whole network says."""
        from sklearn.linear_model import LogisticRegression

        said = self.probabilities.argmax(axis=-1).reshape(len(self.right), -1)[:, -1]
        features = self.features.reshape(len(said), -1, self.features.shape[-1])[chosen_on]
        head = LogisticRegression(max_iter=1000)
        head.fit(features.reshape(-1, features.shape[-1]), said[chosen_on].repeat(features.shape[1]))
        opinions = head.predict_proba(self.features.reshape(-1, features.shape[-1])).max(axis=-1)
        opinions = opinions.reshape(self.features.shape[:-1])
        images = np.arange(len(said))
        for *first, most in np.ndindex(*self.right.shape[1:-1]):
            for threshold in (*np.quantile(opinions, np.arange(0.1, 1, 0.1)), NEVER):
                depths = np.minimum(first_halt(opinions[:, *first] >= threshold), most)
                cost = self.least + np.dot(first, self.units[:-2]) + depths * self.units[-2]
                right = self.right[images, *first, depths]
                yield from self.in_last(sure(self.probabilities[images, *first, depths]), right, cost, THRESHOLDS)

    def learned(self, chosen_on: slice) -> Iterator[Candidate]:
        """Images halt where they are hardly more often right at the end than now, by trees that learn both."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        likeliest = np.log(np.sort(self.probabilities, axis=-1)[..., -4:] + 1e-9)
        before = np.concatenate([likeliest[..., :1, :], likeliest[..., :-1, :]], axis=-2)
        places = np.moveaxis(np.indices(self.right.shape[1:]), 0, -1)
        inputs = np.concatenate([likeliest, before, np.broadcast_to(places, (*self.right.shape, places.shape[-1]))], -1)
        size = self.right[chosen_on].size
        drawn = np.random.default_rng(0).choice(size, min(50_000, size), replace=False)
        known = inputs[chosen_on].reshape(-1, inputs.shape[-1])[drawn]
        chances = []
        for right in (self.right, np.repeat(self.right[..., -1:], self.right.shape[-1], axis=-1)):
            trees = HistGradientBoostingClassifier(max_leaf_nodes=15).fit(known, right[chosen_on].reshape(-1)[drawn])
            chances.append(trees.predict_proba(inputs.reshape(-1, inputs.shape[-1]))[:, 1].reshape(self.right.shape))
        for depths in np.ndindex(*self.right.shape[1:-1]):
            cost = self.least + np.dot(depths, self.units[:-1])
            loss = (chances[0] - chances[1])[:, *depths]
            yield from self.in_last(loss, self.right[:, *depths], cost, [*-np.geomspace(0.001, 0.5, 25), NEVER])

    def in_last(
        self, opinions: np.ndarray, right: np.ndarray, cost: np.ndarray, thresholds: Iterable[float]
    ) -> Iterator[Candidate]:
        """Images halt in the last module where an opinion of it, `(images, depths)`, reaches a threshold."""
        for threshold in thresholds:
            first = first_halt(opinions >= threshold)
            for most in range(right.shape[1]):
                depths = np.minimum(first, most)
                yield cost + depths * self.units[-1], np.take_along_axis(right, depths[:, None], axis=1)[:, 0]

    def second_look(self) -> Iterator[Candidate]:
        """Images that are not sure at the end run again from where more units of an earlier module begin."""
        images = np.arange(len(self.right))
        units = np.array(self.units[:-1])
        firsts, seconds = itertools.product((0, 1), (0, 1, 2)), itertools.product((0, 1, 2, 3, 5), (2, 3, 4, 5))
        pairs = itertools.product(map(np.array, firsts), map(np.array, seconds))
        most_of_all = np.array(self.right.shape[1:-1]) - 1
        deeper = [pair for pair in pairs if is_deeper(*pair) and (pair[1] <= most_of_all).all()]
        most_of_last = {min(most, self.right.shape[-1] - 1) for most in (2, 3, 4)}
        ends = (THRESHOLDS[3:-1:2], sorted(most_of_last), (0.9, 0.97, NEVER), (-1, -2))
        for (first, second), (threshold, most, later, end) in itertools.product(deeper, [*itertools.product(*ends)]):
            depths, stopped = (found[most] for found in self.stops(tuple(first), sure, threshold))
            again, last = ~stopped, self.stops(tuple(second), sure, later)[0][end]
            from_first = second[0] != first[0]
            kept = np.array([first[0], 0 if from_first else first[1]])  # what the second run need not compute again
            more = (second - kept) @ units + self.entrance * (2 if from_first else 1) + last * self.units[-1]
            cost = self.least + first @ units + depths * self.units[-1] + again * more
            before, depths = np.where(again, second[:, None], first[:, None]), np.where(again, last, depths)
            yield cost, self.right[images, *before, depths]


def first_halt(halts: np.ndarray) -> np.ndarray:
    """After how many units images halt, of `(images, depths)`; those that never do, after more than there are."""
    return np.where(halts.any(axis=1), halts.argmax(axis=1), halts.shape[1])


def is_deeper(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether a second run has more units of some module, and fewer of none."""
    return bool((second >= first).all() and (second > first).any())


def accuracies(*candidates: Iterator[Candidate]) -> list[tuple[float, float] | None]:
    """For each of `COSTS`, what is spent and the accuracy, of the setting that is best on the other half.

    `None` where no setting is as cheap. A rule that learns has candidates for each half that it learns on.
    """
    means = [np.array([[[x[half].mean() for x in each] for half in HALVES] for each in found]) for found in candidates]
    found: list[tuple[float, float] | None] = []
    for cost in COSTS:
        results = []
        for chosen_on, of_rule in enumerate((means[0], means[-1])):
            spent, right = of_rule[:, chosen_on].T
            if spent.min() <= cost:
                results.append(of_rule[np.where(spent <= cost, right, -1).argmax(), 1 - chosen_on])
        if len(results) < len(HALVES):
            found.append(None)
            continue
        mean_spent, accuracy = np.mean(results, axis=0)
        found.append((float(mean_spent), float(accuracy)))
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="a .keras file, or a name of rk.models.PRESETS")
    parser.add_argument("--dataset", default="cifar10", help="that of the network (default cifar10)")
    parser.add_argument(
        "--held-out", type=int, default=5000, help="training images that rules are compared on (default 5000)"
    )
    arguments = parser.parse_args()
    try:
        network = read_network(arguments.network)
        dataset = rk.data.hold_out(rk.data.load_dataset(arguments.dataset), arguments.held_out)
    except ValueError as error:
        parser.error(str(error))
    halting = Halting(network, dataset.normalize(dataset.test.images), dataset.test.labels)
    table = Table("rule", *map(str, COSTS), box=box.MARKDOWN)
    for rule in RULES:
        table.add_row(rule.__name__, *map(shown, accuracies(halting.by_rule(rule))))
    table.add_row("learned", *map(shown, accuracies(*map(halting.learned, HALVES))))
    if len(halting.units) > 1:
        table.add_row("earlier_head", *map(shown, accuracies(*map(halting.earlier_head, HALVES))))
    if len(halting.units) == 3:
        table.add_row("second_look", *map(shown, accuracies(halting.second_look())))
    Console(width=120).print(table)


def shown(result: tuple[float, float] | None) -> str:
    """Accuracy and cost."""
    return "" if result is None else f"{100 * result[1]:.2f} at {result[0]:.2f}"


if __name__ == "__main__":
    main()
