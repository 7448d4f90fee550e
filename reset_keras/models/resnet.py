import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from reset_keras.layers.frozen_parts import part_settings, set_parts, without_part_settings
from reset_keras.models.backbone import Backbone, check_counts, under_policy
from reset_keras.models.losses_of_one_type import LossesOfOneType


@keras.saving.register_keras_serializable("reset_keras")
class ResNet(LossesOfOneType):
    """The residual network for small images of He et al. (2016), section 4.2, of depth 6n + 2.

    The network that a ReSet is compared with and may be made of (`resnet_to_reset`). Its outputs are logits.

    Args:
        stage_blocks: Sequence of integers, blocks of each stage; `(6, 6, 6)` is ResNet-38. Default `(6, 6, 6)`.
        num_classes: Integer. Default 10.
        input_shape: Height, width and channels of an image, at least 8 by 8 pixels. Default `(32, 32, 3)`.
        name: String, or `None`. Default `None`.
        **backbone: `width`, channels of the first stage, which double in each later one, default 16; `shortcut`,
            `"pad"`, the default, without parameters, or `"projection"`, a convolution 1x1, where a block changes the
            shape; `weight_decay`, of the kernels, default 1e-4; `stem_pooling`, whether the stem ends with max pooling
            3x3 of stride 2, default `False`.

    Call arguments:
        inputs: Tensor of shape `(batch, height, width, channels)`, normalized images.

    Returns:
        Logits of shape `(batch, num_classes)`, float32.

    Raises:
        ValueError: an argument is out of its range, or an option is unknown.

    Examples:
        >>> resnet20 = ResNet(stage_blocks=(3, 3, 3))
        >>> tuple(resnet20(keras.random.normal((2, 32, 32, 3))).shape)
        (2, 10)
    """

    def __init__(
        self,
        stage_blocks: Sequence[int] = (6, 6, 6),
        num_classes: int = 10,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        name: str | None = None,
        **backbone: Any,
    ) -> None:
        blocks = check_counts("stage_blocks", stage_blocks)
        parts = Backbone.of(num_classes, input_shape, backbone)
        inputs = keras.Input(parts.input_shape, name="images")
        super().__init__(inputs, parts.classifier(parts.features(inputs, blocks)), name=name)
        self.stage_blocks = blocks
        self.backbone = parts

    def get_config(self) -> dict[str, Any]:
        return {
            "stage_blocks": self.stage_blocks,
            **dataclasses.asdict(self.backbone),
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            **part_settings(self),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "ResNet":
        config, parts = without_part_settings(config)
        with under_policy(config.pop("dtype", None)):
            network = cls(**config)
        set_parts(network, parts)
        return network
