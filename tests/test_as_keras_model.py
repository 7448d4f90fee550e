"""What people do with Keras models, done with a `RoutedModel` and a `ReSetNet`: the reference is Keras's own model."""

import contextlib
import copy
import io
import pickle

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
    reset_net,
    routed_model,
    smallest_reset_net,
)


@pytest.fixture(scope="module", params=[routed_model, reset_net])
def model(request):
    """One that is only looked at and called."""
    return request.param()


@pytest.fixture(scope="module")
def outputs(model):
    return np.array(keras.Model(model.inputs, model.outputs)(X))


def test_it_returns_its_outputs(model, outputs):
    for found in (model(X), model.predict(X, verbose=0), model.predict_on_batch(X), model.call(X)):
        equal(found, outputs)


def test_it_says_what_it_takes_and_returns(model):
    plain = keras.Model(model.inputs, model.outputs)
    for name in ("input_shape", "output_shape", "output_names", "dtype", "compute_dtype", "input_dtype"):
        assert getattr(model, name) == getattr(plain, name)
    assert [layer.name for layer in model.layers] == [layer.name for layer in plain.layers]
    assert model.input is model.inputs[0]
    assert model.compute_output_shape((5, 8, 8, 3)) == (5, 4)
    assert model.count_params() == plain.count_params()
    assert [variable.path for variable in model.weights] == [variable.path for variable in plain.weights]
    text, expected = [], []
    model.summary(print_fn=lambda line, **_: text.append(line))
    plain.summary(print_fn=lambda line, **_: expected.append(line))
    assert "\n".join(text).count("│") == "\n".join(expected).count("│")
    assert keras.models.model_from_json(model.to_json()).output_shape == (None, 4)


def test_it_is_cut_at_a_layer(model):
    features = keras.Model(model.inputs, model.layers[-1].input)
    kernel, bias = model.layers[-1].get_weights()
    equal(np.array(features(X)) @ kernel + bias, np.array(model(X)))


def test_its_layers_are_found_and_each_gives_its_output(model, outputs):
    assert model.get_layer(index=1) is model.get_layer(model.layers[1].name) is model.layers[1]
    with pytest.raises(ValueError, match="No such layer: none"):
        model.get_layer("none")
    of_all = keras.Model(model.inputs, [layer.output for layer in model.layers])(X)
    equal(of_all[-1], outputs)


def test_inputs_in_a_list_or_by_name(model, outputs):
    equal(model([X]), outputs)
    by_name = rk.ReSetNet((1,), None, 4, (8, 8, 3), width=4)
    equal(by_name({"images": X}), np.array(by_name(X)))


def test_a_call_without_state_of_its_own(model, outputs):
    trainable, fixed = ([variable.value for variable in variables] for variables in variables_of(model))
    found, _ = model.stateless_call(trainable, fixed, X)
    with_routes, _ = model.stateless_call(trainable, fixed, X, return_routes=True)
    equal(found, outputs)
    equal(with_routes.outputs, outputs)
    assert len(with_routes.routes) == len(model.routed_modules)


def test_weights_files_are_those_of_a_plain_model(model, outputs, tmp_path):
    plain = keras.Model(model.inputs, model.outputs)
    plain.save_weights(tmp_path / "plain.weights.h5")
    other = type(model).from_config(model.get_config())
    other.load_weights(tmp_path / "plain.weights.h5")
    equal(other(X), outputs)
    other.save_weights(tmp_path / "routed.weights.h5")
    again = type(model).from_config(model.get_config())
    plain = keras.Model(again.inputs, again.outputs)
    plain.load_weights(tmp_path / "routed.weights.h5")
    equal(plain(X), outputs)


def test_weights_of_another_number_of_classes(tmp_path):
    model, other = smallest_reset_net(), rk.ReSetNet((1,), None, 9, (8, 8, 3), width=4)
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match="classifier") as caught:
        other.load_weights(tmp_path / "model.weights.h5")
    assert any(shape in str(caught.value) for shape in ("(4, 4)", "(4, 9)"))
    with pytest.warns(UserWarning, match="classifier"):
        other.load_weights(tmp_path / "model.weights.h5", skip_mismatch=True)
    for layer, expected in zip(other.layers[:-1], model.layers[:-1], strict=True):
        for weight, value in zip(layer.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, value)


def test_it_is_pickled(model, outputs):
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is type(model)
    equal(again(X), outputs)


