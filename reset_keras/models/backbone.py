"""What a ResNet and its ReSet have in common: the stem, the first block of each stage, the classifier."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from reset_keras.argument_checks import check_integer, check_real, integers
from reset_keras.layers import IterationBatchNormalization, PadShortcut, ResidualUnit
from reset_keras.layers.residual_unit import plain_conv

SHORTCUTS = ("pad", "projection")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """The fixed parts of a residual network for small images (He et al., 2016, section 4.2).

    Args:
        num_classes: Integer, width of the classifier. Default 10.
        input_shape: Height, width (pixels, at least 8) and channels of an image. Default `(32, 32, 3)`.
        width: Integer, channels of the first stage; each later stage has twice those of the one before. Default 16.
        shortcut: `"pad"` (option A: no parameters) or `"projection"` (option B: convolution 1x1), where a block
            changes the shape. Default `"pad"`.
        weight_decay: Float, weight of the L2 regularizer on kernels. Default 1e-4.
        stem_pooling: Boolean, whether the stem ends with max pooling 3x3 of stride 2. Default `False`.

    Raises:
        ValueError: an argument is out of its range.
    """

    num_classes: int = 10
    input_shape: tuple[int, int, int] = (32, 32, 3)
    width: int = 16
    shortcut: str = "pad"
    weight_decay: float = 1e-4
    stem_pooling: bool = False

    def __post_init__(self) -> None:
        if self.shortcut not in SHORTCUTS:
            raise ValueError(f"`shortcut` must be one of {SHORTCUTS}. Received: shortcut={self.shortcut!r}")
        shape = integers(self.input_shape, least=1)
        if not shape or len(shape) != 3 or min(shape[:2]) < 8:
            raise ValueError(
                "`input_shape` must be (height, width, channels), integers, with at least 8 by 8 pixels. "
                f"Received: input_shape={self.input_shape!r}"
            )
        object.__setattr__(self, "input_shape", shape)
        for name in ("num_classes", "width"):
            object.__setattr__(self, name, check_integer(name, getattr(self, name), least=1))
        check_real("weight_decay", self.weight_decay, least=0)

    @classmethod
    def of(cls, num_classes: int, input_shape: tuple[int, int, int], options: dict[str, Any]) -> "Backbone":
        """The parts of a network with these further options, each of which must be one of a backbone's."""
        _, _, *names = (field.name for field in dataclasses.fields(cls))
        unknown = sorted(set(options) - set(names))
        if unknown:
            raise ValueError(f"Further options of the network must be from {tuple(names)}. Received: {unknown}")
        return cls(num_classes, input_shape, **options)

    @property
    def regularizer(self) -> Any:
        """A new L2 regularizer, or `None` without weight decay."""
        # Keras takes no number of NumPy here.
        return keras.regularizers.L2(float(self.weight_decay)) if self.weight_decay else None

    def filters(self, stage: int) -> int:
        """Channels of a stage, which is counted from 0."""
        return self.width * 2**stage

    def stem(self, inputs: Any) -> Any:
        """Convolution 3x3, batch norm, ReLU, and max pooling if there is any."""
        x = plain_conv(self.width, 3, kernel_regularizer=self.regularizer, name="stem_conv")(inputs)
        # With one iteration it is an ordinary batch norm, over all replicas, and on a CPU faster than Keras's.
        x = IterationBatchNormalization(name="stem_norm")(x)
        x = keras.layers.ReLU(name="stem_relu")(x)
        if not self.stem_pooling:
            return x
        return keras.layers.MaxPooling2D(3, 2, padding="same", data_format="channels_last", name="stem_pool")(x)

    def block(self, x: Any, stage: int, index: int) -> Any:
        """`relu(shortcut(x) + F(x))`; the first block of every stage after the first one halves the resolution."""
        filters, name = self.filters(stage), block_name(stage, index)
        strides = 2 if index == 0 and stage > 0 else 1
        branch = ResidualUnit(filters, strides, kernel_regularizer=self.regularizer, name=name)(x)
        shortcut = x
        if strides > 1 or x.shape[-1] != filters:
            shortcut = self._shortcut(x, filters, strides, name)
        total = keras.layers.Add(name=f"{name}_add")([shortcut, branch])
        return keras.layers.ReLU(name=f"{name}_relu")(total)

    def features(self, inputs: Any, stage_blocks: Sequence[int]) -> Any:
        """The stem, then `stage_blocks[i]` blocks in stage i."""
        x = self.stem(inputs)
        for stage, num_blocks in enumerate(stage_blocks):
            for index in range(num_blocks):
                x = self.block(x, stage, index)
        return x

    def classifier(self, x: Any) -> Any:
        """Global average pooling and a dense layer to the logits, float32."""
        x = mean_over_positions(x)
        return keras.layers.Dense(
            self.num_classes,
            kernel_initializer="he_normal",
            kernel_regularizer=self.regularizer,
            dtype="float32",
            name="classifier",
        )(x)

    def _shortcut(self, x: Any, filters: int, strides: int, name: str) -> Any:
        if self.shortcut == "pad":
            return PadShortcut(filters, strides, name=f"{name}_shortcut")(x)
        x = plain_conv(filters, 1, strides, kernel_regularizer=self.regularizer, name=f"{name}_shortcut")(x)
        return IterationBatchNormalization(name=f"{name}_shortcut_norm")(x)


def mean_over_positions(x: Any) -> Any:
    """The layer that ends a network's features: float32, `(batch, channels)`."""
    # Channels are last in all layers of these networks, whatever Keras's `image_data_format` is.
    return keras.layers.GlobalAveragePooling2D("channels_last", name="global_pool", dtype="float32")(x)


@contextlib.contextmanager
def under_policy(policy: Any) -> Iterator[None]:
    """Inside, new layers compute in the types of a Keras dtype policy; `None` stands for the global one."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(keras.dtype_policies.get(policy))
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def block_name(stage: int, index: int) -> str:
    """Name of the residual unit of a block, in a ResNet and in its ReSet; both are counted from 0."""
    return f"stage{stage}_block{index}"


def check_counts(name: str, counts: Any, minimum: int = 1) -> tuple[int, ...]:
    """`counts` as a tuple, one whole number for each stage.

    Raises:
        ValueError: there is none, or one is below `minimum`.
    """
    found = integers(counts, minimum)
    if not found:
        raise ValueError(
            f"`{name}` must hold a whole number from {minimum} up for each stage. Received: {name}={counts!r}"
        )
    return found
