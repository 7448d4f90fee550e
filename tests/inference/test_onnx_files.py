"""ONNX files that are written without TensorFlow, against the Keras models.

They are written from numpy arrays, so on JAX it is enough to see that the weights of each kind of layer get there.
"""

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import expected_of
from networks import (
    ONE_BACKEND,
    images_and_labels,
    one_module_reset,
    randomize,
    small_reset,
    small_resnet,
    spread_scores,
)
from reset_keras.inference import export, freeze
from reset_keras.inference.exports.onnx_modules import UnwrittenLayerError
from reset_keras.inference.exports.onnx_writer import onnx_model

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
IMAGES, _ = images_and_labels(32)


def session_of(network, one_image=False):
    model = onnx_model(network, one_image)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 18}
    assert {weight.name for weight in model.graph.initializer} <= set(names_read(model.graph))
    return runtime.InferenceSession(model.SerializeToString())


def names_read(graph):
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from names_read(attribute.g)


def check(model, images=IMAGES, *, execution="auto", threshold=0.0, expected=None):
    """Runs the file of a model for batches of several sizes, and returns the session."""
    network = freeze(model, execution, threshold)
    session = session_of(network)
    expected = expected_of(model, images) if expected is None else expected
    for size in (1, 7, 32):
        for start in range(0, 8, size):
            (outputs,) = session.run(["outputs"], {"images": images[start : start + size]})
            np.testing.assert_allclose(outputs, expected[start : start + size], atol=1e-4, rtol=1e-4)
    assert session.run(["outputs"], {"images": images[:0]})[0].shape == (0, *expected.shape[1:])
    single = session_of(network, one_image=True)
    assert single.get_inputs()[0].shape == [1, *images.shape[1:]]
    outputs = [single.run(["outputs"], {"images": image[np.newaxis]})[0][0] for image in images[:8]]
    np.testing.assert_allclose(outputs, expected[:8], atol=1e-4, rtol=1e-4)
    return session


def one_stage_resnet():
    return randomize(rk.ResNet((3,), 4, (8, 8, 1), width=4))


def routed_differently(scorer):
    """A network in which images of a batch of 7 prefer different units."""
    model = one_module_reset(scorer)
    for seed in range(20):
        randomize(model, seed)
        units = np.array(model(IMAGES[:7], return_routes=True).routes[0]["logits"]).argmax(axis=-1)
        if any(len(np.unique(column)) > 1 for column in units.T):
            return model
    raise AssertionError


@pytest.mark.parametrize(
    ("scorer", "execution"),
    [
        ("softmax", "auto"),  # is "dense"
        ("gumbel_st", "auto"),
        *(
            pytest.param(*case, marks=ONE_BACKEND)
            for case in (
                ("gumbel_softmax", "auto"),
                ("hard", "dense"),
                ("top_k", "auto"),
                (rk.TopKScorer(2, temperature=0.5), "auto"),
                (rk.TopKScorer(2, temperature=0.5), "dense"),
            )
        ),
    ],
)
def test_every_scorer(scorer, execution):
    check(routed_differently(scorer), execution=execution)


@ONE_BACKEND
@pytest.mark.parametrize(
    ("scorer", "allowed"),
    [
        ("softmax", "sequential"),
        ("gumbel_st", "sequential"),
        ("gumbel_st", [[1, 0, 1], [1, 1, 0]]),
        (rk.TopKScorer(2), [[1, 0, 1], [1, 1, 0]]),
        ("gumbel_st", [[0, 1, 0], [0, 0, 1]]),
        (rk.TopKScorer(1), [[0, 1, 1], [0, 1, 0]]),
        ("softmax", [[0, 0, 1], [0, 1, 0]]),
        (rk.TopKScorer(2), [[0, 0, 1], [0, 1, 0]]),
    ],
)
def test_masks_of_what_may_be_chosen(scorer, allowed):
    inputs = keras.Input((8, 8, 3))
    x = rk.ReSet(2, 2, scorer=scorer, allowed=allowed)(inputs)
    images = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")
    check(randomize(keras.Model(inputs, x)), images)


def convolutions(graph):
    """How many a graph has, in all of its branches."""
    inner = (convolutions(attribute.g) for node in graph.node for attribute in node.attribute)
    return sum(node.op_type == "Conv" for node in graph.node) + sum(inner)


@ONE_BACKEND
@pytest.mark.parametrize("zero_unit", [True, False])
@pytest.mark.parametrize("scorer", ["gumbel_st", rk.TopKScorer(1)])
@pytest.mark.parametrize("allowed", [[[0, 1, 1], [1, 1, 0]], [[0, 1, 0], [1, 0, 0]], "sequential"])
def test_units_that_a_mask_forbids_are_not_in_the_file(allowed, scorer, zero_unit):
    inputs = keras.Input((8, 8, 3))
    if not (zero_unit or allowed == "sequential"):
        allowed = [row[:2] for row in allowed]
    module = rk.ReSet(2, 2, scorer=scorer, allowed=allowed, zero_unit=zero_unit)
    model = keras.Model(inputs, module(inputs))
    assert convolutions(onnx_model(freeze(model), one_image=True).graph) == 2 * module.allowed.mask[:, :2].sum()


