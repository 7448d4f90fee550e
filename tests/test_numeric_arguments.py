"""Every number that the library takes: one that makes no sense is refused in a sentence that names the argument."""

import collections.abc
import importlib
import inspect
import math
import pathlib
import typing
from functools import cache, partial

import keras
import numpy as np
import pytest

import networks
import reset_keras as rk
from reset_keras import analysis, callbacks, data, inference, models, training

PACKAGES = ("", ".layers", ".losses", ".models", ".data", ".callbacks", ".training", ".inference", ".analysis")

REAL = (math.nan, math.inf, True, np.True_, "1")
ABOVE_0 = (*REAL, 0.0, -1.0)
FROM_0 = (*REAL, -1.0)
FROM_1 = (*REAL, 0.5)
BELOW_1 = (*REAL, -0.5, 1.0)
WHOLE = (*REAL, 0.5)
INDEX = (*WHOLE, -1)
INDEX_OF_2 = (*INDEX, 2)
COUNT = (*INDEX, 0)
COUNTS = (math.nan, 3, "12", [math.nan], [True], [1.5], [-1], ["1"])
SHAPE = (*COUNTS, (8, 8), (8, 8, 0), (8.5, 8, 3), (8, 8, True))

IMAGES = np.zeros((8, 8, 8, 1), "float32")
LABELS = np.arange(8) % 4
PART = data.LabelledImages(IMAGES.astype("uint8"), LABELS)
ROUTES = analysis.Routes([{"scores": np.eye(2)[LABELS % 2][:, None]}], (True,), LABELS)
NOWHERE = pathlib.Path("nowhere")
JAX = keras.backend.backend() == "jax"

digits = cache(data.load_digits)
resnet = cache(networks.small_resnet)
reset = cache(lambda: networks.small_reset("hard"))
frozen = cache(lambda: inference.freeze(reset()))
norm = cache(lambda: built(rk.IterationBatchNormalization(2)))
pool = cache(lambda: built(rk.ResidualPool(2, 2)))
act = cache(lambda: built(rk.ACT(num_iterations=2)))
dataset = partial(data.ImageDataset, "noise", PART, {"test": PART}, num_classes=4)


def built(layer, *state_shape):
    layer.build(IMAGES.shape, *state_shape)
    return layer


def under_random_controllers(seed):
    with analysis.random_controllers(reset(), seed):
        pass


def named(name, call, **bad):
    """Cases of a function's keyword arguments, all others of which it has."""
    return {f"{name}.{key}": (values, lambda value, key=key: call(**{key: value})) for key, values in bad.items()}


NORM = "IterationBatchNormalization"
SCORERS = {"Scorer": rk.SoftmaxScorer, "HardScorer": rk.HardScorer, "TopKScorer": rk.TopKScorer}
NETWORKS = [getattr(models, name) for name in models.__all__ if name.startswith(("resnet38", "resnet_1", "resnet_5"))]
NETWORKS += [getattr(models, name) for name in models.__all__ if name.startswith(("reset38", "reset_"))]
PRESET = partial(models.from_preset, "reset38_efficient_cifar10")
SIZES = {"num_classes": COUNT, "input_shape": SHAPE}

