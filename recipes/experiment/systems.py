"""Systems of conditional computation, each as settings of a ReSet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from experiment import rk

if TYPE_CHECKING:
    import numpy as np

Network = Any
"""A `ResNet` or a `ReSetNet`."""
ROUTE_IMAGES = 2_048
"""Number of training images along whose routes the controllers of a ReSet learn the order of the ResNet's blocks."""
HELD_IMAGES = 1_024
"""Number of these over which a compute fraction is held."""


@dataclasses.dataclass(frozen=True)
class System:
    """A system of conditional computation.

    Args:
        name: Its name, for tables and figures.
        title: What decides, and by which loss.
        network: Function of a trained ResNet, a `strength`, training `images` and the `smoothing` of what controllers
            imitate, that returns the system's network.
        strengths: How strongly it is pressed to compute less, in the system's own terms; each makes one network.
            Default: 0, of systems where nobody decides.
        most: Float, the largest strength that makes sense, or `None`. Default `None`.
        terms: Function of the strength that returns arguments of `compile`. Default: none.
        callbacks: Function of the number of epochs that returns callbacks by name. Default: none.
        then: Name of a scorer that takes over in a second half of the training, for which the terms are; or `None`.
            Default `None`.
        held: Boolean, whether in a second half of the training the units are trained along the routes that the first
            has led to, whose compute fraction is held at the strength. Default `False`.
        settled: Boolean, whether at last its network may choose only what training images choose. Default `False`.
        from_resnet: Boolean, whether its network begins with the ResNet's blocks. Default `True`.
        is_static: Boolean, whether its network is a ResNet, without routes. Default `False`.
    """

    name: str
    title: str
    network: Callable[..., Network]
    strengths: tuple[float, ...] = (0.0,)
    most: float | None = None
    terms: Callable[[float], dict[str, Any]] = lambda _: {}
    callbacks: Callable[[int], dict[str, Any]] = lambda _: {}
    then: str | None = None
    held: bool = False
    settled: bool = False
    from_resnet: bool = True
    is_static: bool = False


def shorter(resnet: Network, strength: float, **_: Any) -> Network:
    """A ResNet of the first blocks of each stage, with this share of those that a pool would hold."""
    return rk.models.first_blocks(resnet, [1 + round(strength * (blocks - 1)) for blocks in resnet.stage_blocks])


def gated(resnet: Network, controller: Any, scorer: str) -> Network:
    """The ResNet's blocks in their order, each run or skipped as a controller says."""
    return rk.resnet_to_reset(resnet, controller, scorer, allowed="sequential")


def halting(resnet: Network, kind: str) -> Network:
    """The ResNet's blocks in their order, until halting scores add up to one."""
    scorer = rk.HardScorer(sampled=False)
    return rk.resnet_to_reset(resnet, in_order(resnet, zero_unit=True), scorer, allowed="sequential", halting=kind)


def in_order(resnet: Network, zero_unit: bool) -> list[Any]:
    """For each module a controller that runs the ResNet's blocks in their order."""
    units = [blocks - 1 for blocks in resnet.stage_blocks]
    return [rk.FixedController(count + zero_unit, [*range(count)]) for count in units]


def repeated(resnet: Network, zero_unit: bool = True, **options: Any) -> Network:
    """A new network with a single unit in each stage, which runs as often as the ResNet's stage has further blocks."""
    times = [blocks - 1 for blocks in resnet.stage_blocks]
    controller = rk.FixedController(1 + zero_unit, [0] * max(times))
    return along(resnet, [1] * len(times), controller, num_iterations=times, zero_unit=zero_unit, **options)


def sharing(resnet: Network) -> Network:
    """A new network of the ResNet's size, whose stages have one second convolution for all their units."""
    units = [blocks - 1 for blocks in resnet.stage_blocks]
    options = {"allowed": "sequential", "pool_options": {"shared": "second"}}
    return along(resnet, units, in_order(resnet, zero_unit=False), zero_unit=False, **options)


def along(resnet: Network, units: list[int], controller: Any, **options: Any) -> Network:
    """A new network of the ResNet's size, all of whose images take the route that a controller names."""
    options |= {"controller": controller, "scorer": rk.HardScorer(sampled=False), **dataclasses.asdict(resnet.backbone)}
    return rk.ReSetNet(units, **options)


