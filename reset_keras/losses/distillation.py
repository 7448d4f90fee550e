from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from reset_keras.argument_checks import check_real

Tensor = Any


class Distillation:
    """Knowledge distillation: the model also learns from a trained network, its teacher.

    A teacher's probabilities say more about an image than its label: which other classes it resembles, and how much.
    With a `weight` w and the task loss L the loss is `(1 - w) * L + w * T^2 * KL(teacher || model)`, of the softmax of
    logits over the temperature T (Hinton et al., 2015). Its use here: a ResNet teaches the network made of its blocks.

    The teacher's weights are no part of the model: they are neither trained nor saved. A model that is loaded from a
    file has lost its teacher: until it is compiled again it is evaluated without, with a warning, and not trained.

    Args:
        teacher: A `keras.Model` whose inputs are the student's and whose outputs are logits of the student's classes; a
            `RoutedModel` or any other. Under a `tf.distribute` strategy it is made within its scope, as the student is.
        weight: Float in (0, 1], the teacher's share of the loss. Default 0.9.
        temperature: Float above 0, by which both networks' logits are divided. Default 4.

    Raises:
        ValueError: an argument is out of its range, or `teacher` is no model.

    Examples:
        >>> from reset_keras.models import ReSetNet, ResNet
        >>> teacher, student = ResNet((3, 3), 10, (8, 8, 1)), ReSetNet((2,), input_shape=(8, 8, 1))
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> student.compile("sgd", loss, distillation=Distillation(teacher, temperature=2.0))
    """

    def __init__(self, teacher: keras.Model, weight: float = 0.9, temperature: float = 4.0) -> None:
        if not isinstance(teacher, keras.Model):
            raise ValueError(
                "`teacher` must be a keras.Model; a file or a name is loaded by `keras.models.load_model` or "
                f"`rk.models.from_preset`. Received: {teacher!r}"
            )
        self.weight = check_real("weight", weight, above=0.0)
        self.temperature = check_real("temperature", temperature, above=0.0)
        if weight > 1:
            raise ValueError(f"`weight` must be at most 1. Received: weight={weight}")
        self.teacher = teacher

    @property
    def settings(self) -> str:
        """All but the teacher, for messages."""
        return f"weight={self.weight}, temperature={self.temperature}"

    def of_images(self, inputs: Any) -> Callable[[Any, Tensor], Tensor]:
        """A loss of labels, which it does not look at, and logits: `T^2 * KL(teacher || model)` of each image.

        The teacher is called once, for any number of logits.

        Args:
            inputs: What the model was given.

        Returns:
            A function of labels and logits, these of shape `(batch, classes)`, to a float32 tensor of shape `(batch,)`.
        """
        taught = self._cooled(ops.stop_gradient(self.teacher(inputs, training=False)))
        expected, log_expected = ops.softmax(taught, axis=-1), ops.log_softmax(taught, axis=-1)

        def divergences(_: Any, logits: Tensor) -> Tensor:
            log_given = ops.log_softmax(self._cooled(logits), axis=-1)
            return self.temperature**2 * ops.sum(expected * (log_expected - log_given), axis=-1)

        return divergences

    def _cooled(self, logits: Tensor) -> Tensor:
        return ops.cast(logits, "float32") / self.temperature