LAYERS = {
    "Controller.num_scores": (COUNT, rk.RNNController),
    **named("Halting", rk.ACT, epsilon=(*ABOVE_0, 1.0), bias=REAL, num_iterations=COUNT),
    "Halting.call.iteration": (INDEX_OF_2, lambda k: act()(IMAGES, act().initial_state(IMAGES), iteration=k)),
    **named("RNNController", partial(rk.RNNController, num_scores=3), num_scores=COUNT, hidden_size=COUNT),
    **named(
        "HaltingController",
        partial(rk.HaltingController, num_scores=3),
        num_scores=COUNT,
        num_classes=COUNT,
        noise=FROM_0,
        shares=(*COUNTS, (0.5, 0.6), (1.0, 0.0), (1.5, 0.5), (0.5, True)),
    ),
    **named(
        "CNNController",
        partial(rk.CNNController, num_scores=3, num_iterations=2),
        num_scores=COUNT,
        num_iterations=COUNT,
        filters=COUNT,
    ),
    **named(
        "GateController",
        partial(rk.GateController, num_scores=3, num_iterations=2),
        num_scores=COUNT,
        num_iterations=COUNT,
        hidden_size=COUNT,
        open_bias=REAL,
    ),
    "GateController.call.iteration": (INDEX_OF_2, lambda value: rk.GateController(3, 2)(IMAGES, [], iteration=value)),
    **named(
        "PolicyController",
        partial(rk.PolicyController, num_scores=3, num_iterations=2),
        num_scores=COUNT,
        num_iterations=COUNT,
    ),
    "PolicyController.is_closed.iteration": (
        INDEX_OF_2,
        lambda value: built(rk.PolicyController(3, 2), [(8, 4)]).is_closed(value),
    ),
    "PolicyController.call.iteration": (
        INDEX_OF_2,
        lambda value: rk.PolicyController(3, 2)(IMAGES, [IMAGES[:, 0, :, 0]], iteration=value),
    ),
    "CNNController.call.iteration": (INDEX_OF_2, lambda value: rk.CNNController(3, 2)(IMAGES, [], iteration=value)),
    **named("FixedController", partial(rk.FixedController, num_scores=3, route=[0]), num_scores=COUNT),
    **named("FixedController", partial(rk.FixedController, num_scores=3), route=(*COUNTS, [3])),
    "FixedController.call.iteration": (
        INDEX_OF_2,
        lambda value: rk.FixedController(3, [0, 1])(IMAGES, [], iteration=value),
    ),
    **{f"{name}.seed": (WHOLE, lambda value, make=make: make(seed=value)) for name, make in SCORERS.items()},
    "Scorer.temperature": (ABOVE_0, rk.SoftmaxScorer),
    **named("TopKScorer", rk.TopKScorer, k=COUNT, temperature=ABOVE_0),
    **named(NORM, rk.IterationBatchNormalization, num_iterations=COUNT, momentum=BELOW_1, epsilon=FROM_0),
    f"{NORM}.call.iteration": (INDEX_OF_2, lambda value: norm()(IMAGES, iteration=value)),
    **named(
        f"{NORM}.normalize_part",
        lambda part=0, num_parts=1, iteration=0: norm().normalize_part(IMAGES, part, num_parts, iteration),
        part=INDEX_OF_2,
        num_parts=COUNT,
        iteration=INDEX_OF_2,
    ),
    f"{NORM}.update.iteration": (INDEX_OF_2, lambda value: norm().update(value, [(np.zeros(1), np.ones(1))])),
    f"{NORM}.scale_and_offset.iteration": (INDEX_OF_2, lambda value: norm().scale_and_offset(value)),
    f"{NORM}.affine_map.iteration": (INDEX_OF_2, lambda value: norm().affine_map(value)),
    **named("PadShortcut", partial(rk.PadShortcut, filters=4), filters=COUNT, strides=COUNT),
    **named("ResidualUnit", partial(rk.ResidualUnit, filters=4), filters=COUNT, strides=COUNT, num_iterations=COUNT),
    "ResidualUnit.call.iteration": (INDEX_OF_2, lambda value: rk.ResidualUnit(1, 1, 2)(IMAGES, iteration=value)),
    **named("ResidualPool", partial(rk.ResidualPool, num_units=2), num_units=COUNT, num_iterations=COUNT),
    "ResidualPool.call.iteration": (INDEX_OF_2, lambda value: pool()(IMAGES, np.ones((8, 2)), iteration=value)),
    "ResidualPool.call.units": (
        (*COUNTS, [], [2], [0, 0]),
        lambda value: pool()(IMAGES, np.ones((8, 2)), units=value),
    ),
    "ResidualPool.load_unit.index": (INDEX_OF_2, lambda value: pool().load_unit(value, built(rk.ResidualUnit(1)))),
    "HaltingController.call.iteration": (
        INDEX_OF_2,
        lambda value: built(rk.HaltingController(3))(IMAGES, [np.zeros(8)], iteration=value),
    ),
    "ResidualPool.run_unit.index": (INDEX_OF_2, lambda value: pool().run_unit(value, IMAGES)),
    "ResidualPool.run_unit.iteration": (INDEX_OF_2, lambda value: pool().run_unit(0, IMAGES, value)),
    "UnitPool.run_unit.index": (INDEX_OF_2, lambda value: rk.UnitPool([keras.layers.ReLU()]).run_unit(value, IMAGES)),
    **named("ReSet", partial(rk.ReSet, units=2), units=COUNT, num_iterations=COUNT),
    "ReSet.update.iteration": (INDEX_OF_2, lambda value: built(rk.ReSet(2, 2)).update(IMAGES, np.ones((8, 3)), value)),
}
LOSSES = {
    "Distillation.weight": ((*ABOVE_0, 1.5), lambda value: rk.Distillation(resnet(), value)),
    "Distillation.temperature": (ABOVE_0, lambda value: rk.Distillation(resnet(), 0.5, value)),
    "EarlyExits.weight": ((*ABOVE_0, 1.0, 1.5), rk.EarlyExits),
    **named("Entropy", rk.Entropy, across=REAL, within=REAL),
    **named("PonderCost", rk.PonderCost, weight=FROM_0),
    **named("DropReward", rk.DropReward, penalty=FROM_0, baseline_momentum=BELOW_1),
    **named("TargetRate", partial(rk.TargetRate, rate=0.5), weight=FROM_0),
    **named("TargetRate", rk.TargetRate, rate=(*FROM_0, 1.5, [], [0.5, math.nan])),
    "TargetRate.build.num_iterations": (COUNT, lambda value: rk.TargetRate(0.5).build(value)),
    "TargetRate.check_iterations.num_iterations": (COUNT, lambda value: rk.TargetRate(0.5).check_iterations(value)),
    **named("SmoothedCrossentropy", rk.SmoothedCrossentropy, label_smoothing=BELOW_1),
    **named("SkipReward", rk.SkipReward, baseline_momentum=BELOW_1, target=ABOVE_0, target_rate=ABOVE_0),
    **named("SkipReward", rk.SkipReward, reward=(*REAL, [0.1, math.nan], ["1"], [True])),
    "SkipReward.build.num_iterations": (COUNT, lambda value: rk.SkipReward().build(value)),
    "SkipReward.check_iterations.num_iterations": (COUNT, lambda value: rk.SkipReward().check_iterations(value)),
}
MODELS = {
    **named("ReSetNet", partial(rk.ReSetNet, controller="policy"), policy_blocks=(*COUNTS, [0])),
    **named("ReSetNet", rk.ReSetNet, units=(*COUNTS, [0]), num_iterations=(*COUNTS, [0]), **SIZES),
    "first_blocks.stage_blocks": ((*COUNTS, [0, 1], [4, 1], [1]), lambda value: models.first_blocks(resnet(), value)),
    **named("ResNet", rk.ResNet, stage_blocks=(*COUNTS, [0]), width=COUNT, weight_decay=FROM_0, **SIZES),
    **{key: case for make in NETWORKS for key, case in named(make.__name__, make, **SIZES).items()},
    **named("from_preset", PRESET, num_classes=(math.nan,), input_shape=((8, 8),)),  # each loads the network first
    "RoutedTrainer.compile.gradient_clip_norm": (ABOVE_0, lambda value: reset().compile(gradient_clip_norm=value)),
    "RoutedTrainer.compile.batch_replication": (COUNT, lambda value: reset().compile(batch_replication=value)),
}
DATA = {
    **named("ImageDataset", dataset, num_classes=COUNT, crop_padding=INDEX),
    "ImageDataset.class_name.label": ((*INDEX, 4), lambda value: dataset().class_name(value)),
    "LabelledImages.spread.most": (COUNT, PART.spread),
    "evaluation_batches.replicas": (COUNT, lambda value: data.evaluation_batches(digits(), PART, value)),
    "hold_out.size": ((*ABOVE_0, 200.5), lambda value: data.hold_out(digits(), value)),
    "load_dataset.image_size": ((*COUNT, 16), lambda value: data.load_dataset("digits", value)),
    "load_tfds.image_size": (COUNT, lambda value: data.load_tfds("cifar10", value)),
    "steps_per_pass.batch_size": ((*COUNT, 9999), lambda value: data.steps_per_pass(digits(), value)),
    **named(
        "training_batches",
        lambda batch_size=8, seed=0, first_step=0: data.training_batches(digits(), batch_size, seed, first_step),
        batch_size=COUNT,
        seed=WHOLE,
        first_step=INDEX,
    ),
}
ENTROPY = partial(callbacks.EntropySchedule, across=0.1, within=0.1, epochs=3)
TEMPERATURE = partial(callbacks.TemperatureSchedule, first=1.0, last=0.5, epochs=3)
CONVERGENCE = partial(callbacks.PolicyConvergence, IMAGES)
CALLBACKS = {
    **named("EntropySchedule", ENTROPY, across=REAL, within=REAL, epochs=COUNT),
    "EntropySchedule.share.epoch": (INDEX, lambda value: ENTROPY().share(value)),
    "DropCurriculum.epochs": (COUNT, callbacks.DropCurriculum),
    "DropCurriculum.open_iterations.num_iterations": (
        (*COUNTS, [0]),
        lambda value: callbacks.DropCurriculum(2).open_iterations(0, value),
    ),
    "DropCurriculum.open_iterations.epoch": (
        INDEX,
        lambda value: callbacks.DropCurriculum(2).open_iterations(value, [2]),
    ),
    **named("TemperatureSchedule", TEMPERATURE, first=(*ABOVE_0, 1e-6), last=(*ABOVE_0, 1e-44), epochs=COUNT),
    "TemperatureSchedule.temperature.epoch": (INDEX, lambda value: TEMPERATURE().temperature(value)),
    "HoldCompute.compute_target": (ABOVE_0, partial(callbacks.HoldCompute, IMAGES)),
    **named("PolicyConvergence", CONVERGENCE, tolerance=(*ABOVE_0, 1.0), patience=COUNT),
    "RoutingWarnings.patience": (COUNT, partial(callbacks.RoutingWarnings, IMAGES)),
    "StopAtCompute.compute_target": (ABOVE_0, partial(callbacks.StopAtCompute, IMAGES)),
    **named("TwoPhase", callbacks.TwoPhase, phase_steps=COUNT, growth=FROM_1, tolerance=BELOW_1),
}
OPTIMIZER = partial(training.make_optimizer, "adam", rate=0.1, steps=10)
NETWORK = partial(training.load_network, "none.keras", units=(1, 1), image_shape=(8, 8, 1), num_classes=4)
SAME_ROUTES = [np.zeros((8, 2), int)] * 2
TRAINING = {
    "Pipeline.batch_size": (COUNT, lambda value: training.Pipeline(digits(), None, value, 0, None, None)),
    "Pipeline.seed": (INDEX, lambda value: training.Pipeline(digits(), None, 8, value, None, None)),
    **named("Training", partial(training.Training, compile_options=dict), steps=COUNT),
    "Training.epochs.steps_per_pass": (COUNT, lambda value: training.Training(9, dict).epochs(value)),
    "WorkDirectory.stage.index": (INDEX, lambda value: training.WorkDirectory(".", {}).stage(value, "train")),
    "WorkDirectory.tensorboard.index": (INDEX, lambda value: training.WorkDirectory(".", {}).tensorboard(value, "")),
    "check_compute_target.compute_target": (ABOVE_0, lambda value: training.check_compute_target(reset(), value)),
    "hold_compute.compute_target": (ABOVE_0, lambda value: training.hold_compute(reset(), IMAGES, value)),
    "prune_routes.compute_target": (ABOVE_0, lambda value: training.prune_routes(reset(), IMAGES, value)),
    "imitate_routes.epochs": (COUNT, lambda value: training.imitate_routes(reset(), IMAGES, SAME_ROUTES, value)),
    "imitate_routes.label_smoothing": (
        BELOW_1,
        lambda value: training.imitate_routes(reset(), IMAGES, SAME_ROUTES, 1, value),
    ),
    "imitate_sequence.epochs": (COUNT, lambda value: training.imitate_sequence(reset(), IMAGES, value)),
    "imitate_sequence.label_smoothing": (BELOW_1, lambda value: training.imitate_sequence(reset(), IMAGES, 1, value)),
    **named("load_network", NETWORK, units=COUNTS, image_shape=(*COUNTS, [0]), num_classes=COUNT),
    **named("make_optimizer", OPTIMIZER, rate=ABOVE_0, steps=COUNT, scale=ABOVE_0),
    "with_settled_routes.least_share": (
        (*REAL, -0.1, 0.5),
        lambda value: models.with_settled_routes(reset(), IMAGES, value),
    ),
    "train_last_modules.count": ((*INDEX, 3), lambda value: training.train_last_modules(reset(), value)),
}
MEANING = partial(analysis.route_meaning, ROUTES)
SIMILAR = partial(analysis.similar_routes, ROUTES.scores, queries=(0,))
INFERENCE_AND_ANALYSIS = {
    "FrozenNetwork.threshold": ((*FROM_0, 1.0), lambda value: inference.FrozenNetwork(resnet(), threshold=value)),
    "FrozenNetwork.forms.batch_size": (INDEX, lambda value: frozen().forms(value)),
    "FrozenNetwork.compute": (ABOVE_0, lambda value: inference.FrozenNetwork(reset(), compute=value)),
    "freeze.compute": (ABOVE_0, lambda value: inference.freeze(reset(), compute=value)),
    "set_compute.compute": (ABOVE_0, lambda value: inference.set_compute(reset().routed_modules, value)),
    "freeze.threshold": ((*FROM_0, 1.0), lambda value: inference.freeze(resnet(), threshold=value)),
    "cost.batch_sizes": ((*COUNTS, [0], []), lambda value: inference.cost(reset(), IMAGES, value)),
    **named("interleaved_times", partial(inference.interleaved_times, {}), rounds=COUNT, round_seconds=ABOVE_0),
    "Routes.first.count": (INDEX, ROUTES.first),
    "collect_routes.batch_size": (COUNT, lambda value: analysis.collect_routes(reset(), IMAGES, batch_size=value)),
    "random_controllers.seed": (WHOLE, under_random_controllers),
    "route_controls.seed": (INDEX, lambda value: analysis.route_controls(reset(), IMAGES, np.zeros(8, int), value)),
    **named("route_meaning", MEANING, neighbours=COUNT, shuffles=COUNT, most_images=(*COUNT, 5), seed=INDEX),
    **named("similar_routes", SIMILAR, queries=(*COUNTS, [8]), count=COUNT),
    "write_route_figures.queries": (COUNT, lambda value: analysis.write_route_figures(NOWHERE, NOWHERE, None, value)),
}
CASES = {**LAYERS, **LOSSES, **MODELS, **DATA, **CALLBACKS, **TRAINING, **INFERENCE_AND_ANALYSIS}
"""By a number's name what it may not be, and how to give it that."""

