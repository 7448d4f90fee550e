import dataclasses

import numpy as np

from reset_keras.analysis.routes import Routes


@dataclasses.dataclass(frozen=True)
class Sequentialness:
    """How near a policy is to the ResNet's own order of its blocks, unit k at iteration k (section 5.1).

    Made by `sequentialness`.

    Args:
        probability: Float, the policy's mean probability of unit k at iteration k, over images and iterations.
        choice: Float, the share of images and iterations in which that unit is the likeliest.
    """

    probability: float
    choice: float


def sequentialness(routes: Routes) -> Sequentialness | None:
    """Compares policies with the ResNet's order.

    Args:
        routes: Routes with logits.

    Returns:
        Both measures, or `None` where a module has fewer units than iterations, so that there is no such order.

    Raises:
        ValueError: there are no logits, as in routes read from a file.

    Examples:
        >>> routes = Routes([{"scores": np.zeros((1, 2, 2)), "logits": np.array([[[9.0, 0.0], [9.0, 0.0]]])}], (False,))
        >>> sequentialness(routes).choice
        0.5
    """
    policies = routes.policies()
    units = [policy.shape[2] - int(zero) for policy, zero in zip(policies, routes.zero_units, strict=True)]
    if any(count < policy.shape[1] for count, policy in zip(units, policies, strict=True)):
        return None
    probabilities = [np.diagonal(policy, axis1=1, axis2=2) for policy in policies]
    choices = [policy.argmax(axis=-1) == np.arange(policy.shape[1]) for policy in policies]
    return Sequentialness(
        probability=float(np.concatenate(probabilities, axis=1).mean()),
        choice=float(np.concatenate(choices, axis=1).mean()),
    )
