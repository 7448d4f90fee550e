"""The systems that `recipes/systems.py` trains: each trains, is saved, loaded and frozen."""

import keras
import numpy as np
import pytest

import reset_keras as rk
import systems
from experiment import config
from experiment.systems import SYSTEMS
from frozen import expected_of
from networks import LOSS, images_and_labels, slow_but, small_resnet

IMAGES, LABELS = images_and_labels(32)
QUICK = {"aig", "blockdrop", "act", "sharesnet"}
"""Systems with all parts that the others have, too."""


@pytest.mark.parametrize("name", slow_but(QUICK, SYSTEMS))
def test_a_system_begins_with_the_blocks_of_the_resnet_and_is_trained_saved_and_frozen(name, tmp_path):
    system = SYSTEMS[name]
    strength = 1.0 if name == "reset" else system.strengths[0]  # controllers cost more than such small units
    resnet = rk.ResNet((3,), 4, (8, 8, 1), width=4)
    model = system.network(resnet, strength=strength, images=IMAGES)
    if system.from_resnet and not system.is_static:
        assert_units_are_the_blocks_of(resnet, model)
    if system.then is not None:
        model = rk.with_scorer(model, system.then)
    before = [np.array(weight) for weight in model.trainable_variables]
    options = {"run_eagerly": True, **system.terms(strength)}  # to trace takes longer than two steps
    model.compile(keras.optimizers.SGD(0.05), LOSS, metrics=["accuracy"], **options)
    callbacks = [*system.callbacks(2).values()]
    history = model.fit(IMAGES, LABELS, epochs=2 if callbacks else 1, verbose=0, callbacks=callbacks)
    assert np.isfinite(history.history["loss"]).all()
    changed = [not np.array_equal(old, new) for old, new in zip(before, model.trainable_variables, strict=True)]
    assert np.mean(changed) > 0.5

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = expected_of(model, IMAGES)
    np.testing.assert_allclose(expected_of(loaded, IMAGES), expected, atol=1e-5)
    settled = [rk.models.with_settled_routes(loaded, IMAGES)] if system.settled else []
    for network in (loaded, *settled):
        outputs = keras.ops.convert_to_numpy(rk.inference.freeze(network)(IMAGES))
        np.testing.assert_allclose(outputs, expected, atol=1e-4, rtol=1e-4)


def assert_units_are_the_blocks_of(resnet, model):
    (module,) = model.routed_modules
    for unit in range(2):
        block = resnet.get_layer(f"stage0_block{unit + 1}")
        ours = np.array(module.pool.kernel1)[..., 4 * unit : 4 * (unit + 1)]
        np.testing.assert_array_equal(ours, block.conv1.kernel)


@pytest.mark.slow
def test_a_reset_is_trained_in_two_halves_the_second_along_routes_of_the_cost_asked_for():
    settings = config.parse(systems.SystemsConfig, "", ["--system", "reset", "--strengths", "0.7", "0.5"])
    digits = rk.data.load_digits()
    stages = systems.stages(settings, digits)
    starts = {stage.name: stage.start for stage in stages[1:]}
    assert starts == {
        "reset_0.7_drawn": "pretrain",
        "reset_0.7": "reset_0.7_drawn",
        "reset_0.5_drawn": "pretrain",
        "reset_0.5": "reset_0.5_drawn",
        "reset_0.7_settled": "reset_0.7",
        "reset_0.5_settled": "reset_0.5",
    }
    resnet = rk.ResNet((4,), 10, (8, 8, 1), width=16)
    images = digits.normalize(digits.train.images[:64])
    drawn = stages[1].prepare(resnet)
    (route,) = drawn.predict_routes(images, verbose=0)
    policy = np.array(keras.ops.softmax(route["logits"]))
    assert policy.max(axis=-1).mean() == pytest.approx(1 - 0.05 * 3 / 4, abs=0.02)  # one of four choices
    held = stages[2].prepare(drawn)
    fractions = rk.inference.compute_fractions(held, held.predict_routes(images, verbose=0))
    assert fractions.mean() == pytest.approx(0.7, abs=0.1)  # it was above 1; new controllers decide alike, in jumps
    (module,) = held.routed_modules
    assert module.controller.trainable_variables == []
    assert "hold_compute" in stages[2].training.callbacks(3)
    assert "skip_reward" in stages[1].training.compile_options()
    assert "skip_reward" not in stages[2].training.compile_options()


@pytest.fixture(scope="module")
def uneven_resnet():
    return rk.ResNet((2, 3), 4, (8, 8, 1), width=4)


@pytest.mark.parametrize("name", ["act", "sact", "iamnn", "sharesnet", "unrolled"])
def test_systems_whose_routes_are_given_run_each_block_of_stages_of_any_length(name, uneven_resnet):
    model = SYSTEMS[name].network(uneven_resnet, strength=0.0, images=IMAGES)
    _, routes = model(IMAGES[:2], return_routes=True)
    for route, blocks in zip(routes, (1, 2), strict=True):
        order = [0] * blocks if name in ("iamnn", "unrolled") else [*range(blocks)]
        np.testing.assert_array_equal(np.array(route["logits"]).argmax(axis=-1), [order] * 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--system", "static", "--strengths", "1.5"], "at most 1; received"),
        (["--system", "sharesnet", "--strengths", "0.1"], "has no strengths"),
        (["--system", "reset", "--strengths", "1.5"], "at most 1; received"),
    ],
)
def test_settings_that_make_no_sense_end_before_any_training(flags, message):
    settings = config.parse(systems.SystemsConfig, "", flags)
    with pytest.raises(ValueError, match=message):
        systems.stages(settings, rk.data.load_dataset("digits"))


def test_those_that_share_have_fewer_weights():
    resnet = small_resnet()
    count = {name: SYSTEMS[name].network(resnet).count_params() for name in ("sharesnet", "unrolled", "iamnn")}
    assert count["unrolled"] < count["sharesnet"] < resnet.count_params()
    assert count["iamnn"] < count["sharesnet"]
