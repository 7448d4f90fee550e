"""The networks of the paper, by name.

A name `reset_a_b_c` says how many units, and iterations, the three modules have; `resnet_a_b_c` is the ResNet of the
same depth, with a block for each iteration and the first block of each stage, which both networks have.
"""

from typing import Any

from reset_keras.models.reset_net import ReSetNet
from reset_keras.models.resnet import ResNet

InputShape = tuple[int, int, int]


def resnet38(num_classes: int = 10, input_shape: InputShape = (32, 32, 3), **kwargs: Any) -> ResNet:
    """ResNet-38, the baseline of table 2: 6 blocks a stage.

    Args:
        num_classes: Integer, number of classes. Default 10.
        input_shape: Height, width and channels of an image. Default `(32, 32, 3)`.
        **kwargs: The other arguments of `ResNet`.

    Examples:
        >>> resnet38(num_classes=4, input_shape=(16, 16, 3)).stage_blocks
        (6, 6, 6)
    """
    return ResNet((6, 6, 6), num_classes, input_shape, **kwargs)


def resnet_1_1_5(num_classes: int = 10, input_shape: InputShape = (32, 32, 3), **kwargs: Any) -> ResNet:
    """The ResNet beside `reset_1_1_5` in table 1.

    Args:
        num_classes: Integer, number of classes. Default 10.
        input_shape: Height, width and channels of an image. Default `(32, 32, 3)`.
        **kwargs: The other arguments of `ResNet`.

    Examples:
        >>> resnet_1_1_5(num_classes=4, input_shape=(16, 16, 3)).stage_blocks
        (2, 2, 6)
    """
    return ResNet((2, 2, 6), num_classes, input_shape, **kwargs)


def resnet_1_5_1(num_classes: int = 10, input_shape: InputShape = (32, 32, 3), **kwargs: Any) -> ResNet:
    """The ResNet beside `reset_1_5_1` in table 1.

    Args:
        num_classes: Integer, number of classes. Default 10.
        input_shape: Height, width and channels of an image. Default `(32, 32, 3)`.
        **kwargs: The other arguments of `ResNet`.

    Examples:
        >>> resnet_1_5_1(num_classes=4, input_shape=(16, 16, 3)).stage_blocks
        (2, 6, 2)
    """
    return ResNet((2, 6, 2), num_classes, input_shape, **kwargs)


def resnet_5_1_1(num_classes: int = 10, input_shape: InputShape = (32, 32, 3), **kwargs: Any) -> ResNet:
    """The ResNet beside `reset_5_1_1` in table 1.

    Args:
        num_classes: Integer, number of classes. Default 10.
        input_shape: Height, width and channels of an image. Default `(32, 32, 3)`.
        **kwargs: The other arguments of `ResNet`.

    Examples:
        >>> resnet_5_1_1(num_classes=4, input_shape=(16, 16, 3)).stage_blocks
        (6, 2, 2)
    """
    return ResNet((6, 2, 2), num_classes, input_shape, **kwargs)


def reset38(num_classes: int = 10, input_shape: InputShape = (32, 32, 3), **kwargs: Any) -> ReSetNet:
    """ReSet-38 (figure 3): 5 units and 5 iterations a stage.

    Args:
        num_classes: Integer, number of classes. Default 10.
        input_shape: Height, width and channels of an image. Default `(32, 32, 3)`.
        **kwargs: The other arguments of `ReSetNet`.

    Examples:
        >>> reset38(num_classes=4, input_shape=(16, 16, 3)).units
        (5, 5, 5)
    """
    return ReSetNet((5, 5, 5), None, num_classes, input_shape, **kwargs)


def reset_1_1_5(num_classes: int = 10, input_shape: InputShape = (32, 32, 3), **kwargs: Any) -> ReSetNet:
    """The shortened ReSet 1-1-5 of table 1.

    Args:
        num_classes: Integer, number of classes. Default 10.
        input_shape: Height, width and channels of an image. Default `(32, 32, 3)`.
        **kwargs: The other arguments of `ReSetNet`.

    Examples:
        >>> reset_1_1_5(num_classes=4, input_shape=(16, 16, 3)).units
        (1, 1, 5)
    """
    return ReSetNet((1, 1, 5), None, num_classes, input_shape, **kwargs)


def reset_1_5_1(num_classes: int = 10, input_shape: InputShape = (32, 32, 3), **kwargs: Any) -> ReSetNet:
    """The shortened ReSet 1-5-1 of table 1.

    Args:
        num_classes: Integer, number of classes. Default 10.
        input_shape: Height, width and channels of an image. Default `(32, 32, 3)`.
        **kwargs: The other arguments of `ReSetNet`.

    Examples:
        >>> reset_1_5_1(num_classes=4, input_shape=(16, 16, 3)).units
        (1, 5, 1)
    """
    return ReSetNet((1, 5, 1), None, num_classes, input_shape, **kwargs)


def reset_5_1_1(num_classes: int = 10, input_shape: InputShape = (32, 32, 3), **kwargs: Any) -> ReSetNet:
    """The shortened ReSet 5-1-1 of table 1.

    Args:
        num_classes: Integer, number of classes. Default 10.
        input_shape: Height, width and channels of an image. Default `(32, 32, 3)`.
        **kwargs: The other arguments of `ReSetNet`.

    Examples:
        >>> reset_5_1_1(num_classes=4, input_shape=(16, 16, 3)).units
        (5, 1, 1)
    """
    return ReSetNet((5, 1, 1), None, num_classes, input_shape, **kwargs)
