"""A ResNet without any layer of this package: what a Keras user and a PyTorch user would write."""

from collections.abc import Sequence
from typing import Any

WIDTHS = (16, 32, 64)
BLOCKS = 6


def keras_resnet(
    stage_blocks: Sequence[int] = (BLOCKS,) * 3,
    num_classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    width: int = WIDTHS[0],
) -> Any:
    """In Keras's own layers, batch norms included; by default ResNet-38."""
    import keras
    from keras import layers

    def normalized_conv(x: Any, filters: int, strides: int) -> Any:
        x = layers.Conv2D(
            filters, 3, strides, padding="same", use_bias=False, kernel_regularizer=keras.regularizers.L2(1e-4)
        )(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    inputs = keras.Input(input_shape)
    x = layers.ReLU()(normalized_conv(inputs, width, 1))
    for stage, num_blocks in enumerate(stage_blocks):
        for block in range(num_blocks):
            strides = 2 if stage and not block else 1
            y = layers.ReLU()(normalized_conv(x, width * 2**stage, strides))
            y = normalized_conv(y, width * 2**stage, 1)
            if strides > 1:
                # A window of one pixel: this takes every second pixel, the shortcut without parameters of He et al.
                x = layers.AveragePooling2D(1, strides)(x)
                x = layers.Concatenate()([x, keras.ops.zeros_like(x)])
            x = layers.ReLU()(layers.Add()([x, y]))
    classifier = layers.Dense(num_classes, kernel_regularizer=keras.regularizers.L2(1e-4), dtype="float32")
    return keras.Model(inputs, classifier(layers.GlobalAveragePooling2D()(x)))


def torch_resnet38() -> Any:
    """In PyTorch, channels last."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, width_in: int, width: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
            self.norm1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(width)
            self.stride, self.missing = stride, width - width_in

        def forward(self, x: Any) -> Any:
            y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)), inplace=True)))
            if self.missing:
                x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))
            return functional.relu(y + x, inplace=True)

    parts: list[Any] = [nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU(inplace=True)]
    before = WIDTHS[0]
    for stage, width in enumerate(WIDTHS):
        for block in range(BLOCKS):
            parts.append(Block(before, width, 2 if stage and not block else 1))
            before = width
    network = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))
    return network.to(memory_format=torch.channels_last)
