"""Training a `RoutedModel` and a `ReSetNet` as Keras's own models are trained, and what is said of mistakes in data."""

import functools

import keras
import numpy as np
import pytest

import reset_keras as rk
from keras_models import (
    ON_TENSORFLOW,
    X,
    Y,
    cross_entropy,
    equal,
    routed_model,
    smallest_reset_net,
    smallest_routed_model,
)


@pytest.mark.parametrize("make", [routed_model, smallest_reset_net])
def test_it_is_trained_inside_another_model(make, tmp_path):
    part = make()
    whole = keras.Sequential([keras.layers.Rescaling(0.5), part, keras.layers.Dense(4)])
    whole.compile("sgd", cross_entropy(), run_eagerly=True)
    before = part.get_weights()
    whole.fit(X, Y, verbose=0)
    assert any((old != new).any() for old, new in zip(before, part.get_weights(), strict=True))
    whole.save(tmp_path / "whole.keras")
    loaded = keras.models.load_model(tmp_path / "whole.keras")
    equal(loaded(X), np.array(whole(X)))
    assert isinstance(loaded.layers[1], type(part))


@pytest.mark.parametrize(
    ("losses", "metrics"),
    [
        ({"head": cross_entropy()}, {"head": ["accuracy"]}),
        (cross_entropy(), ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2)]),
        ([cross_entropy()], [["accuracy"]]),
        ("sparse_categorical_crossentropy", None),
        (lambda y, outputs: keras.losses.sparse_categorical_crossentropy(y, outputs, from_logits=True), None),
    ],
)
def test_losses_and_metrics_as_keras_takes_them(losses, metrics):
    model = smallest_routed_model()
    plain = keras.Model(model.inputs, model.outputs)
    for network in (model, plain):
        network.compile("sgd", losses, metrics=metrics, run_eagerly=True)
    logs, expected = (network.evaluate(X, Y, verbose=0, return_dict=True) for network in (model, plain))
    for name, value in expected.items():
        assert logs[name] == pytest.approx(value, rel=1e-5), name
    assert np.isfinite(model.fit(X, Y, verbose=0).history["loss"]).all()


def test_it_trains_by_batches_with_weights_and_validation_as_a_plain_model_does():
    model = smallest_reset_net()
    copied = type(model).from_config(model.get_config())
    copied.set_weights(model.get_weights())
    weights, classes = np.linspace(0.1, 3, 24).astype("float32"), {0: 1.0, 1: 2.0, 2: 0.5, 3: 4.0}
    all_logs = []
    for network in (model, keras.Model(copied.inputs, copied.outputs)):
        options = {"loss": cross_entropy(), "metrics": ["accuracy"], "weighted_metrics": ["accuracy"]}
        fit = functools.partial(network.fit, batch_size=8, shuffle=False, verbose=0)
        network.compile(keras.optimizers.SGD(0.05), **options, run_eagerly=network is not model)
        fits = [
            fit(X, Y, sample_weight=weights, validation_split=0.25, epochs=2),
            fit(X, Y, class_weight=classes),
        ]
        network.compile(keras.optimizers.SGD(0.05), **options, run_eagerly=True)
        batches = ((X[:16], Y[:16]) for _ in range(2))
        fits.append(network.fit(batches, steps_per_epoch=2, validation_data=(X, Y, weights), verbose=0))
        on_batches = [
            on_batch(X, Y, sample_weight=weights, return_dict=True)
            for on_batch in (network.train_on_batch, network.test_on_batch)
        ]
        evaluated = network.evaluate(X, Y, sample_weight=weights, verbose=0, return_dict=True)
        all_logs.append([*(fit.history for fit in fits), *on_batches, evaluated])
    for logs, expected in zip(*all_logs, strict=True):
        assert {"loss", "accuracy"} < set(expected)
        for name, value in expected.items():
            assert logs[name] == pytest.approx(value, rel=1e-4), name
    first, _, third, trained, tested, evaluated = all_logs[0]
    assert {"val_loss", "task_loss", "val_skip_fraction"} <= set(first) & set(third)
    assert tested.keys() == evaluated.keys() < trained.keys()
    assert not any(name.startswith("gradient_norm") for name in evaluated)