def test_it_is_cloned_onto_other_inputs_and_inside_another_model(model, outputs):
    def anew(layer):
        return type(layer).from_config(layer.get_config())

    whole = keras.Sequential([keras.Input((8, 8, 3)), model])
    clones = [
        keras.models.clone_model(model, input_tensors=keras.Input((8, 8, 3))),
        keras.models.clone_model(model, clone_function=anew),
        keras.models.clone_model(whole),
        keras.models.clone_model(whole, clone_function=anew, recursive=True),
    ]
    for clone in clones:
        clone.set_weights(model.get_weights())
        equal(clone(X), outputs)


@pytest.mark.parametrize("make", [routed_model, reset_net])
def test_every_public_name_of_a_plain_model_answers_as_there(make):
    model = make()
    plain = keras.Model(model.inputs, model.outputs)
    for name in (name for name in dir(plain) if not name.startswith("_")):
        assert answers(model, name) == answers(plain, name), name


def answers(model, name):
    """Whether an attribute is there, or what is raised instead."""
    try:
        return callable(getattr(model, name))
    except Exception as error:
        return type(error)


def variables_of(model):
    return model.trainable_variables, model.non_trainable_variables


@pytest.mark.parametrize("frozen", [False, True])
def test_it_is_saved_inside_wrappers_and_shared(frozen, tmp_path):
    part = routed_model()
    part.trainable = not frozen
    clips, left, right = keras.Input((2, 8, 8, 3)), keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    wholes = [
        (keras.Model(clips, keras.layers.TimeDistributed(part)(clips)), X.reshape(12, 2, 8, 8, 3)),
        (keras.Model([left, right], keras.layers.Dot(-1)([part(left), part(right)])), [X, X]),
    ]
    for whole, data in wholes:
        assert len(whole.weights) == len(part.weights)
        whole.save(tmp_path / "whole.keras")
        loaded = keras.models.load_model(tmp_path / "whole.keras")
        equal(loaded(data), np.array(whole(data)))
        assert len(loaded.trainable_variables) == len(part.trainable_variables)
        assert bool(part.trainable_variables) != frozen


@pytest.mark.skipif(not ON_TENSORFLOW, reason="gradients by a tape of TensorFlow")
def test_gradients_by_its_inputs_are_those_of_a_plain_model(model):
    import tensorflow as tf

    found = []
    for network in (model, keras.Model(model.inputs, model.outputs)):
        images = tf.constant(X)
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(network(images)[:, 1])
        found.append(tape.gradient(loss, images))
    assert np.abs(found[1]).max() > 0
    equal(found[0], found[1])


def test_it_is_a_layer_of_other_models(model, outputs):
    probabilities = np.array(keras.ops.softmax(outputs))
    images = keras.Input((8, 8, 3))
    clips = keras.Input((2, 8, 8, 3))
    equal(keras.Sequential([model, keras.layers.Softmax()])(X), probabilities)
    equal(keras.Sequential([keras.Input((8, 8, 3)), model, keras.layers.Softmax()])(X), probabilities)
    equal(keras.Model(images, keras.layers.Softmax()(model(images)))(X), probabilities)
    equal(keras.Model(images, keras.layers.Average()([model(images), model(images)]))(X), outputs)
    equal(
        keras.Model(clips, keras.layers.TimeDistributed(model)(clips))(X.reshape(12, 2, 8, 8, 3)),
        outputs.reshape(12, 2, 4),
    )


def test_its_routes_go_on_in_a_bigger_graph(model):
    images = keras.Input((8, 8, 3))
    found = model.network(images)
    both = keras.Model(images, {"outputs": found["outputs"], "scores": found["routes"]["module_0"]["scores"]})(X)
    equal(both["outputs"], np.array(model(X)))
    equal(both["scores"], np.array(model(X, return_routes=True).routes[0]["scores"]))
    with pytest.raises(ValueError, match=r"For the routes call `model.network`"):
        model(images, return_routes=True)


