"""One harness for all public layers: config, JSON, building, shapes, a training step, saving, mixed precision."""

import inspect
import json

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import EAGERLY_ON_TENSORFLOW, slow_on_jax

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 6)).astype("float32")
FEATURES = np.random.default_rng(1).normal(size=(4, 6)).astype("float32")
SCORES = np.random.default_rng(2).dirichlet(np.ones(3), size=4).astype("float32")
LOGITS = np.random.default_rng(3).normal(size=(4, 3)).astype("float32")
HALTING = [*np.random.default_rng(5).uniform(0, 0.5, (2, 4, 8, 8, 1)).astype("float32")]
HALTS = {"epsilon": 0.1, "bias": -1.0, "num_iterations": 2}
SCORER = {"temperature": 0.5, "seed": 1}
STATE = [*np.random.default_rng(4).normal(size=(2, 4, 7)).astype("float32")]


def dense_units():
    return [keras.layers.Dense(6, activation="relu"), keras.layers.Dense(6, activation="tanh")]


L2 = {"kernel_regularizer": keras.regularizers.L2(0.02)}
# name: (arguments, none of which is its default, positional inputs, number of weights, number of seed generators)
CASES = {
    "IterationBatchNormalization": (
        lambda: {
            "num_iterations": 3,
            "per_iteration_affine": True,
            "momentum": 0.8,
            "epsilon": 1e-3,
            "fixed_statistics": True,
        },
        [IMAGES],
        12,
        0,
    ),
    "ResidualUnit": (lambda: {"filters": 6, "strides": 2, "num_iterations": 2, **L2}, [IMAGES], 14, 0),
    "PadShortcut": (lambda: {"filters": 9, "strides": 2}, [IMAGES], 0, 0),
    "UnitPool": (lambda: {"units": dense_units()}, [FEATURES, SCORES], 4, 0),
    "ResidualPool": (
        lambda: {
            "num_units": 2,
            "num_iterations": 3,
            "per_iteration_affine": True,
            "execution": "split",
            "fixed_statistics": True,
            "shared": "second",
            **L2,
        },
        [IMAGES, SCORES],
        26,
        0,
    ),
    "FixedController": (lambda: {"num_scores": 3, "route": [2, 0]}, [IMAGES, []], 0, 0),
    "RNNController": (lambda: {"num_scores": 3, "hidden_size": 7, **L2}, [IMAGES, STATE], 5, 1),
    "CNNController": (lambda: {"num_scores": 3, "num_iterations": 2, "filters": 5, **L2}, [IMAGES, []], 10, 0),
    "ACT": (lambda: HALTS, [IMAGES, [part[:, :1, :1] for part in HALTING]], 2, 0),
    "SACT": (lambda: HALTS, [IMAGES, HALTING], 3, 0),
    "GateController": (
        lambda: {"num_scores": 3, "num_iterations": 2, "hidden_size": 5, "open_bias": 1.0, **L2},
        [IMAGES, []],
        8,
        0,
    ),
    "PolicyController": (lambda: {"num_scores": 3, "num_iterations": 2, **L2}, [IMAGES, [FEATURES]], 3, 0),
    "HaltingController": (
        lambda: {"num_scores": 3, "num_classes": 5, "shares": (0.5, 0.25), "noise": 0.1},
        [IMAGES, [np.zeros(4)]],
        5,
        1,
    ),
    "SoftmaxScorer": (lambda: SCORER, [LOGITS], 1, 1),
    "GumbelSoftmaxScorer": (lambda: SCORER, [LOGITS], 1, 1),
    "GumbelSTScorer": (lambda: SCORER, [LOGITS], 1, 1),
    "TopKScorer": (lambda: {"k": 2, **SCORER}, [LOGITS], 1, 1),
    "HardScorer": (lambda: {"seed": 1, "sampled": False}, [LOGITS], 1, 1),
    "ReSet": (
        lambda: {
            "units": rk.ResidualPool(3, 3),
            "num_iterations": 3,
            "controller": rk.CNNController(3, 3),
            "scorer": rk.GumbelSTScorer(**SCORER),
            "zero_unit": False,
            "activation": "tanh",
            "return_routes": True,
            "allowed": [[True, True, False], [False, True, True], [True, False, True]],
        },
        [IMAGES],
        33,
        1,
    ),
}
NOT_GIVEN = {"ReSet": {"halting"}}
"""Arguments that the others exclude: without a zero unit no image halts."""
NOT_CALLED = {
    "IterationBatchNormalization": (1, 2),
    "ResidualPool": (1, 2),
    "CNNController": (1,),
    "GateController": (1,),
}
"""Parameters of iterations that a single call of the layer does not reach."""
PARTS_OF_ITERATIONS = {"GateController": ("hidden", "dense")}
"""Layers, one for each iteration, where it is not the scales and offsets of batch norms that there are more of."""
ABSTRACT = {"Controller", "Halting", "Pool", "Scorer"}
case = pytest.mark.parametrize("name", CASES)