def test_a_network_is_trained_on_in_plain_keras(tmp_path):
    network = smallest_reset_net()
    features = keras.Model(network.inputs, network.get_layer("global_pool").output)
    features.trainable = False
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(features(inputs)))
    model.compile("sgd", cross_entropy(), metrics=["accuracy"], run_eagerly=True)
    before = features.get_weights()
    model.fit(X, Y % 3, verbose=0)
    for old, new in zip(before, features.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert len(model.trainable_variables) == 2
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    equal(loaded(X), np.array(model(X)))
    assert len(loaded.trainable_variables) == 2


def test_one_reward_in_two_models():
    reward = rk.SkipReward(target=0.6, target_rate=0.5)
    first, second = routed_model("gumbel_st"), routed_model("gumbel_st")
    first.compile("sgd", cross_entropy(), skip_reward=reward, run_eagerly=True)
    first.train_on_batch(X, Y)
    price = float(first.skip_reward.price)
    assert price > 0
    second.compile("sgd", cross_entropy(), skip_reward=reward)
    assert float(second.skip_reward.price) == 0.0
    first.compile("sgd", cross_entropy(), skip_reward=first.skip_reward)
    assert float(first.skip_reward.price) == price


def with_nan(values):
    values = np.array(values, "float32")
    values.flat[1] = np.nan
    return values


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"y": None}, "`y` must hold the labels of the 24 inputs. Received: None"),
        ({"y": np.array(["a", "b"])[Y % 2]}, "`y` must hold classes from 0 to 3, .* Received: .*'a'.*StringLookup"),
        ({"y": Y + 0.5}, "`y` must hold classes from 0 to 3, .* whole numbers. Received: 0.5"),
        ({"y": keras.ops.convert_to_tensor(Y + 1)}, "`y` must hold classes from 0 to 3, .* Received: 4"),
        ({"y": Y, "sample_weight": with_nan(np.ones(24))}, "`sample_weight` must hold finite .* in 1 of 24"),
        ({"y": Y, "validation_data": (with_nan(X), Y)}, r"`validation_data\[0\]` must hold finite numbers"),
        ({"y": Y, "validation_data": (X, Y - 1)}, r"`validation_data\[1\]` must hold classes .* Received: -1"),
        ({"y": Y, "validation_data": (X[:, :7], Y)}, r"`validation_data\[0\]` must hold at least one input of shape"),
    ],
)
def test_mistakes_in_data_are_named_before_training(data, message):
    model = smallest_routed_model()
    model.compile("sgd", cross_entropy())
    with pytest.raises(ValueError, match=message):
        model.fit(X, **data, verbose=0)
    assert int(model.optimizer.iterations) == 0


@pytest.fixture(params=[True, False], ids=["deterministic", "as_usual"])
def _determinism(request):
    """TensorFlow's operations deterministic, as in recipes, or not, whatever an earlier test left."""
    from tensorflow.python.framework import config

    was = config.is_op_determinism_enabled()
    turn = {True: config.enable_op_determinism, False: config.disable_op_determinism}
    turn[request.param]()
    yield
    turn[was]()


@pytest.mark.slow
@pytest.mark.skipif(not ON_TENSORFLOW, reason="JAX takes any label, and makes NaN of it")
@pytest.mark.usefixtures("_determinism")
def test_a_label_in_a_dataset_or_a_batch_that_is_no_class_is_named():
    import tensorflow as tf

    model = smallest_routed_model()
    model.compile("sgd", cross_entropy())
    data = tf.data.Dataset.from_tensor_slices((X, Y + 1)).batch(16)
    uses = [lambda use=use: use(data, verbose=0) for use in (model.fit, model.evaluate)]
    uses += [lambda use=use: use(X, Y + 1) for use in (model.train_on_batch, model.test_on_batch)]
    # Loss and gradient are computed side by side: either may be the first to fail.
    in_loss, in_gradient = r"\[0, 4\)\. Received: 4", r"the range of the outputs\. Received: a larger one"
    for use in uses:
        with pytest.raises(ValueError, match=rf"Labels must be classes in ({in_loss}|{in_gradient}) in the data"):
            use()


@pytest.mark.skipif(not ON_TENSORFLOW, reason="an error of TensorFlow")
def test_an_unknown_label_is_named_where_the_gradient_fails_first():
    import tensorflow as tf

    from reset_keras.models.train_step import _labels_in_words

    message = (
        "segment_ids[47] = 192 is out of range [0, 192)\n\t [[{{node gradient_tape/compile_loss/"
        "sparse_categorical_crossentropy/SparseSoftmaxCrossEntropyWithLogits/UnsortedSegmentSum}}]]"
    )
    with pytest.raises(ValueError, match="a larger one in the data"), _labels_in_words():
        raise tf.errors.InvalidArgumentError(None, None, message)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="a dataset of TensorFlow")
def test_what_else_is_wrong_in_a_dataset_stays_tensorflows_error():
    import tensorflow as tf

    model = smallest_routed_model()
    model.compile("sgd", cross_entropy())
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    data = data.map(lambda x, y: (tf.debugging.assert_less(x, -9e9, "wrong images"), (x, y))[1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="wrong images"):
        model.fit(data, verbose=0)


@pytest.mark.slow
@pytest.mark.skipif(not ON_TENSORFLOW, reason="a strategy of TensorFlow")
def test_it_is_trained_under_a_strategy_of_one_device():
    import tensorflow as tf

    histories = []
    for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0"])):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            model = routed_model(iterations=1)
            model.compile("sgd", cross_entropy(), metrics=["accuracy"], run_eagerly=not histories)
        options = {"batch_size": 16, "shuffle": False, "validation_data": (X, Y), "verbose": 0}
        histories.append(model.fit(X, Y, **options).history)
    assert {"loss", "val_entropy_across"} < set(histories[0])
    for name, values in histories[0].items():
        assert histories[1][name] == pytest.approx(values, rel=1e-4), name