@pytest.mark.parametrize("make", [routed_model, smallest_reset_net])
def test_copies(make, tmp_path):
    model = make()
    optimizer, options = keras.optimizers.SGD(0.1, momentum=0.9), {"entropy": rk.Entropy(0.1), "run_eagerly": True}
    model.compile(optimizer, cross_entropy(), metrics=["accuracy"], **options)
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = type(model).from_config(model.get_config())
    again.load_weights(tmp_path / "model.weights.h5")
    deep = copy.deepcopy(model)
    expected = model(X, training=False)
    for other in (loaded, again, deep):
        assert type(other) is type(model)
        outputs, routes = other(X, training=False, return_routes=True)
        equal(outputs, expected)
        assert len(routes) == len(model.routed_modules)
    assert float(loaded.entropy.across) == pytest.approx(0.1)


def test_clone_model_makes_a_routed_model_of_layers():
    model = routed_model(iterations=1)
    model.compile("sgd", cross_entropy(), entropy=rk.Entropy(0.1), run_eagerly=True)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    found, expected = (np.array(network(X, return_routes=True).routes[0]["scores"]) for network in (clone, model))
    equal(found, expected)
    assert clone.entropy is not model.entropy
    assert np.isfinite(clone.fit(X, Y, verbose=0).history["entropy_across"]).all()


@pytest.mark.slow
def test_a_network_of_another_task_has_the_weights_of_the_preset():
    preset = rk.models.from_preset("reset38_efficient_cifar10")
    network = rk.models.from_preset("reset38_efficient_cifar10", num_classes=7, input_shape=(16, 16, 3))
    assert (network.input_shape, network.output_shape) == ((None, 16, 16, 3), (None, 7))
    for layer, expected in zip(network.layers[:-1], preset.layers[:-1], strict=True):
        for weight, value in zip(layer.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, value)
    with pytest.raises(ValueError, match=r"images of 3 channels. Received: input_shape=\(32, 32, 1\)"):
        rk.models.from_preset("reset20_halting_cifar10", input_shape=(32, 32, 1))


@pytest.mark.slow
def test_a_network_for_every_budget_is_calibrated_anew_for_another_task():
    preset = rk.models.from_preset("reset38_any_budget_cifar10")
    network = rk.models.from_preset("reset38_any_budget_cifar10", num_classes=7, input_shape=(8, 8, 3))
    for ours, expected in zip(network.routed_modules, preset.routed_modules, strict=True):
        for weight, value in zip(ours.pool.get_weights(), expected.pool.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, value)
    with pytest.raises(ValueError, match="no budgets yet"):
        rk.inference.set_compute(network, 0.5)
    images = np.random.default_rng(0).normal(size=(14, 8, 8, 3)).astype("float32")
    budgets = rk.inference.calibrate(network, images, np.arange(14) % 7)
    assert rk.inference.set_compute(network, 1.0) == pytest.approx(budgets.compute[-1])
    kept = rk.models.from_preset("reset38_any_budget_cifar10", input_shape=(8, 8, 3))
    assert rk.inference.set_compute(kept, 0.5) == rk.inference.set_compute(preset, 0.5)


def test_no_inputs_have_no_outputs(model):
    assert model.predict(X[:0], verbose=0).shape == (0, 4)
    routes = model.predict_routes(X[:0], verbose=0)
    assert [route["scores"].shape[0] for route in routes] == [0] * len(model.routed_modules)
    assert routes[0]["scores"].shape[1:] == (2, 3)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="formats of TensorFlow")
def test_kerass_own_export(tmp_path):
    import tensorflow as tf

    model = routed_model("gumbel_st", iterations=1)
    with contextlib.redirect_stdout(io.StringIO()):
        model.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(tmp_path / "saved")
    for images in (X[:1], X):
        equal(served.serve(images), np.array(model(images)))


def test_a_module_beside_the_way_to_the_outputs_is_refused():
    inputs = keras.Input((8, 8, 3))
    _, routes = rk.ReSet(2, 1, return_routes=True, name="aside")(inputs)
    with pytest.raises(ValueError, match=r"must depend on every module whose routes are given. Received: 'aside'"):
        rk.RoutedModel(inputs, keras.layers.Flatten()(inputs), routes=[routes])


def test_routes_given_as_a_name_are_refused():
    inputs = keras.Input((8, 8, 3))
    x, routes = rk.ReSet(2, 1, return_routes=True)(inputs)
    with pytest.raises(ValueError, match="`name` must be a string or None; give routes by `routes=`"):
        rk.RoutedModel(inputs, x, [routes])


def test_a_routed_model_in_a_routed_model_has_no_routes_to_give():
    inputs = keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match=r"those within a nested model are not. Received: none"):
        rk.RoutedModel(inputs, routed_model()(inputs))