@ONE_BACKEND
@pytest.mark.parametrize("second", [[1, 0, 0], [1, 1, 0]])
def test_images_that_have_halted_run_no_unit_where_the_mask_forbids_to_skip(second):
    inputs = keras.Input((8, 8, 3))
    halting = rk.ACT(bias=9.0)  # all images halt after the first iteration
    x = rk.ReSet(2, 2, "cnn", "gumbel_st", allowed=[[1, 0, 0], second], halting=halting)(inputs)
    model = randomize(keras.Model(inputs, x))
    check(model, np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32"))
    graph = onnx_model(freeze(model), one_image=True).graph
    unguarded = sum(node.op_type == "Conv" for node in graph.node)
    assert (unguarded, convolutions(graph)) == (2 + 2, 2 + 2 + 2 * sum(second))  # the controllers' own, a unit's


@ONE_BACKEND
def test_a_policy_that_must_run_units_where_the_mask_allows_none():
    inputs = keras.Input((8, 8, 3))
    mask = [[False, False, True], [True, True, True]]
    module = rk.ReSet(2, 2, rk.PolicyController(3, 2), "hard", allowed=mask)
    model = randomize(keras.Model(inputs, module(inputs, keras.layers.GlobalAveragePooling2D()(inputs))))
    module.controller.open_iterations.assign(2.0)
    check(model, np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32"))


@ONE_BACKEND
def test_two_modules_and_strides_between():
    check(randomize(small_reset("gumbel_st")))


@ONE_BACKEND
@pytest.mark.parametrize("options", [{}, {"shortcut": "projection"}, {"stem_pooling": True}])
def test_a_resnet(options):
    check(randomize(small_resnet(**options)))


@pytest.mark.parametrize("controller", ["cnn", "gate", rk.RNNController(3, hidden_size=5)])
def test_other_controllers(controller):
    check(randomize(one_module_reset("gumbel_st", controller=controller)))


@pytest.mark.parametrize("execution", ["auto", pytest.param("dense", marks=ONE_BACKEND)])
def test_a_convolution_that_units_share(execution):
    check(randomize(one_module_reset("gumbel_st", pool_options={"shared": "second"})), execution=execution)


@pytest.mark.parametrize("execution", ["auto", pytest.param("dense", marks=ONE_BACKEND)])
def test_a_policy_that_sees_the_image_once(execution):
    model = randomize(one_module_reset("gumbel_st", controller="policy"), 3)
    module = model.routed_modules[0]
    module.controller.open_iterations.assign(1)
    module.controller.dense.bias.assign([0.0, 0.0, 5.0] * 2)
    check(model, execution=execution)


@ONE_BACKEND
def test_a_fixed_route():
    inputs = keras.Input((8, 8, 3))
    x = rk.ReSet(2, 4, controller=rk.FixedController(3, [1, 0, 2, 1]), scorer="hard", activation=None)(inputs)
    images = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")
    check(randomize(keras.Model(inputs, x)), images)


@ONE_BACKEND
@pytest.mark.parametrize(("scorer", "kept"), [("softmax", 3), (rk.TopKScorer(2), 2)])
def test_scores_that_are_not_above_a_threshold(scorer, kept):
    model = randomize(one_module_reset(scorer))
    scores = np.array(model.routed_modules[0].scorer(model(IMAGES, return_routes=True).routes[0]["logits"]))
    assert 0.1 < np.mean(scores > 0.3) < 0.9
    above = rk.with_scorer(model, AboveScorer(kept))
    check(model, threshold=0.3, expected=expected_of(above))


@keras.saving.register_keras_serializable("tests")
class AboveScorer(rk.Scorer):
    """The softmax's scores, those of the `kept` largest that are above 0.3."""

    def __init__(self, kept=3, **kwargs):
        super().__init__(**kwargs)
        self.kept = kept

    def call(self, logits, training=None):
        scores = self.soft(logits)
        least = keras.ops.top_k(scores, self.kept)[0][:, -1:]
        return keras.ops.where((scores > 0.3) & (scores >= least), scores, 0.0)

    def get_config(self):
        return {**super().get_config(), "kept": self.kept}


@ONE_BACKEND
def test_the_compute_fraction_is_an_input():
    model = rk.resnet_to_reset(randomize(small_resnet()), rk.HaltingController(1, 4), rk.HardScorer(sampled=False))
    controllers, classifier = [module.controller for module in model.routed_modules], model.layers[-1]
    controllers[1].head_kernel.assign(classifier.kernel)
    controllers[1].head_bias.assign(classifier.bias)
    controllers[1].depth.assign(0)
    some_halt = float(np.median(np.array(keras.ops.softmax(expected_of(model))).max(axis=-1)))
    controllers[1].depth.assign(2)
    first = [[0.2, 1, 2], [0.4, 1, 2], [0.6, 2, 2], [0.9, 2, 2]]
    last = [[0.2, 0, 2], [0.4, 2, 0.5], [0.6, 2, some_halt], [0.9, 2, 2]]
    for controller, rows in zip(controllers, (first, last), strict=True):
        controller.budgets.assign(np.pad(np.array(rows, "float32"), [[0, 60], [0, 0]]))
    session = check(model)  # as it is: all units
    assert [value.name for value in session.get_overridable_initializers()] == ["compute"]
    halts = 0
    for compute in (0.2, 0.4, 0.6, 0.9):
        rk.inference.set_compute(model.routed_modules, compute)
        expected, routes = model(IMAGES, training=False, return_routes=True)
        skipped = np.array(routes[-1]["scores"])[:, :, -1].mean(axis=0)
        halts += np.any((skipped > 0) & (skipped < 1))
        for batch in (slice(0, 32), slice(3, 4)):
            inputs = {"images": IMAGES[batch], "compute": np.array(compute, "float32")}
            np.testing.assert_allclose(session.run(None, inputs)[0], expected[batch], atol=1e-4)
    assert halts
    rk.inference.set_compute(model.routed_modules, 0.2)
    least = session.run(None, {"images": IMAGES, "compute": np.array(0.0, "float32")})[0]
    np.testing.assert_allclose(least, expected_of(model), atol=1e-4)
    check(model)  # a file keeps what was set as its default


def test_inputs_of_a_module_that_no_activation_has_seen():
    inputs = keras.Input((8, 8, 3))
    module = rk.ReSet(2, 2, rk.HaltingController(3, 4), rk.HardScorer(sampled=False))
    model = randomize(keras.Model(inputs, module(inputs)))
    kernel = np.random.default_rng(1).normal(size=(3, 4))
    module.controller.head_kernel.assign(kernel)
    images = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")
    sure = np.array(keras.ops.softmax(np.maximum(images, 0).mean(axis=(1, 2)) @ kernel)).max(axis=1)
    module.controller.threshold.assign(np.median(sure))
    check(model, images)


def test_a_network_that_is_not_calibrated_has_no_such_input():
    model = rk.resnet_to_reset(one_stage_resnet(), rk.HaltingController(1, 4), rk.HardScorer(sampled=False))
    assert not check(model).get_overridable_initializers()


@ONE_BACKEND
def test_units_that_are_not_chosen_are_not_run():
    model = randomize(one_module_reset("gumbel_st"))
    module = model.routed_modules[0]
    module.controller.dense.bias.assign([0, 0, 100])
    expected = expected_of(model)
    module.pool.kernel2.assign(np.full(module.pool.kernel2.shape, 1e30))
    check(model, expected=expected)


def layers_of_many_kinds():
    inputs = keras.Input((9, 8, 3))
    x = keras.layers.Rescaling(0.5, 0.1)(inputs)
    x = keras.layers.ZeroPadding2D(((1, 0), (2, 1)))(x)
    x = keras.layers.Conv2D(4, (3, 2), strides=2, padding="same", activation="relu")(x)
    y = keras.layers.Conv2D(4, 3, padding="same", dilation_rate=2, groups=2, use_bias=False)(x)
    y = keras.layers.Activation("tanh")(keras.layers.BatchNormalization()(y))
    x = keras.layers.Add()([x, keras.layers.SpatialDropout2D(0.5)(y), y])
    x = keras.layers.Concatenate()([x, keras.layers.Multiply()([x, y])])
    x = keras.layers.AveragePooling2D(3, 1, padding="same")(keras.layers.MaxPooling2D(2, 1)(x))
    x = keras.layers.ReLU()(rk.PadShortcut(10, 2)(x))
    largest = keras.layers.GlobalMaxPooling2D()(x)
    flat = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
    flat = keras.layers.BatchNormalization(scale=False)(keras.layers.Dense(5, activation="sigmoid")(flat))
    x = keras.layers.Concatenate()([flat, keras.layers.GaussianNoise(0.1)(largest)])
    return randomize(keras.Model(inputs, keras.layers.Dense(4, activation="softmax", use_bias=False)(x)))


def test_layers_of_many_kinds():
    images = np.random.default_rng(0).normal(size=(32, 9, 8, 3)).astype("float32")
    check(layers_of_many_kinds(), images)


@ONE_BACKEND
def test_a_model_in_a_model_and_images_as_outputs():
    inner = randomize(small_resnet())
    features = keras.Model(inner.inputs, inner.get_layer("stem_relu").output, name="inner")
    inputs = keras.Input((8, 8, 1))
    check(keras.Model(inputs, keras.layers.Conv2D(2, 1)(features(inputs))))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (keras.layers.DepthwiseConv2D(3, name="own"), "'own' is of class DepthwiseConv2D"),
        (keras.layers.Conv2D(4, 3, activation="gelu", name="own"), "'own' has the activation gelu"),
        (keras.layers.ReLU(max_value=6, name="own"), "'own' is no plain ReLU"),
        (keras.layers.BatchNormalization(axis=1, name="own"), "'own' works along axis 1"),
        (keras.layers.Dense(4, name="own"), r"'own' is given features of shape \(None, 8, 8, 1\)"),
        (keras.layers.Conv2D(4, 3, dtype="mixed_bfloat16", name="own"), "'own' computes in bfloat16"),
        (rk.ReSet([keras.layers.Conv2D(1, 1)], 2, name="own"), "the pool of 'own' is a FrozenUnitPool"),
        (rk.ReSet(2, 2, activation="tanh", name="own"), "the activation of 'own' is a tanh"),
        (rk.ReSet(2, 2, scorer=AboveScorer(), name="own"), "the scorer of 'own' is a AboveScorer"),
    ],
)
def test_what_cannot_be_written_is_named(layer, message):
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, layer(inputs))
    with pytest.raises(UnwrittenLayerError, match=message):
        onnx_model(freeze(model))


