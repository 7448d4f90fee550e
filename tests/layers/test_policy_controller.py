"""A policy that sees the image once, and the context that it decides by."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import ON_TENSORFLOW, assert_equal_at_every_batch_size, expected_of
from networks import EAGERLY_ON_TENSORFLOW, LOSS, images_and_labels, randomize, slow_on_jax
from reset_keras.models import with_dtype_policy
from reset_keras.models.operations import count_operations
from reset_keras.models.policy_network import policy_layers
from reset_keras.training import train_all_but_controllers, train_only_controllers

FEATURES = np.random.default_rng(0).normal(size=(4, 8, 8, 6)).astype("float32")
CONTEXT = np.random.default_rng(1).normal(size=(4, 5)).astype("float32")
IMAGES, LABELS = images_and_labels()


def policy_net(scorer="gumbel_st", units=(2, 2), **options):
    options = {"controller": "policy", "allowed": "sequential", **options}
    return rk.ReSetNet(units, None, 4, (8, 8, 1), scorer=scorer, width=4, **options)


def various_routes():
    model = policy_net(units=(1, 2))
    for module in model.routed_modules:
        module.controller.open_iterations.assign(1)
    for seed in range(20):
        randomize(model, seed)
        routes = model(IMAGES, training=False, return_routes=True).routes[1]
        skips = np.array(routes["scores"])[..., -1].mean(axis=0)
        if 0 < skips[1] < 1:
            assert skips[0] == 0
            return model
    raise AssertionError


def test_layers_that_were_called_before_are_found_where_the_model_calls_them():
    net = keras.Sequential([keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D()])
    module = rk.ReSet(2, 2, "policy", "hard", allowed="sequential", return_routes=True)
    before, inputs = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    module(before, net(before))
    x, routes = module(inputs, net(inputs))
    outputs = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x))
    model = rk.RoutedModel(inputs, outputs, routes=[routes])
    assert [layer.name for layer in policy_layers(model, [module])] == [net.name]
    model.compile("sgd", LOSS, **EAGERLY_ON_TENSORFLOW)
    assert np.isfinite(model.train_on_batch(IMAGES, LABELS)).all()


def test_all_logits_are_one_dense_layer_of_the_context():
    module = rk.ReSet(2, 3, "policy", return_routes=True)
    module(FEATURES, CONTEXT)
    module.controller.dense.bias.assign(np.arange(9.0))
    logits = module(FEATURES, CONTEXT)[1]["logits"]
    kernel, bias = module.controller.dense.get_weights()
    np.testing.assert_allclose(logits, (CONTEXT @ kernel + bias).reshape(4, 3, 3), atol=1e-5)
    np.testing.assert_allclose(module(10 * FEATURES, context=CONTEXT)[1]["logits"], logits, atol=1e-5)


def test_the_first_iterations_must_run_a_unit():
    module = rk.ReSet(2, 3, "policy", "hard", return_routes=True)
    module(FEATURES, CONTEXT)
    module.controller.dense.bias.assign([0.0, 0.0, 100.0] * 3)  # which skips all
    for count in range(4):
        module.controller.open_iterations.assign(count)
        runs = 1 - np.array(module(FEATURES, CONTEXT)[1]["scores"])[..., -1]
        np.testing.assert_array_equal(runs, np.broadcast_to(np.arange(3) < count, (4, 3)))


@slow_on_jax
def test_under_mixed_bfloat16_the_context_stays_float32():
    """Of a module, and of a network with its policy network, frozen too."""
    context = CONTEXT + np.float32(2**-12)
    rounded = np.array(keras.ops.cast(keras.ops.cast(context, "bfloat16"), "float32"))
    module = rk.ReSet(2, 3, "policy", return_routes=True, dtype="mixed_bfloat16")
    output, routes = module(FEATURES, context)
    kernel, bias = module.controller.dense.get_weights()
    exact, coarse = (np.reshape(seen @ kernel + bias, (4, 3, 3)) for seen in (context, rounded))
    assert np.abs(exact - coarse).max() > 1e-3
    assert output.dtype == keras.ops.cast(0, "bfloat16").dtype
    np.testing.assert_allclose(routes["logits"], exact, atol=1e-5)

    model = with_dtype_policy(randomize(policy_net(policy_blocks=(1, 2))), "mixed_bfloat16")
    may_choose = np.array([[True, False, True], [False, True, True]])  # unit k or none, in iteration k
    for network in (model.network, rk.inference.freeze(model, "dense").graph):
        seen = np.array(network.get_layer("policy_network")(IMAGES))
        assert np.any(seen != np.array(keras.ops.cast(keras.ops.cast(seen, "bfloat16"), "float32")))
        found = network(IMAGES, training=False)["routes"]
        for number, routed in enumerate(model.routed_modules):
            kernel, bias = routed.controller.dense.get_weights()
            logits = np.reshape(seen @ kernel + bias, (-1, 2, 3))
            ours = np.array(found[f"module_{number}"]["logits"])
            np.testing.assert_allclose(ours[:, may_choose], logits[:, may_choose], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rk.ReSet(2, 2, "policy")(FEATURES), r"module\(x, context\)"),
        (lambda: rk.ReSet(2, 2, "policy")(keras.Input((8, 8, 6))), r"module\(x, context\)"),
        (lambda: rk.ReSet(2, 2, "rnn")(FEATURES, CONTEXT), "a context for a RNNController"),
        (lambda: rk.ReSet(2, 2, "gate")(keras.Input((8, 8, 6)), context=keras.Input((5,))), "a context for a Gate"),
        (lambda: policy_net(controller="rnn", policy_blocks=(1, 1)), "needs controller='policy'"),
    ],
)
def test_a_context_is_given_where_it_is_looked_at(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_it_is_built_with_the_shape_of_its_context():
    with pytest.raises(ValueError, match="A PolicyController decides by a context"):
        rk.PolicyController(3, 2).build((None, 8, 8, 4))


def test_features_and_context_may_be_given_by_name():
    features, context = keras.Input((8, 8, 6)), keras.Input((5,))
    module = rk.ReSet(2, 2, "policy")
    model = keras.Model([features, context], module(inputs=features, context=context))
    assert tuple(keras.tree.flatten(module.input)[0].shape) == (None, 8, 8, 6)
    assert model([FEATURES, CONTEXT]).shape == FEATURES.shape


@slow_on_jax
def test_a_network_with_a_policy_is_trained_saved_and_loaded(tmp_path):
    model = policy_net(units=(1, 1), policy_blocks=(2, 1))
    model.compile("sgd", LOSS, skip_reward=rk.SkipReward(0.1), **EAGERLY_ON_TENSORFLOW)
    before = [np.array(weight) for weight in model.get_layer("policy_network").trainable_weights]
    model.train_on_batch(IMAGES, LABELS)
    after = model.get_layer("policy_network").trainable_weights
    assert all(np.any(old != np.array(new)) for old, new in zip(before, after, strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.policy_blocks == (2, 1)
    np.testing.assert_allclose(expected_of(loaded, IMAGES), expected_of(model, IMAGES), atol=1e-5)
    other = rk.with_scorer(loaded, "softmax")
    ours, theirs = (network(IMAGES, training=False, return_routes=True).routes[1] for network in (other, model))
    np.testing.assert_allclose(ours["logits"], theirs["logits"], atol=1e-5)


@pytest.mark.slow
def test_a_list_of_controllers_may_have_policies(tmp_path):
    mixed = [rk.RNNController(1), rk.PolicyController(1, 1)]
    model = randomize(policy_net(units=(1, 1), controller=mixed, policy_blocks=(1, 2)))
    contexts = [len(keras.tree.flatten(module.input)) - 1 for module in model.routed_modules]
    assert contexts == [0, 1]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.policy_blocks == (1, 2)
    np.testing.assert_allclose(expected_of(loaded), expected_of(model), atol=1e-5)
    assert_equal_at_every_batch_size(rk.inference.freeze(model), model)


@pytest.mark.slow
def test_frozen_and_exported_it_computes_the_same():
    model = various_routes()
    for execution in ("auto", "dense") if ON_TENSORFLOW else ("auto",):
        assert_equal_at_every_batch_size(rk.inference.freeze(model, execution), model)


def test_where_all_iterations_must_run_their_unit_it_is_the_resnet():
    resnet = randomize(rk.ResNet((2, 3), 4, (8, 8, 1), width=4))
    reset = rk.resnet_to_reset(resnet, "policy", "hard", allowed="sequential")
    for module in reset.routed_modules:
        module.controller.open_iterations.assign(module.num_iterations)
    np.testing.assert_allclose(expected_of(reset), expected_of(resnet), atol=1e-5)


def test_its_operations_are_those_of_the_controllers():
    model, plain = policy_net(policy_blocks=(1, 2)), policy_net(controller="rnn")
    counted, without = (count_operations(m.network, m.routed_modules) for m in (model, plain))
    assert (counted.fixed, counted.static) == (without.fixed, without.static)
    stem, first = 64 * 9 * 4, 2 * 64 * 9 * 4 * 4
    second = 16 * 9 * 4 * 8 + 3 * 16 * 9 * 8 * 8
    assert counted.controllers == stem + first + second + 2 * 8 * (2 * 3)


def test_the_policy_network_is_trained_with_the_controllers():
    model = policy_net()
    policy = model.get_layer("policy_network")
    train_only_controllers(model)
    decides = {id(weight) for weight in policy.trainable_weights}
    assert decides
    others = {weight.path.split("/")[1] for weight in model.trainable_weights if id(weight) not in decides}
    assert others == {"controller"}
    train_all_but_controllers(model)
    assert not policy.trainable_weights
    assert model.trainable_weights


def test_a_context_of_later_features_leaves_what_made_these_to_the_main_path():
    inputs = keras.Input((8, 8, 4))
    x, first = rk.ReSet(2, 2, "rnn", "gumbel_st", return_routes=True, name="first")(inputs)
    x = keras.layers.Conv2D(4, 3, padding="same", name="between")(x)
    context = keras.layers.GlobalAveragePooling2D(name="seen")(x)
    x, second = rk.ReSet(2, 2, rk.PolicyController(3, 2), "gumbel_st", return_routes=True, name="second")(x, context)
    outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))
    model = rk.RoutedModel(inputs, outputs, routes=[first, second])
    assert [layer.name for layer in policy_layers(model, model.routed_modules)] == ["seen"]


def test_the_curriculum_opens_no_unit_that_the_mask_forbids():
    inputs, context = keras.Input((8, 8, 4)), keras.Input((3,))
    mask = [[False, False, True], [True, True, True]]
    module = rk.ReSet(2, 2, rk.PolicyController(3, 2), "hard", allowed=mask, return_routes=True)
    module(inputs, context)
    module.controller.open_iterations.assign(2.0)
    rng = np.random.default_rng(0)
    images, contexts = rng.normal(size=(5, 8, 8, 4)).astype("float32"), rng.normal(size=(5, 3)).astype("float32")
    scores = np.array(module(images, contexts)[1]["scores"])
    np.testing.assert_array_equal(scores[:, 0], np.tile([0, 0, 1], (5, 1)))
    assert np.all(scores[:, 1, 2] == 0)


def test_without_a_zero_unit_all_units_stay_open():
    module = rk.ReSet(2, 2, "policy", "hard", zero_unit=False, return_routes=True)
    module(FEATURES, CONTEXT)
    module.controller.dense.bias.assign([0.0, 100.0] * 2)
    module.controller.open_iterations.assign(2)
    assert (np.array(module(FEATURES, CONTEXT)[1]["scores"])[..., 1] == 1).all()
