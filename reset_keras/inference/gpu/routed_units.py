"""The one residual unit that each image chose, and no other, by a GPU kernel of our own (Pallas, lowered to Triton)."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

Array = Any
Ref = Any


@dataclasses.dataclass(frozen=True)
class Tile:
    """What one program of the kernel computes: some channels of some pixels of one image.

    Triton's blocks have sizes that are powers of two, and its matrix products at least 16 rows and columns: both sizes
    must be such. Images and channels need not be multiples of them: what a tile has too much is masked, not padded.

    Args:
        pixels: Integer, pixels of an image, counted row by row. A small image gets the smallest tile that holds it.
        channels: Integer, output channels; as many input channels are multiplied at a time.
        num_warps: Integer, warps of 32 threads that share the work.
    """

    pixels: int
    channels: int
    num_warps: int


TILES: tuple[Tile, ...] = (Tile(128, 16, 4), Tile(128, 32, 4), Tile(64, 64, 4))
"""By their channels: the first that holds all channels of the images is used, or else the last. They decide the speed
and nothing else, so edit them after measurements (`benchmarks/tiles.py`); what was compiled before keeps its tiles."""


def routed_units(
    x: Array,
    choice: Array,
    kernel1: Array,
    bias1: Array,
    kernel2: Array,
    bias2: Array,
    *,
    activation: bool = True,
    interpret: bool = False,
) -> Array:
    """`relu(x + F_choice(x))` for each image with its own unit, and `relu(x)` for an image that chose the zero unit.

    One unit per image (eq. 2 of the paper) is a small convolution whose weights differ from image to image. Libraries
    offer none, so images are gathered by unit or weights by image, which costs more than it saves. Here a program looks
    the unit of its image up and loads its weights: nothing is moved, and a skipped unit costs one copy.

    There are two launches, for `F(x) = conv(relu(conv(x, kernel1) + bias1), kernel2) + bias2` with zeros around the
    image, each with all that follows its convolution fused in. Products are accumulated in float32; those of float32
    arrays run as TF32 on a GPU unless `jax.default_matmul_precision` asks for more.

    Args:
        x: Array of shape `(batch, height, width, channels)`, float32 or bfloat16.
        choice: Int32 array of shape `(batch,)`, the unit of each image from 0; `num_units` is the zero unit.
        kernel1: Array of shape `(num_units, 3, 3, channels, channels)`, of the type of `x`.
        bias1: Array of shape `(num_units, channels)`.
        kernel2: As `kernel1`.
        bias2: As `bias1`.
        activation: Boolean, whether a ReLU follows the addition. Default `True`.
        interpret: Boolean, whether to run without a GPU, slowly, to test it. Default `False`.

    Returns:
        Array of the shape and type of `x`.

    Raises:
        ValueError: a shape or type does not fit that of `x`.
    """
    _check(x, choice, (kernel1, kernel2), (bias1, bias2))
    tile = _tile_for(x.shape[1] * x.shape[2], x.shape[3])
    hidden = _convolution([x], choice, kernel1, bias1, tile, True, interpret)
    return _convolution([hidden, x], choice, kernel2, bias2, tile, activation, interpret)


def _check(x: Array, choice: Array, kernels: tuple[Array, Array], biases: tuple[Array, Array]) -> None:
    batch, channels, num_units = x.shape[0], x.shape[-1], kernels[0].shape[0]
    expected = {(num_units, 3, 3, channels, channels): kernels, (num_units, channels): biases, (batch,): (choice,)}
    for shape, arrays in expected.items():
        if any(array.shape != shape for array in arrays):
            received = [array.shape for array in (x, choice, *kernels, *biases)]
            raise ValueError(f"An array should have the shape {shape}. Received: x, choice, kernels, biases {received}")
    types = {array.dtype for array in (x, *kernels)}
    if types not in ({jnp.dtype("float32")}, {jnp.dtype("bfloat16")}):
        raise ValueError(
            f"`x` and the kernels must be all float32 or all bfloat16. Received: {sorted(map(str, types))}"
        )


def _tile_for(pixels: int, channels: int) -> Tile:
    tile = next((tile for tile in TILES if tile.channels >= channels), TILES[-1])
    return dataclasses.replace(tile, pixels=max(16, min(tile.pixels, pl.next_power_of_2(pixels))))


@functools.partial(jax.jit, static_argnums=(4, 5, 6))  # traced once for all iterations of a module
def _convolution(
    images: list[Array], choice: Array, kernel: Array, bias: Array, tile: Tile, activation: bool, interpret: bool
) -> Array:
    """One launch for features and, if any, the residual; without one, images of the zero unit are left undefined."""
    batch, height, width, channels = images[0].shape
    pixels = height * width
    flat = [array.reshape(batch, pixels, channels) for array in images]
    outputs = pl.pallas_call(
        functools.partial(_program, tile=tile, activation=activation, size=(height, width)),
        out_shape=jax.ShapeDtypeStruct((batch, pixels, channels), images[0].dtype),
        grid=(batch, pl.cdiv(pixels, tile.pixels), pl.cdiv(channels, tile.channels)),
        compiler_params=plt.CompilerParams(num_warps=tile.num_warps),
        interpret=interpret,
        name=f"routed_units_{len(images)}",
    )(choice, kernel.reshape(-1, 9, channels, channels), bias, *flat)
    return outputs.reshape(images[0].shape)


def _program(
    choice_ref: Ref,
    kernel_ref: Ref,
    bias_ref: Ref,
    x_ref: Ref,
    *refs: Ref,
    tile: Tile,
    activation: bool,
    size: tuple[int, int],
) -> None:
    """One tile of one image; `refs` are the residual, where there is one, and the output."""
    *residual_refs, output_ref = refs
    image = pl.program_id(0)
    pixels = pl.program_id(1) * tile.pixels + _range(tile.pixels)
    channels = pl.program_id(2) * tile.channels + _range(tile.channels)
    unit = choice_ref[image]
    num_units = kernel_ref.shape[0]

    def finish(total: Array) -> None:
        for ref in residual_refs:
            total += _load(ref, (image,), pixels, channels).astype(jnp.float32)
        total = jnp.maximum(total, 0.0) if activation else total
        output, mask = _block(output_ref, (image,), pixels, channels)
        plt.store(output, total.astype(output_ref.dtype), mask=mask)

    @pl.when(unit < num_units)
    def _() -> None:
        bias = plt.load(bias_ref.at[unit, channels], mask=channels < bias_ref.shape[1], other=0.0)
        products = _nine_products((x_ref, image, pixels), (kernel_ref, unit, channels), size)
        finish(products + bias.astype(jnp.float32)[None, :])

    if residual_refs:

        @pl.when(unit >= num_units)
        def _() -> None:
            finish(jnp.zeros((tile.pixels, tile.channels), jnp.float32))


def _nine_products(
    features: tuple[Ref, Array, Array], weights: tuple[Ref, Array, Array], size: tuple[int, int]
) -> Array:
    """The convolution at the pixels, float32: the image shifted by -1, 0 and 1 both ways, times nine matrices.

    Args:
        features: Array of images, index of the image, indices of its pixels.
        weights: Array of kernels, index of the unit, indices of its output channels.
        size: Height and width of the image, in pixels.
    """
    (x_ref, image, pixels), (kernel_ref, unit, channels), (height, width) = features, weights, size
    # Pixels are not negative: these spare the sign corrections of `//` and `%`.
    row, column = jax.lax.div(pixels, width), jax.lax.rem(pixels, width)
    total = jnp.zeros((pixels.size, channels.size), jnp.float32)
    for tap in range(9):
        down, right = tap // 3 - 1, tap % 3 - 1
        # A tile's pixels beyond the image need no test: `finish` does not store them.
        inside = (row >= -down) & (row < height - down) & (column >= -right) & (column < width - right)
        for start in range(0, x_ref.shape[2], channels.size):
            inputs = start + _range(channels.size)
            shifted = _load(x_ref, (image,), pixels + (down * width + right), inputs, inside)
            kernel = _load(kernel_ref, (unit, tap), inputs, channels)
            total += jnp.dot(shifted, kernel, preferred_element_type=jnp.float32)
    return total


def _range(size: int) -> Array:
    return jnp.arange(size, dtype=jnp.int32)


def _load(ref: Ref, index: tuple, rows: Array, columns: Array, inside: Array | None = None) -> Array:
    """Rows and columns of the matrix `ref[index]`; zeros outside of it and in the rows that are not `inside`."""
    block, mask = _block(ref, index, rows, columns, inside)
    return plt.load(block, mask=mask, other=0.0)


def _block(ref: Ref, index: tuple, rows: Array, columns: Array, inside: Array | None = None) -> tuple[Ref, Array]:
    """A view of rows and columns of the matrix `ref[index]`, and the mask of what lies within it.

    All indices are arrays, none a slice: masked loads of such views only exist both on a GPU and in interpret mode.
    """
    inside = rows < ref.shape[-2] if inside is None else inside
    mask = inside[:, None] & (columns < ref.shape[-1])[None, :]
    return ref.at[*index, rows[:, None], columns[None, :]], mask
