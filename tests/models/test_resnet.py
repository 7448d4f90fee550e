import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import EAGERLY_ON_TENSORFLOW, LOSS, images_and_labels, randomize, slow_on_jax
from plain_resnet import keras_resnet
from reset_keras import models


@slow_on_jax
def test_it_computes_and_learns_what_layers_of_keras_do():
    images, labels = images_and_labels()
    resnet, plain = randomize(rk.ResNet((2, 2), 4, (8, 8, 1), width=4)), keras_resnet((2, 2), 4, (8, 8, 1), 4)
    plain.set_weights(resnet.get_weights())
    np.testing.assert_allclose(resnet(images, training=False), plain(images, training=False), atol=1e-5)
    before = resnet.get_weights()
    for network in (resnet, plain):
        network.compile(keras.optimizers.SGD(0.1), LOSS, **EAGERLY_ON_TENSORFLOW)
        network.train_on_batch(images, labels)
    for old, ours, theirs in zip(before, resnet.get_weights(), plain.get_weights(), strict=True):
        assert np.abs(ours - old).max() > 1e-4
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("n", "millions"), [(3, 0.27), (7, 0.66)])
def test_parameters_are_those_of_he_et_al(n, millions):
    resnet = rk.ResNet((n, n, n))
    assert round(sum(np.prod(weight.shape) for weight in resnet.trainable_weights) / 1e6, 2) == millions


@slow_on_jax
@pytest.mark.parametrize("shortcut", ["pad", "projection"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 13, 2), (32, 32, 3)])
def test_any_image_from_8_by_8_pixels(shortcut, shape):
    resnet = rk.ResNet((2, 1, 1), num_classes=7, input_shape=shape, width=4, shortcut=shortcut)
    assert tuple(resnet(np.zeros((2, *shape), "float32")).shape) == (2, 7)


@pytest.mark.parametrize("controller", ["rnn", "cnn", "gate", "policy"])
def test_all_kernels_of_a_reset_are_regularized(controller):
    model = rk.ReSetNet((1,), None, 4, (8, 8, 1), controller=controller, width=4, weight_decay=0.01)
    kernels = [weight for weight in model.trainable_weights if len(weight.shape) > 1]
    for kernel in kernels:  # some start near zero
        kernel.assign(np.random.default_rng(0).normal(size=kernel.shape))
    by_hand = 0.01 * sum(np.sum(np.square(kernel)) for kernel in map(np.array, kernels))
    np.testing.assert_allclose(sum(model.losses), by_hand, rtol=1e-5)


@slow_on_jax
@pytest.mark.parametrize("make", [rk.ResNet, rk.ReSetNet])
@pytest.mark.parametrize("policy", ["float64", "bfloat16"][keras.backend.backend() == "jax" :])
def test_weight_decay_in_every_precision(make, policy):
    """The classifier's weights are float32, the others are not."""
    images, labels = images_and_labels()
    keras.config.set_dtype_policy(policy)
    try:
        network = make((2,), num_classes=4, input_shape=(8, 8, 1), width=4, weight_decay=0.01)
    finally:
        keras.config.set_dtype_policy("float32")
    network.compile("sgd", LOSS, **EAGERLY_ON_TENSORFLOW)
    kernels = [np.array(weight).astype("float64") for weight in network.trainable_weights if len(weight.shape) > 1]
    by_hand = float(LOSS(labels, network(images))) + 0.01 * sum(np.sum(np.square(kernel)) for kernel in kernels)
    logs = network.evaluate(images, labels, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(by_hand, rel=1e-5 if policy == "float64" else 0.02)
    assert np.isfinite(network.train_on_batch(images, labels)).all()


def test_a_projection_has_parameters_and_padding_none():
    pad, projection = (rk.ResNet((1, 1), width=4, shortcut=kind).count_params() for kind in ("pad", "projection"))
    assert projection - pad == 4 * 8 + 4 * 8  # a convolution 1x1 from 4 to 8 channels and its batch norm


@pytest.mark.parametrize(
    "make",
    [
        lambda: rk.ResNet((1, 2), 4, (8, 12, 1), width=4, shortcut="projection", stem_pooling=True),
        lambda: rk.ReSetNet((1, 1), None, 4, (8, 12, 1), controller="cnn", width=4),
        lambda: rk.ReSetNet((1, 1), None, 4, (8, 12, 1), controller="policy", scorer="hard", width=4),
    ],
    ids=["resnet", "cnn", "policy"],
)
def test_channels_are_last_whatever_keras_takes_for_granted(make):
    network, images = make(), np.random.default_rng(0).normal(size=(2, 8, 12, 1)).astype("float32")
    keras.config.set_image_data_format("channels_first")
    try:
        other = make()
    finally:
        keras.config.set_image_data_format("channels_last")
    other.set_weights(network.get_weights())
    np.testing.assert_array_equal(other(images), network(images))


def test_stem_pooling_halves_the_resolution():
    pooled = rk.ResNet((1, 1), width=4, stem_pooling=True)
    assert pooled.get_layer("stage0_block0").output.shape[1:3] == (16, 16)


def test_initialization_is_he():
    kernel = np.array(rk.ResNet((2, 2, 2)).get_layer("stage2_block1").conv1.kernel)
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.05)


@slow_on_jax
@pytest.mark.parametrize(
    ("name", "units", "blocks"),
    [
        ("38", (5, 5, 5), (6, 6, 6)),
        ("_1_1_5", (1, 1, 5), (2, 2, 6)),
        ("_1_5_1", (1, 5, 1), (2, 6, 2)),
        ("_5_1_1", (5, 1, 1), (6, 2, 2)),
    ],
)
def test_each_named_resnet_is_the_twin_of_its_reset(name, units, blocks):
    reset, resnet = (getattr(models, f"{kind}{name}")(7, (8, 8, 1)) for kind in ("reset", "resnet"))
    assert (reset.units, reset.num_iterations) == (units, units)
    for network in (resnet, models.static_twin(reset)):
        assert network.stage_blocks == blocks
        assert [network.get_layer(f"stage{stage}_block0").filters for stage in range(3)] == [16, 32, 64]
        assert (network.input_shape, network.output_shape) == ((None, 8, 8, 1), (None, 7))


def test_keras_file_round_trip(tmp_path):
    resnet = rk.ResNet((1, 2), 3, (8, 8, 1), width=4, weight_decay=0.0)
    resnet.save(tmp_path / "resnet.keras")
    loaded = keras.models.load_model(tmp_path / "resnet.keras")
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype("float32")
    assert isinstance(loaded, rk.ResNet)
    np.testing.assert_array_equal(loaded(images, training=False), resnet(images, training=False))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rk.ResNet(()), "`stage_blocks`"),
        (lambda: rk.ResNet((1,), input_shape=(7, 32, 3)), "at least 8 by 8 pixels"),
        (lambda: rk.ResNet((1,), shortcut="conv"), "`shortcut` must be one of"),
        (lambda: rk.ReSetNet((1, 2), num_iterations=(1,)), "an entry for each stage"),
        (lambda: rk.ResNet((1,), dtype="float16"), r"from \('width', .*'stem_pooling'\). Received: \['dtype'\]"),
        (lambda: rk.ReSetNet((1,), strides=2, dropout=0.1), r"\('width', .*Received: \['dropout', 'strides'\]"),
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
