import keras
import numpy as np
import pytest

import reset_keras as rk
from reset_keras import models


@pytest.mark.parametrize(("n", "millions"), [(3, 0.27), (5, 0.46), (7, 0.66), (9, 0.85)])
def test_parameters_are_those_of_he_et_al(n, millions):
    resnet = rk.ResNet((n, n, n))
    assert round(sum(np.prod(weight.shape) for weight in resnet.trainable_weights) / 1e6, 2) == millions


@pytest.mark.parametrize("shortcut", ["pad", "projection"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 13, 2), (32, 32, 3)])
def test_any_image_from_8_by_8_pixels(shortcut, shape):
    resnet = rk.ResNet((2, 1, 1), num_classes=7, input_shape=shape, width=4, shortcut=shortcut)
    assert tuple(resnet(np.zeros((2, *shape), "float32")).shape) == (2, 7)


def test_a_projection_has_parameters_and_padding_none():
    pad, projection = (rk.ResNet((1, 1), width=4, shortcut=kind).count_params() for kind in ("pad", "projection"))
    assert projection - pad == 4 * 8 + 4 * 8  # a convolution 1x1 from 4 to 8 channels and its batch norm


def test_stem_pooling_halves_the_resolution():
    pooled = rk.ResNet((1, 1), width=4, stem_pooling=True)
    assert pooled.get_layer("stage0_block0").output.shape[1:3] == (16, 16)


def test_initialization_is_he():
    kernel = np.array(rk.ResNet((2, 2, 2)).get_layer("stage2_block1").conv1.kernel)
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.05)


@pytest.mark.parametrize("build", [models.resnet38, models.resnet_1_1_5, models.resnet_1_5_1, models.resnet_5_1_1])
def test_each_named_resnet_is_the_twin_of_its_reset(build):
    twin = models.static_twin(getattr(models, build.__name__.replace("resnet", "reset"))())
    resnet = build()
    assert resnet.stage_blocks == twin.stage_blocks
    assert resnet.get_config()["width"] == twin.get_config()["width"]


def test_resnet38_has_38_layers():
    assert 2 + 2 * sum(models.resnet38().stage_blocks) == 38


def test_keras_file_round_trip(tmp_path):
    resnet = rk.ResNet((1, 2), 3, (8, 8, 1), width=4, weight_decay=0.0)
    resnet.save(tmp_path / "resnet.keras")
    loaded = keras.models.load_model(tmp_path / "resnet.keras")
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype("float32")
    assert isinstance(loaded, rk.ResNet)
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), resnet.predict(images, verbose=0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rk.ResNet((0, 1)), "`stage_blocks` must hold a whole number from 1 up"),
        (lambda: rk.ResNet(()), "`stage_blocks`"),
        (lambda: rk.ResNet((1,), input_shape=(7, 32, 3)), "at least 8 by 8 pixels"),
        (lambda: rk.ResNet((1,), shortcut="conv"), "`shortcut` must be one of"),
        (lambda: rk.ResNet((1,), num_classes=0), "`num_classes` must be at least 1"),
        (lambda: rk.ResNet((1,), weight_decay=-1.0), "`weight_decay` must not be negative"),
        (lambda: rk.ReSetNet((1, 2), num_iterations=(1,)), "an entry for each stage"),
        (lambda: rk.ReSetNet((1, 2.5)), "`units` must hold a whole number"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
@pytest.mark.parametrize("strides", [1, 2, 3])
def test_the_pad_shortcut_takes_every_nth_pixel(size, strides):
    images = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    outputs = np.array(rk.PadShortcut(5, strides)(images))
    np.testing.assert_array_equal(outputs[..., :3], images[:, ::strides, ::strides])
    assert outputs.shape[-1] == 5
    assert not outputs[..., 3:].any()
