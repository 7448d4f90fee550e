from typing import Any

import keras
from keras import ops

from reset_keras.argument_checks import check_real
from reset_keras.losses.skip_reward import SkipReward

Tensor = Any


@keras.saving.register_keras_serializable("reset_keras")
class DropReward(SkipReward):
    """The reward of BlockDrop: few units for an image that is classified right, a penalty for one that is not.

    It is `1 - share^2` where the class with the largest output is the label, with the share of the iterations that run
    a unit, and `-penalty` elsewhere (Wu et al., 2018, section 3.2). It is maximized by the score function
    (`SkipReward(estimator="reinforce")`): all iterations of an image get its reward. The task loss is no part of the
    reward. It trains the units as before and, with `scorer="hard"`, does not reach the controllers. To train only the
    policy, as the authors do first, see `rk.training.train_only_controllers`.

    The authors' baseline is the reward of the policy's likeliest route, which runs the network once more for each
    image. Here it is that of `SkipReward`, a running mean. They also keep the policy from becoming certain, by bounds
    on its probabilities and by its entropy; here `Entropy` does that.

    Args:
        penalty: Float, 0 or above, what an image costs that is classified wrong. Default 1.
        baseline_momentum: Float in [0, 1), weight of the past in the running baseline, per batch. Default 0.9.

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> model = ReSetNet(input_shape=(8, 8, 1), controller="policy", scorer="hard", allowed="sequential")
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("adam", loss, skip_reward=DropReward(penalty=1.0))
    """

    def __init__(self, penalty: float = 1.0, baseline_momentum: float = 0.9) -> None:
        super().__init__(0.0, "reinforce", baseline_momentum)
        self.penalty = check_real("penalty", penalty, least=0.0)
        self._config = {"penalty": self.penalty, "baseline_momentum": self.baseline_momentum}

    @property
    def needs_zero_unit(self) -> bool:
        # The base looks for rewards other than 0, and the reward given to it here is 0.
        return True

    def of_images(self, skips: Tensor, is_right: Tensor) -> Tensor:
        """The reward of each image: float32, shape `(batch,)`.

        Args:
            skips: Tensor of shape `(batch, num_iterations)`.
            is_right: Booleans of shape `(batch,)`, whether the image is classified right.
        """
        share = 1.0 - ops.mean(skips, axis=1)
        return ops.where(is_right, 1.0 - ops.square(share), -self.penalty)


def is_right(y: Tensor, outputs: Tensor) -> Tensor:
    """Whether the largest output is that of the label: booleans of shape `(batch,)`.

    Args:
        y: Labels, of shape `(batch,)` or `(batch, 1)`, or one-hot of the outputs' shape.
        outputs: Tensor of shape `(batch, classes)`.

    Raises:
        ValueError: the outputs are not one number for each of several classes.
    """
    if not hasattr(outputs, "shape") or len(outputs.shape) != 2 or outputs.shape[-1] == 1:
        raise ValueError(
            "A DropReward needs a model whose output has one number for each of two classes or more. Received: "
            f"outputs of shape {getattr(outputs, 'shape', type(outputs).__name__)}"
        )
    is_one_hot = len(y.shape) == 2 and y.shape[-1] == outputs.shape[-1]
    labels = ops.argmax(y, axis=-1) if is_one_hot else ops.reshape(y, (-1,))
    return ops.equal(ops.argmax(outputs, axis=-1), ops.cast(labels, "int32"))
