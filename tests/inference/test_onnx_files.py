"""ONNX files that are written without TensorFlow, against the Keras models.

They are written from numpy arrays, so on JAX it is enough to see that the weights of each kind of layer get there.
"""

import keras
import numpy as np
import pytest

import reset_keras as rk
from frozen import expected_of
from networks import ONE_BACKEND, one_module_reset, randomize, small_reset, small_resnet, spread_scores
from onnx_sessions import IMAGES, AboveScorer, check
from reset_keras.inference import freeze
from reset_keras.inference.exports.onnx_writer import onnx_model


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


def count(graph, operation):
    """How often a graph has an operation, in all of its branches."""
    inner = (count(attribute.g, operation) for node in graph.node for attribute in node.attribute)
    return sum(node.op_type == operation for node in graph.node) + sum(inner)


def convolutions(graph):
    return count(graph, "Conv")


@ONE_BACKEND
def test_a_policy_that_decides_nothing_is_not_in_the_file():
    settled, static = (
        freeze(randomize(model))
        for model in (one_module_reset("hard", controller="policy", allowed=[[1, 0, 0], [0, 1, 0]]), one_stage_resnet())
    )
    assert convolutions(onnx_model(settled).graph) == convolutions(onnx_model(static).graph)


@ONE_BACKEND
@pytest.mark.parametrize(
    ("allowed", "asked"),
    [([[1, 0, 0], [0, 1, 1], [0, 0, 1]], 2), ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 0), ("any", 3)],
)
def test_the_controller_is_in_the_file_up_to_the_last_decision(allowed, asked):
    inputs = keras.Input((8, 8, 3))
    model = randomize(keras.Model(inputs, rk.ReSet(2, 3, scorer="gumbel_st", allowed=allowed)(inputs)))
    check(model, np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32"))
    assert count(onnx_model(freeze(model)).graph, "LSTM") == asked


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
    asked = sum(second) - 1  # the controller's own convolution, where it has a choice
    assert (unguarded, convolutions(graph)) == (asked + 2, asked + 2 + 2 * sum(second))


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
