from typing import Any

import keras
from keras import ops

from reset_keras.argument_checks import check_real
from reset_keras.distribution import global_mean, local_mean
from reset_keras.losses.log_policy import log_policy
from reset_keras.losses.loss_term import LossTerm

Tensor = Any


@keras.saving.register_keras_serializable("reset_keras")
class Entropy(LossTerm):
    """The entropy regularizer: different images take different routes, each image a deterministic one (eq. 13).

    It is `-across * sum_k H(mean_batch policy_k) + within * sum_k mean_batch H(policy_k)`, where the policy is
    `softmax(logits)`, whatever the scorer: on one-hot scores the second sum is identically 0. The mean of the first sum
    is over the global batch, as the entropy of a mean is not linear in the batch.

    Both weights become variables when a model is compiled with this object, so that `entropy.across.assign(0.0)` also
    reaches a compiled step.

    Args:
        across: Float, weight of the entropy across images, in loss per nat. Default 0.
        within: Float, weight of the entropy within an image's policy, in loss per nat. Default 0.

    Raises:
        ValueError: a weight is no number, or not finite.

    Examples:
        >>> entropy = Entropy(across=0.02, within=0.01)
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("sgd", loss, entropy=entropy)  # doctest: +SKIP
    """

    def __init__(self, across: float = 0.0, within: float = 0.0) -> None:
        self.across: Any = check_real("across", across)
        self.within: Any = check_real("within", within)
        super().__init__(across=self.across, within=self.within)

    def build(self) -> None:
        """Turns the weights into variables, once."""
        if not self.variables:
            self.across = self._variable("entropy_across", self.across)
            self.within = self._variable("entropy_within", self.within)

    def __call__(self, across: Tensor, within: Tensor) -> Tensor:
        """The loss of the two sums that `entropies` returns: a float32 scalar."""
        return self.within * within - self.across * across


def entropies(all_logits: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The two sums of eq. 13, over all iterations of all modules.

    Args:
        all_logits: For each module a tensor of shape `(batch, num_iterations, num_scores)`.

    Returns:
        A pair of float32 scalars in nats: `sum_k H(mean_batch policy_k)` over the global batch, and
        `sum_k mean_batch H(policy_k)` over this replica's part of it.

    Examples:
        >>> across, within = entropies([keras.ops.zeros((4, 2, 3))])  # 4 images, 2 iterations, 3 equal scores
        >>> round(float(across), 4), round(float(within), 4)
        (2.1972, 2.1972)
    """
    across, within = ops.zeros((), "float32"), ops.zeros((), "float32")
    for logits in all_logits:
        log_probabilities = log_policy(logits)
        policy = ops.exp(log_probabilities)
        within -= ops.sum(local_mean(policy * log_probabilities))
        mean_policy = global_mean(policy)
        across -= ops.sum(mean_policy * ops.log(ops.maximum(mean_policy, keras.config.epsilon())))
    return across, within
