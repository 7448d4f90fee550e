import keras

from reset_keras.argument_checks import check_real
from reset_keras.losses.loss_term import LossTerm


@keras.saving.register_keras_serializable("reset_keras")
class EarlyExits(LossTerm):
    """Trains the classifier on what the last module's features are after each unit, not only after the last one.

    An image that halts early is then classified by features that were trained for it. With the loss L of the outputs,
    and `L_k` that of the same classifier on the features that the last module's head sees in iteration k
    (`"seen_features"`), the loss is `(1 - weight) * L + weight * mean_k L_k`; a teacher's share is part of all of them.
    This is the training of networks with several exits (Teerapittayanon et al., 2016; Lee et al., 2015).

    With the controller's `shares=(1.0, 1.0)` all images reach all exits. With smaller ones an image that has halted
    counts at the later exits by the features that it had then.

    Args:
        weight: Float above 0 and below 1, the early exits' share of the loss. Default 0.7.

    Raises:
        ValueError: the weight is out of its range.

    Examples:
        >>> from reset_keras.layers import HaltingController, HardScorer
        >>> from reset_keras.models import ResNet, resnet_to_reset
        >>> halting = HaltingController(1, num_classes=10, shares=(1.0, 1.0), noise=0.0)
        >>> model = resnet_to_reset(ResNet((3, 3), 10, (8, 8, 1)), halting, HardScorer(sampled=False))
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("sgd", loss, early_exits=EarlyExits())
    """

    def __init__(self, weight: float = 0.7) -> None:
        self.weight = check_real("weight", weight, above=0.0, below=1.0)
        super().__init__(weight=self.weight)