def parameters_of(name):
    return inspect.signature(getattr(rk.layers, name)).parameters


def make(name):
    return getattr(rk.layers, name)(**CASES[name][0]())


def name_of(weight):
    """Of a weight or, where a layer is an iteration's, of that."""
    *_, owner, name = weight.path.split("/")
    return owner if owner.rpartition("_")[2].isdigit() and name in ("kernel", "bias") else name


def run(layer, inputs):
    return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(layer(*inputs))]


def run_all(models, arrays):
    return [keras.ops.convert_to_numpy(model(arrays, training=False)) for model in models]


def test_every_public_layer_is_here():
    layers = {name for name in rk.layers.__all__ if inspect.isclass(getattr(rk.layers, name))}
    assert layers - ABSTRACT == set(CASES)


@case
def test_config_has_every_constructor_argument_as_given_and_survives_json(name):
    given, serialize = CASES[name][0](), keras.saving.serialize_keras_object
    layer, parameters = getattr(rk.layers, name)(**given), parameters_of(name)
    assert set(given) == set(parameters) - {"kwargs"} - NOT_GIVEN.get(name, set())
    assert not [argument for argument, value in given.items() if value == parameters[argument].default]
    config = layer.get_config()
    assert {argument: serialize(config[argument]) for argument in given} == serialize(given)
    again = type(layer).from_config(json.loads(json.dumps(config)))
    assert again.get_config() == config


def test_the_config_of_a_module_has_its_halting():
    config = rk.ReSet(2, 2, halting=rk.ACT(**HALTS)).get_config()
    halting = rk.ReSet.from_config(json.loads(json.dumps(config))).halting
    assert isinstance(halting, rk.ACT)
    assert HALTS.items() <= halting.get_config().items()


@slow_on_jax
@pytest.mark.parametrize("name", [name for name in CASES if "kernel_regularizer" in parameters_of(name)])
def test_all_its_kernels_are_regularized(name):
    layer = make(name)
    run(layer, CASES[name][1])
    kernels = [weight for weight in layer.trainable_weights if len(weight.shape) > 1]
    for kernel in kernels:  # some start near zero
        kernel.assign(np.random.default_rng(0).normal(size=kernel.shape))
    by_hand = 0.02 * sum(np.sum(np.square(kernel)) for kernel in map(np.array, kernels))
    np.testing.assert_allclose(sum(layer.losses), by_hand, rtol=1e-5)


@case
def test_is_registered(name):
    layer = make(name)
    assert keras.saving.get_registered_name(type(layer)) == f"reset_keras>{name}"


@case
def test_weights_and_seed_generators(name):
    _, inputs, weights, seeds = CASES[name]
    layer = make(name)
    run(layer, inputs)
    assert len(layer.weights) == weights
    assert len(layer.variables) == weights + seeds


@case
def test_symbolic_output_is_the_eager_one(name):
    inputs = CASES[name][1]
    symbolic = keras.tree.map_structure(lambda x: keras.KerasTensor((None, *x.shape[1:]), "float32"), inputs)
    layer = make(name)
    specs = keras.tree.flatten(layer(*symbolic))
    outputs = run(layer, inputs)
    assert [tuple(spec.shape[1:]) for spec in specs] == [output.shape[1:] for output in outputs]
    assert [spec.dtype for spec in specs] == [str(output.dtype) for output in outputs]


