"""The loss of images that halt early, against the same network made of Keras's layers with an output for each exit."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import expected_of
from networks import EAGERLY_ON_TENSORFLOW, LOSS, images_and_labels, one_module_reset, randomize, slow_on_jax
from reset_keras.inference.budgets.every_depth import outputs_at_every_depth
from reset_keras.models.routed_outputs import in_order_of_modules

X, Y = images_and_labels(32)
TO_ALL = {"shares": (1.0, 1.0), "noise": 0.0}


def resnet(seed=0):
    keras.utils.set_random_seed(seed)
    return randomize(rk.ResNet((2, 3), 4, (8, 8, 1), width=4))


def halting(resnet, **controller):
    return rk.resnet_to_reset(resnet, rk.HaltingController(1, 4, **controller), rk.HardScorer(sampled=False))


def crossentropies(logits):
    """Of each image and exit, in numpy: `(images, exits)`."""
    log_probabilities = logits - np.log(np.exp(logits.astype("float64")).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(log_probabilities, Y[:, None, None], axis=-1)[..., 0]


def logs_of(model, **options):
    return model.evaluate(X, Y, batch_size=len(X), verbose=0, return_dict=True, **options)


def test_its_share_of_the_loss_is_that_of_the_network_cut_short():
    model = halting(resnet())
    model.compile("sgd", LOSS, early_exits=rk.EarlyExits(0.4), **EAGERLY_ON_TENSORFLOW)
    losses = crossentropies(outputs_at_every_depth(model, X)[:, -1])
    weights = np.random.default_rng(0).uniform(0, 2, len(X)).astype("float32")
    for weight, logs in ((np.ones(len(X)), logs_of(model)), (weights, logs_of(model, sample_weight=weights))):
        exits = (weight[:, None] * losses[:, :-1]).mean()
        assert logs["early_exits_loss"] == pytest.approx(exits, rel=1e-4)
        of_outputs = (weight * losses[:, -1]).mean()
        assert logs["task_loss"] == pytest.approx(of_outputs, rel=1e-4)
        assert logs["loss"] == pytest.approx(0.6 * of_outputs + 0.4 * exits + logs["l2"], rel=1e-4)


def with_outputs_at_exits(resnet):
    """The ResNet, whose classifier is also applied after the earlier blocks of the last stage, as one more axis."""
    ends = [resnet.get_layer(f"stage1_block{block}_relu").output for block in range(3)]
    pooled = [keras.layers.GlobalAveragePooling2D()(x) for x in ends]
    return keras.Model(resnet.input, [resnet.get_layer("classifier")(x) for x in pooled])


def divergence(taught):
    def of_labels_and_logits(_, logits):
        expected = keras.ops.softmax(taught / 2.0)
        return 4.0 * keras.ops.sum(expected * (keras.ops.log(expected) - keras.ops.log_softmax(logits / 2.0)), axis=-1)

    return of_labels_and_logits


@slow_on_jax
@pytest.mark.parametrize("has_teacher", [False, True])
def test_a_step_is_that_of_a_network_with_an_output_for_each_exit(has_teacher):
    teacher, start = resnet(seed=1), resnet()
    model, trained = halting(start, **TO_ALL), resnet()
    distillation = rk.Distillation(teacher, 0.5, 2.0) if has_teacher else None
    exits = rk.EarlyExits(0.4)
    terms = {"early_exits": exits, "distillation": distillation}
    model.compile(keras.optimizers.SGD(0.1), LOSS, **terms, **EAGERLY_ON_TENSORFLOW)
    model.train_on_batch(X, Y)

    plain, loss = with_outputs_at_exits(trained), LOSS
    if has_teacher:
        of_teacher = divergence(teacher(X, training=False))

        def loss(y, logits):
            return 0.5 * LOSS(y, logits) + 0.5 * keras.ops.mean(of_teacher(y, logits))

    plain.compile(keras.optimizers.SGD(0.1), [loss] * 3, loss_weights=[0.2, 0.2, 0.6], **EAGERLY_ON_TENSORFLOW)
    plain.train_on_batch(X, [Y] * 3)
    np.testing.assert_allclose(expected_of(model, X), expected_of(trained, X), atol=1e-4)
    kernels = [network.get_layer("stage1_block1").conv1.kernel for network in (start, trained)]
    assert np.abs(np.array(kernels[0]) - np.array(kernels[1])).max() > 1e-4


def test_images_that_have_halted_are_seen_as_they_were_then():
    module = rk.ReSet(3, 3, rk.HaltingController(4, 4, shares=(0.75, 0.25)), rk.HardScorer(sampled=False))
    module.return_routes = True
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 4)).astype("float32")
    outputs, routes = module(x, training=True)
    seen, at_end = np.array(routes["seen_features"]), np.array(outputs).mean(axis=(1, 2))
    np.testing.assert_allclose(seen[:, 0], np.maximum(x, 0.0).mean(axis=(1, 2)), atol=1e-5)
    depths = np.array(routes["scores"])[..., :3].sum(axis=(1, 2))
    assert set(depths) == {0, 1, 2, 3}
    for k in range(3):
        halted = depths <= k
        np.testing.assert_allclose(seen[halted, k], at_end[halted], atol=1e-5)
        assert (np.abs(seen[~halted, k] - at_end[~halted]).max(axis=1) > 1e-4).all()


@slow_on_jax
def test_a_file_keeps_it(tmp_path):
    model = halting(rk.ResNet((3,), 4, (8, 8, 1), width=4), **TO_ALL)
    model.compile("sgd", LOSS, early_exits=rk.EarlyExits(0.3), **EAGERLY_ON_TENSORFLOW)
    model.train_on_batch(X, Y)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.early_exits.weight == 0.3
    assert logs_of(loaded) == pytest.approx(logs_of(model), rel=1e-4)


def test_a_model_whose_file_is_older_than_early_exits_is_refused():
    model = halting(resnet())
    *before, last = in_order_of_modules(model.network.output["routes"])
    routes = [*before, {name: last[name] for name in ("logits", "scores")}]
    older = rk.RoutedModel(model.inputs, model.network.output["outputs"], routes=routes)
    with pytest.raises(ValueError, match=r'needs "seen_features"\..*loaded from an older file'):
        older.compile("sgd", LOSS, early_exits=rk.EarlyExits())


@pytest.mark.parametrize("options", [{"data_format": "channels_first"}, {"keepdims": True}])
def test_a_pooling_over_other_axes_is_refused(options):
    inputs = keras.Input((4, 4, 4))
    halting = rk.HaltingController(2, 4)
    x, routes = rk.ReSet(1, 1, halting, rk.HardScorer(sampled=False), return_routes=True)(inputs)
    pooled = keras.layers.GlobalAveragePooling2D(**{"data_format": "channels_last", **options})(x)
    model = rk.RoutedModel(inputs, keras.layers.Dense(4)(pooled), routes=[routes])
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"the pooling with data_format=.* Received: .* ends with .*{name}={value!r}"):
        model.compile("sgd", LOSS, early_exits=rk.EarlyExits())


def test_models_without_exits_are_refused():
    with pytest.raises(ValueError, match=r"HaltingController in the last module\. Received: .* a RNNController"):
        one_module_reset().compile("sgd", LOSS, early_exits=rk.EarlyExits())
    inputs = keras.Input((4,))
    layers = [keras.layers.Dense(4) for _ in range(2)]
    x, routes = rk.ReSet(layers, 2, rk.HaltingController(3, 4), rk.HardScorer(sampled=False), return_routes=True)(
        inputs
    )
    model = rk.RoutedModel(inputs, keras.layers.Dense(4)(x), routes=[routes])
    with pytest.raises(ValueError, match="is followed by GlobalAveragePooling2D and a Dense layer without"):
        model.compile("sgd", LOSS, early_exits=rk.EarlyExits())
