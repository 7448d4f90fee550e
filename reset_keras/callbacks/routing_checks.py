"""Signs in the routes of some images that routing does not learn."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from reset_keras.analysis.routes import Routes
from reset_keras.layers.policy_controller import CLOSED

UNUSED = 0.001
"""Mean score of a unit that is not used."""
SAME = 0.01
"""Total variation between an image's policy and the mean one, below which they are the same."""
NEAR_BOUND = 0.01
"""Distance of the entropy from its bounds, as a share of the distance of the bounds."""

FINDINGS = {
    "unused": (
        "units that no image uses in any iteration",
        "raise the weight of the entropy across images, Entropy(across=...), or give the pool fewer units",
    ),
    "one_policy": (
        "all images have the same policy",
        "raise the weight of the entropy across images, Entropy(across=...), or the controllers' learning rate: "
        "as it is, these iterations are static",
    ),
    "uniform": (
        "the policy is as good as uniform",
        "raise the controllers' learning rate, lower the scorer's temperature, or train for longer; the entropy within "
        "a policy, Entropy(within=...), also sharpens it",
    ),
    "saturated": (
        "the policy is certain of its choice for every image",
        "such a controller gets no gradient any more. Lower the learning rate or Entropy(within=...), clip the "
        "gradient with gradient_clip_norm, or raise the scorer's temperature",
    ),
}
"""What is wrong, and what to try."""


@dataclasses.dataclass(frozen=True, order=True)
class Sign:
    """One thing that is wrong at one place.

    Args:
        kind: String, a key of `FINDINGS`.
        module: Integer, from 0.
        index: Integer, from 0: the iteration, or for unused units the unit.
    """

    kind: str
    module: int
    index: int

    @property
    def place(self) -> str:
        """Where, in words that count from 1 as all figures do."""
        return f"module {self.module + 1}, {'unit' if self.kind == 'unused' else 'iteration'} {self.index + 1}"


def signs(routes: Routes) -> Iterator[Sign]:
    """All signs in the routes.

    Args:
        routes: Routes with logits.

    Examples:
        >>> logits = np.array([[[9.0, 0.0]], [[9.0, 0.0]]])
        >>> routes = Routes([{"logits": logits, "scores": np.array([[[1.0, 0.0]], [[1.0, 0.0]]])}], (True,))
        >>> [(sign.kind, sign.place) for sign in signs(routes)]
        [('one_policy', 'module 1, iteration 1'), ('saturated', 'module 1, iteration 1')]
    """
    statistics = zip(routes.mean_scores(), routes.policies(), routes.entropies_within(), routes.zero_units, strict=True)
    for module, (means, policy, within, zero_unit) in enumerate(statistics):
        units = means[:, : means.shape[1] - int(zero_unit)]
        is_open = routes.modules[module]["logits"] > CLOSED / 2  # what no mask and no curriculum keeps shut
        choices = is_open.any(axis=0).sum(axis=-1)
        highest = np.log(choices)
        distances = np.abs(policy - policy.mean(axis=0)).sum(axis=-1) / 2
        yield from _at("unused", module, units.max(axis=0) < UNUSED)
        yield from _at("one_policy", module, (choices > 1) & (distances.max(axis=0) < SAME) & (len(policy) > 1))
        yield from _at("uniform", module, (choices > 1) & (within > (1.0 - NEAR_BOUND) * highest))
        yield from _at("saturated", module, (choices > 1) & (within < NEAR_BOUND * highest))


def describe(found: Iterable[Sign]) -> Iterator[str]:
    """A message for each kind of sign, with all its places and what to try."""
    for kind, places in itertools.groupby(sorted(found), key=lambda sign: sign.kind):
        finding, advice = FINDINGS[kind]
        yield f"{finding}: {'; '.join(sign.place for sign in places)}. Try: {advice}."


def _at(kind: str, module: int, where: np.ndarray) -> Iterator[Sign]:
    return (Sign(kind, module, int(index)) for index in np.flatnonzero(where))
