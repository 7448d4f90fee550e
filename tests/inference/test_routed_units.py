import functools

import numpy as np
import pytest

from frozen import triton_kernels
from numpy_reference import conv3x3, relu

jax = pytest.importorskip("jax")

from reset_keras.inference.gpu import routed_units as kernel_module  # noqa: E402 - both need jax
from reset_keras.inference.gpu.routed_units import Tile, routed_units  # noqa: E402

NUM_UNITS = 3
BFLOAT16_ROUNDING = 2.0**-8  # relative: eight bits of precision, rounded to nearest


@pytest.fixture(autouse=True)
def _on_the_cpu():
    with jax.default_device(jax.devices("cpu")[0]):
        yield


def arrays_of(batch, height, width, channels, dtype="float32", choice=None):
    """Arguments of `routed_units`, whose kernels keep the features' size."""
    rng = np.random.default_rng([batch, height, channels])
    features = relu(rng.normal(size=(batch, height, width, channels)))
    choice = rng.permutation(np.arange(batch) % (NUM_UNITS + 1)) if choice is None else choice
    kernels = rng.normal(0, np.sqrt(2 / 9 / channels), (2, NUM_UNITS, 3, 3, channels, channels))
    biases = rng.normal(0, 0.5, (2, NUM_UNITS, channels))
    cast = functools.partial(jax.numpy.asarray, dtype=dtype)
    weights = (cast(kernels[0]), cast(biases[0]), cast(kernels[1]), cast(biases[1]))
    return cast(features), jax.numpy.asarray(choice, "int32"), *weights


def by_hand(x, choice, *weights, activation=True):
    """The result in float64, and how far from it the rounding of bfloat16 may take one.

    Two roundings count: that of the features between the convolutions, of which the second convolution adds up the
    absolute values, and that of the result.
    """
    x, *weights = (np.asarray(array, "float64") for array in (x, *weights))
    total, between = x.copy(), np.zeros_like(x)
    for image, unit in enumerate(choice):
        if unit < NUM_UNITS:
            kernel1, bias1, kernel2, bias2 = (array[unit] for array in weights)
            hidden = relu(conv3x3(x[image][None], kernel1) + bias1)
            total[image] += (conv3x3(hidden, kernel2) + bias2)[0]
            between[image] = conv3x3(hidden, np.abs(kernel2))[0]
    bound = BFLOAT16_ROUNDING * (between + np.abs(total) + BFLOAT16_ROUNDING * between)
    return (relu(total) if activation else total), bound


def interpreted(*arrays, activation=True):
    outputs = routed_units(*arrays, activation=activation, interpret=True)
    assert outputs.dtype == arrays[0].dtype
    return np.asarray(outputs, "float64")


SHAPES = [(7, 5, 7, 4), (3, 8, 8, 16), (1, 10, 13, 6)]


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_units_by_hand_in_float32(shape):
    arrays = arrays_of(*shape)
    np.testing.assert_allclose(interpreted(*arrays), by_hand(*arrays)[0], atol=1e-4)


@pytest.mark.slow
def test_units_by_hand_in_bfloat16():
    arrays = arrays_of(*SHAPES[0], dtype="bfloat16")
    expected, bound = by_hand(*arrays)
    error = np.abs(interpreted(*arrays) - expected)
    assert (error <= bound + 1e-4).all()  # 1e-4: float32's sums, as above
    assert error.max() > 1e-4, "nothing was rounded: this is no bfloat16"


@pytest.mark.slow
def test_small_tiles_that_divide_neither_pixels_nor_channels(monkeypatch):
    monkeypatch.setattr(kernel_module, "TILES", (Tile(16, 16, 1),))
    arrays = arrays_of(2, 3, 7, 20, choice=[0, 2])
    np.testing.assert_allclose(interpreted(*arrays), by_hand(*arrays)[0], atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_zero_unit_copies_the_image(dtype):
    arrays = arrays_of(7, 5, 7, 4, dtype, choice=[NUM_UNITS] * 7)
    np.testing.assert_array_equal(interpreted(*arrays), np.asarray(arrays[0], "float64"))


def test_without_activation():
    features, *rest = arrays_of(7, 5, 7, 4)
    arrays = (features - 1.0, *rest)
    outputs = interpreted(*arrays, activation=False)
    assert outputs.min() < -0.5
    np.testing.assert_allclose(outputs, by_hand(*arrays, activation=False)[0], atol=1e-4)
    zero_unit = int(np.argmax(np.asarray(rest[0]) == NUM_UNITS))
    np.testing.assert_array_equal(outputs[zero_unit], np.asarray(arrays[0][zero_unit], "float64"))


def test_arrays_that_do_not_fit_are_refused():
    x, choice, kernel1, bias1, kernel2, bias2 = arrays_of(3, 5, 7, 4)
    with pytest.raises(ValueError, match=r"should have the shape \(3, 3, 3, 4, 4\)"):
        routed_units(x, choice, kernel1[..., :2], bias1, kernel2, bias2)
    with pytest.raises(ValueError, match=r"should have the shape \(3,\)"):
        routed_units(x, choice[:2], kernel1, bias1, kernel2, bias2)
    with pytest.raises(ValueError, match="all float32 or all bfloat16"):
        routed_units(x.astype("bfloat16"), choice, kernel1, bias1, kernel2, bias2)


@pytest.mark.parametrize("channels", [4, 6, 16, 32, 64, 160])
def test_it_lowers_for_a_gpu(channels):
    assert triton_kernels(jax.jit(routed_units), *arrays_of(2, 9, 8, channels, "bfloat16")) == 2


def test_it_lowers_for_a_gpu_in_float32():
    assert triton_kernels(jax.jit(routed_units), *arrays_of(2, 9, 8, 16)) == 2


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="there is no GPU")
@pytest.mark.parametrize("channels", [4, 6, 16, 32, 64, 160])
def test_units_by_hand_on_a_gpu(channels):
    with jax.default_device(jax.devices()[0]):
        arrays = arrays_of(6, 9, 16, channels, "bfloat16")
        outputs = np.asarray(routed_units(*arrays), "float64")
    expected, bound = by_hand(*arrays)
    assert (np.abs(outputs - expected) <= bound + 1e-4).all()
