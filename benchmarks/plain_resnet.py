"""ResNet-38 without any layer of this package: what a Keras user and a PyTorch user would write."""

from typing import Any

WIDTHS = (16, 32, 64)
BLOCKS = 6


def keras_resnet38() -> Any:
    """In Keras's own layers, batch norms included."""
    import keras
    from keras import layers

    def conv(x: Any, width: int, strides: int) -> Any:
        return layers.Conv2D(
            width, 3, strides, padding="same", use_bias=False, kernel_regularizer=keras.regularizers.L2(1e-4)
        )(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(layers.BatchNormalization()(conv(inputs, WIDTHS[0], 1)))
    for stage, width in enumerate(WIDTHS):
        for block in range(BLOCKS):
            strides = 2 if stage and not block else 1
            y = layers.ReLU()(layers.BatchNormalization()(conv(x, width, strides)))
            y = layers.BatchNormalization()(conv(y, width, 1))
            if strides > 1:
                x = layers.AveragePooling2D(1, strides)(x)
                x = layers.Concatenate()([x, keras.ops.zeros_like(x)])
            x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(10, dtype="float32")(layers.GlobalAveragePooling2D()(x)))


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