EXCEPTIONS = {
    **dict.fromkeys(("Preset", "Cost", "Along", "Controlled", "RouteMeaning", "Sequentialness"), "results"),
    "SimilarRoutes": "results",
    **dict.fromkeys(("on_epoch_begin", "on_epoch_end", "on_train_batch_end"), "called by Keras"),
    **dict.fromkeys(("ACT.logits", "Halting.logits", "SACT.logits"), "called by `call`, which checks the iteration"),
    **dict.fromkeys(
        (f"HaltingController.{method}" for method in ("chosen", "depths_of_batch", "halts", "is_too_deep")),
        "called by a module",
    ),
    "initial_state": "called by a module, with a size that may be a tensor",
    "RNNController.call": "takes an iteration as all controllers do, and does not look at it",
    "UnitPool.call": "gives the iteration to units that ask for it, which know how many there are",
    "UnitPool.run_unit.iteration": "likewise",
}
"""Classes, methods and arguments whose numbers are not checked, and why."""


@pytest.mark.parametrize(
    ("name", "value"),
    [pytest.param(name, value, id=f"{name}={value!r}") for name, (values, _) in CASES.items() for value in values],
)
def test_what_makes_no_sense_is_named(name, value):
    with pytest.raises(ValueError, match=r"Received: ") as caught:
        CASES[name][1](value)
    assert name.rpartition(".")[2] in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: rk.ReSetNet(np.array([1]), [np.int8(1)], np.int64(4), np.array([8, 8, 1]), weight_decay=np.float32(0)),
        lambda: rk.ResNet([1], np.int64(4), [8, 8, 1], width=np.int64(4), weight_decay=np.float32(0.1)),
        lambda: rk.ReSet(np.int64(2), np.int64(2), return_routes=True)(IMAGES, training=True),
        lambda: rk.HaltingController(3, shares=np.array([0.9, 0.5])),
        lambda: rk.SoftmaxScorer(np.float64(0.5), np.int64(1 if JAX else -1)),
        lambda: norm()(IMAGES, iteration=np.int64(1)),
        lambda: norm()(IMAGES, iteration=keras.ops.convert_to_tensor(1)),
        lambda: norm().affine_map(np.array(1)),
        lambda: rk.IterationBatchNormalization(momentum=np.array(0.5), epsilon=0),
        lambda: rk.SkipReward([0.1, np.float32(-1)], baseline_momentum=0),
        lambda: rk.SkipReward(np.array([0.1, -1.0])),
        lambda: rk.Entropy(float(np.finfo(np.float32).max), np.finfo(np.float32).min),
        lambda: rk.TargetRate(np.array([0.1, 1.0])),
        lambda: networks.small_reset().compile(gradient_clip_norm=np.float32(1), batch_replication=np.int64(1)),
        lambda: training.make_optimizer("adam", np.array(0.1), np.array(5), 2),
        lambda: callbacks.EntropySchedule(np.float32(-0.1), 0, np.int64(3)).share(np.int64(7)),
        lambda: data.hold_out(digits(), np.int64(200)),
        lambda: data.training_batches(digits(), np.int64(8), -1, np.int64(3)),
        lambda: data.load_dataset("digits", np.int64(8)),
        lambda: frozen().forms(None),
        lambda: inference.interleaved_times({}, np.int64(2), 1),
        lambda: analysis.similar_routes(ROUTES.scores, np.array([0, 7]), np.int64(2)),
        lambda: analysis.route_meaning(ROUTES, neighbours=np.array(2), shuffles=np.array(1)),
        lambda: under_random_controllers(np.int64(1)),
        lambda: training.WorkDirectory(".", {}).tensorboard(np.array(1), "train"),
    ],
)
def test_numbers_of_numpy_and_whole_ones_for_floats_are_taken(call):
    call()