def test_operations_that_are_no_layers_are_named():
    inputs = keras.Input((8, 8, 1))
    x = keras.ops.add(keras.layers.Conv2D(1, 3, padding="same")(inputs), inputs)
    with pytest.raises(UnwrittenLayerError, match="is of class Add"):
        onnx_model(freeze(keras.Model(inputs, x)))


def test_quantized_layers_are_named():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(4, name="own")(inputs))
    model.layers[-1].quantize("int8")
    with pytest.raises(UnwrittenLayerError, match="'own' is quantized"):
        onnx_model(freeze(model))


@ONE_BACKEND
def test_routes_within_a_model_do_not_take_the_place_of_features():
    inputs = keras.Input((8, 8, 3))
    x, routes = rk.ReSet(2, 2, scorer="gumbel_st", halting="act", return_routes=True)(inputs)
    inner, outer = keras.Model(inputs, [routes["ponder"], x], name="inner"), keras.Input((8, 8, 3))
    ponder, features = inner(outer)
    check(
        randomize(keras.Model(outer, features)), np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")
    )
    with pytest.raises(UnwrittenLayerError, match="routes are the output"):
        onnx_model(freeze(keras.Model(outer, ponder)))


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow converts it")
def test_what_only_tensorflow_converts_is_refused_elsewhere(tmp_path):
    inputs = keras.Input((8, 8, 1))
    network = freeze(keras.Model(inputs, keras.layers.DepthwiseConv2D(3, name="own")(inputs)))
    message = "Exporting to ONNX a network in which 'own' is of class DepthwiseConv2D needs the TensorFlow backend"
    with pytest.raises(ValueError, match=message):
        export(network, tmp_path / "network.onnx", "onnx")
    export(freeze(small_resnet()), tmp_path / "network.onnx", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]