@case
def test_rebuilt_from_config_with_the_same_weights_it_computes_the_same(name):
    inputs = CASES[name][1]
    layer = make(name)
    expected = run(layer, inputs)
    again = type(layer).from_config(layer.get_config())
    run(again, inputs)
    again.set_weights(layer.get_weights())
    for ours, theirs in zip(run(again, inputs), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@case
def test_keras_file_round_trip_and_one_training_step(name, tmp_path):
    inputs = CASES[name][1]
    layer = make(name)
    symbolic = keras.tree.map_structure(lambda x: keras.Input(x.shape[1:]), inputs)
    flat = keras.tree.flatten(layer(*symbolic))
    output = keras.layers.Concatenate()([keras.layers.Flatten()(keras.ops.cast(part, "float32")) for part in flat])
    model = keras.Model(keras.tree.flatten(symbolic), keras.layers.Dense(1)(output))
    arrays = keras.tree.flatten(inputs)
    before = [np.array(weight) for weight in layer.trainable_weights]
    for weight in layer.weights:
        weight.regularizer = None  # which would move a kernel by itself
    model.compile("sgd", "mse", **EAGERLY_ON_TENSORFLOW)
    assert np.isfinite(model.train_on_batch(arrays, np.ones((4, 1), "float32")))
    moved = zip(layer.trainable_weights, before, strict=True)
    unmoved = {name_of(weight) for weight, old in moved if np.array_equal(weight, old)}
    parts = PARTS_OF_ITERATIONS.get(name, ("gamma", "beta"))
    assert unmoved == {f"{part}_{k}" for part in parts for k in NOT_CALLED.get(name, ())}
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(*run_all((loaded, model), arrays))


@case
def test_mixed_precision(name):
    inputs = CASES[name][1]
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = make(name)
        outputs = keras.tree.flatten(layer(*inputs))
    finally:
        keras.config.set_dtype_policy("float32")
    dtypes = {keras.backend.standardize_dtype(output.dtype) for output in outputs}
    routing = name.endswith(("Controller", "Scorer", "ACT"))
    expected = {"float32"} if routing else {"bfloat16"}
    assert dtypes == (expected | {"float32"} if name == "ReSet" else expected)
    assert all(np.isfinite(keras.ops.convert_to_numpy(keras.ops.cast(output, "float32"))).all() for output in outputs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rk.PadShortcut(3)(IMAGES), "only adds channels"),
        (lambda: rk.UnitPool([]), "at least one layer"),
        (lambda: rk.UnitPool(["dense"]), "must be Keras layers"),
        (lambda: rk.UnitPool([keras.layers.ReLU()] * 2), "more than once"),
        (lambda: rk.UnitPool([keras.layers.Dense(5)])(FEATURES, SCORES), "must keep the shape"),
        (lambda: rk.UnitPool(dense_units())(FEATURES, SCORES[:, :1]), "has 2 units and expects scores"),
        (lambda: rk.ResidualPool(2, execution="fast"), "`execution` must be one of"),
        (lambda: rk.ResidualPool(2)(FEATURES, SCORES), "works on images"),
        (lambda: rk.ResidualPool(4)(IMAGES, SCORES), "has 4 units and expects scores"),
        (lambda: rk.CNNController(3, 2)(FEATURES, []), "works on images"),
        (lambda: rk.TopKScorer(4)(LOGITS), "`k` must not be larger"),
        (lambda: rk.ReSet(2, controller="mlp"), "`controller` must be"),
        (lambda: rk.ReSet(2, scorer="sofmax"), "`scorer` must be one of"),
        (lambda: rk.ReSet(2, scorer=["hard"]), "`scorer` must be one of"),
        (lambda: rk.ReSet(2, controller=["rnn"]), "`controller` must be one of"),
        (lambda: rk.ReSet(2, halting=["act"]), "`halting` must be one of"),
        (lambda: rk.ReSet(2, allowed=["any"]), "`allowed` must be"),
        (lambda: rk.ResidualPool(2, execution=["auto"]), "`execution` must be one of"),
        (lambda: rk.ResidualPool(2, shared=["none"]), "`shared` must be one of"),
        (lambda: rk.SkipReward(estimator=["reinforce"]), "`estimator` must be one of"),
        (lambda: rk.ReSet(2, controller=rk.RNNController(2)), "`num_scores` must be 3: 2 units and the zero unit"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