def any_unit(resnet: Network, images: np.ndarray, smoothing: float = 0.0, **_: Any) -> Network:
    """The ResNet's blocks as a pool, any of which an iteration may choose; controllers begin with their order.

    They must not be certain of it: within a short training they would then draw no other unit.
    """
    reset = rk.resnet_to_reset(resnet, "rnn", "gumbel_st")
    rk.training.imitate_sequence(reset, images, label_smoothing=smoothing)
    return reset


def along_routes(reset: Network, compute: float, images: np.ndarray) -> Network:
    """The network whose units are trained along the routes it has found, brought to a compute fraction.

    Its controllers have drawn units until now. The likeliest, which runs from here on, is the zero unit far more often
    than it was drawn.
    """
    rk.training.hold_compute(reset, images, compute)
    return rk.training.with_fixed_routes(reset)


PONDERING: dict[str, Any] = {
    "strengths": (0.005, 0.01, 0.03),
    "terms": lambda tau: {"ponder_cost": rk.PonderCost(tau)},
}
"""What systems whose images halt have in common."""
SYSTEMS = {
    "static": System(
        "shorter ResNet",
        "this share of the blocks of each pool; nobody decides",
        shorter,
        strengths=(1.0, 0.7, 0.4),  # of five blocks five, four and two, of three three, two and one
        most=1.0,
        is_static=True,
    ),
    "skipnet": System(
        "SkipNet",
        "a gate for each block; soft first, then REINFORCE with this reward for each skipped block",
        lambda resnet, **_: gated(resnet, "gate", "softmax"),
        strengths=(0.01, 0.03, 0.1),
        terms=lambda reward: {"skip_reward": rk.SkipReward(reward, estimator="reinforce")},
        then="hard",
        settled=True,
    ),
    "aig": System(
        "ConvNet-AIG",
        "a gate for each block, straight-through Gumbel, each block run for this share of the images",
        lambda resnet, **_: gated(resnet, "gate", "gumbel_st"),
        strengths=(0.7, 0.5, 0.3),
        most=1.0,
        terms=lambda rate: {"target_rate": rk.TargetRate(rate)},
        settled=True,
    ),
    "blockdrop": System(
        "BlockDrop",
        "one policy that sees the image once, REINFORCE with this penalty for wrong answers",
        lambda resnet, **_: gated(resnet, "policy", "hard"),
        strengths=(1.0, 5.0, 10.0),
        terms=lambda penalty: {"skip_reward": rk.DropReward(penalty)},
        callbacks=lambda epochs: {"curriculum": rk.callbacks.DropCurriculum(max(1, epochs // 2))},
        settled=True,
    ),
    "act": System(
        "ACT",
        "blocks in their order until an image halts, at this cost for each",
        lambda resnet, **_: halting(resnet, "act"),
        **PONDERING,
    ),
    "sact": System(
        "SACT",
        "blocks in their order until each position halts, at this cost for each block",
        lambda resnet, **_: halting(resnet, "sact"),
        **PONDERING,
    ),
    "iamnn": System(
        "IamNN",
        "one block in each stage, run again until an image halts, at this cost for each time",
        lambda resnet, **_: repeated(resnet, halting="act"),
        from_resnet=False,
        **PONDERING,
    ),
    "sharesnet": System(
        "ShaResNet",
        "the blocks of a stage share their second convolution; nobody decides",
        lambda resnet, **_: sharing(resnet),
        from_resnet=False,
    ),
    "unrolled": System(
        "unrolled sharing",
        "one block in each stage, run for each block of the ResNet, with other batch norms each time; nobody decides",
        lambda resnet, **_: repeated(resnet, zero_unit=False, pool_options={"per_iteration_affine": True}),
        from_resnet=False,
    ),
    "reset": System(
        "ReSet",
        "a recurrent controller chooses any block or none, at a reward that aims at this compute fraction; in a second "
        "half the units are trained along its routes, held there",
        any_unit,
        strengths=(0.7, 0.5, 0.35),
        most=1.0,
        terms=lambda target: {"entropy": rk.Entropy(across=0.02), "skip_reward": rk.SkipReward(target=target)},
        held=True,
        settled=True,
    ),
}
"""By the name that `--system` takes."""


def last_stage(name: str, strength: float) -> str:
    """Name of the stage that ends with a system's network at a strength."""
    return f"{name}_{strength:g}{'_settled' if SYSTEMS[name].settled else ''}"