def test_every_number_of_the_library_is_listed():
    expected = {name for name in numbers_of_the_library() if not is_excepted(name)}
    assert len(expected) > 100
    assert expected - set(CASES) == set()
    assert set(CASES) - expected == {"ResNet.width", "ResNet.weight_decay"}  # which its signature does not name


def is_excepted(name):
    owner, *rest = name.split(".")
    return bool({owner, name, *rest[:-1], ".".join([owner, *rest[:-1]])} & set(EXCEPTIONS))


def numbers_of_the_library():
    """Names such as `ReSet.num_iterations` and `Routes.first.count`; what is inherited has its own class's."""
    for package in PACKAGES:
        module = importlib.import_module(f"reset_keras{package}")
        for function in (part for name in module.__all__ for part in functions_of(getattr(module, name))):
            owner = function.__qualname__.removesuffix(".__init__")
            for parameter in inspect.signature(function).parameters.values():
                annotation = parameter.annotation
                if isinstance(annotation, str):
                    annotation = eval(annotation, function.__globals__)
                if is_number(annotation):
                    yield f"{owner}.{parameter.name}"


def functions_of(item):
    """The function itself, or a class's constructor and public methods."""
    if not inspect.isclass(item):
        return [item] if inspect.isfunction(item) else []
    ours = [owner for owner in item.__mro__ if owner.__module__.startswith("reset_keras")]
    parts = [(name, getattr(part, "__func__", part)) for owner in ours for name, part in vars(owner).items()]
    return [part for name, part in parts if inspect.isfunction(part) and (name == "__init__" or name[0] != "_")]


def is_number(annotation):
    """Whether it is a number, or one in a union, a tuple or a sequence; numbers by name, as logs are, do not count."""
    if typing.get_origin(annotation) in (dict, collections.abc.Mapping, collections.abc.Callable):
        return False
    return annotation in (int, float) or any(map(is_number, typing.get_args(annotation)))
