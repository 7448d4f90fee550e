from typing import Any

import keras
from keras import ops


class LossesOfOneType(keras.Model):
    """A model whose layers' losses can be added up, whatever types their weights have.

    Keras on TensorFlow adds no numbers of several types, and a classifier's weights are float32 under every policy.
    """

    @property
    def losses(self) -> list[Any]:
        # The type in which Keras computes the loss of the outputs.
        return [ops.cast(loss, keras.config.floatx()) for loss in super().losses]