@pytest.mark.parametrize(
    ("halting", "scorer"),
    [("act", "gumbel_st"), ("sact", "hard"), pytest.param("sact", "softmax", marks=ONE_BACKEND)],
)
def test_halting(halting, scorer):
    order = {"controller": rk.FixedController(3, [0, 1]), "allowed": "sequential"} if scorer == "hard" else {}
    model = one_module_reset(scorer, halting=halting, **order)
    module = model.routed_modules[0]
    for seed in range(20):
        randomize(model, seed)
        spread_scores(module, keras.Model(model.inputs[0], module.input)(IMAGES))
        active = np.array(model(IMAGES[:7], return_routes=True).routes[0]["active"])[:, 1]
        if 0 < active.mean() < 1 and active.min() == 0:
            check(model)
            return
    raise AssertionError


@pytest.mark.parametrize("scorer", [rk.HardScorer(sampled=False), "gumbel_st"])
def test_one_route_for_all_images_is_a_static_network(scorer):
    resnet = one_stage_resnet()
    model = rk.resnet_to_reset(resnet, rk.FixedController(3, [0, 1]), scorer)
    check(model, expected=expected_of(resnet))
    ours, of_resnet = ([node.op_type for node in onnx_model(freeze(net)).graph.node] for net in (model, resnet))
    assert sorted(ours) == sorted(of_resnet)
    check(rk.resnet_to_reset(resnet, rk.FixedController(3, [1, 2]), scorer))
