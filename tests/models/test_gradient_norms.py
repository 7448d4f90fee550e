"""The norms that the training step logs, against how far a step of SGD moves the weights."""

import functools

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import LOSS, images_and_labels, one_module_reset

GROUPS = ("controllers", "pools", "others")
PART_GROUPS = {"controller": "controllers", "halting": "controllers", "pool": "pools"}
RATE = 0.25
IMAGES, LABELS = images_and_labels()

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow has a step of its own")


@pytest.mark.parametrize("scales", [True, False])
def test_a_step_that_a_loss_scale_leaves_out_is_not_logged(scales):
    model, optimizer = one_module_reset(), keras.optimizers.SGD(0.0)
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer) if scales else optimizer
    model.compile(optimizer, LOSS, run_eagerly=True)
    logs = [model.train_on_batch(images, LABELS, return_dict=True) for images in (IMAGES, np.nan * IMAGES)]
    good, bad = (of_step["gradient_norm_pools"] for of_step in logs)
    assert good > 0.0
    np.testing.assert_equal(float(bad), 0.0 if scales else np.nan)  # the mean over no step


def step(optimizer=None, frozen=(), network=None, **options):
    """Logs of a step, and by group the norm of the change of weights over the learning rate."""
    keras.utils.set_random_seed(0)
    model = one_module_reset(**(network or {}))
    for module in model.routed_modules:
        for part in frozen:
            getattr(module, part).trainable = False
    model.compile(optimizer or keras.optimizers.SGD(RATE), LOSS, **{"run_eagerly": True, **options})
    policy = {id(weight) for layer in model.layers if layer.name == "policy_network" for weight in layer.weights}
    before = {id(weight): np.array(weight) for weight in model.trainable_weights}
    logs = model.train_on_batch(IMAGES, LABELS, return_dict=True)
    squares = dict.fromkeys(GROUPS, 0.0)
    for weight in model.trainable_weights:
        of_module = (group for part, group in PART_GROUPS.items() if f"/{part}/" in weight.path)
        group = "controllers" if id(weight) in policy else next(of_module, "others")
        squares[group] += np.sum(((before[id(weight)] - np.array(weight)) / RATE).astype(np.float64) ** 2)
    return model, logs, {group: square**0.5 for group, square in squares.items()}


unclipped_step = functools.cache(step)


def test_norms_are_those_of_the_gradient():
    _, logs, norms = step(run_eagerly=False)
    for group in GROUPS:
        assert float(logs[f"gradient_norm_{group}"]) == pytest.approx(norms[group], rel=1e-3)
        assert norms[group] > 0


def test_halting_scores_and_a_policy_network_count_as_controllers():
    network = {"controller": "policy", "halting": "act"}
    _, logs, norms = step(network=network, ponder_cost=rk.PonderCost(1.0))
    for group in GROUPS:
        assert float(logs[f"gradient_norm_{group}"]) == pytest.approx(norms[group], rel=1e-3)


def test_a_frozen_group_has_none():
    _, logs, _ = step(frozen=["controller"])
    assert float(logs["gradient_norm_controllers"]) == 0.0
    assert float(logs["gradient_norm_pools"]) > 0.0


@pytest.mark.parametrize("scale", [None, 1024.0])
def test_they_are_taken_before_clipping_whatever_the_scale_of_the_loss(scale):
    optimizer = keras.optimizers.SGD(RATE)
    if scale is not None:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=scale)
    _, logs, norms = step(optimizer, gradient_clip_norm=0.05)
    expected = unclipped_step()[1]
    for group in GROUPS:
        name = f"gradient_norm_{group}"
        assert float(logs[name]) == pytest.approx(float(expected[name]), rel=1e-3)
    assert sum(norm**2 for norm in norms.values()) ** 0.5 == pytest.approx(0.05, rel=1e-2)


@pytest.fixture
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(
    ("policy", "clip_norm", "tolerance"),
    [("float64", None, 1e-3), ("float64", 0.05, 1e-3), ("bfloat16", None, 0.1)],
    indirect=["policy"],
)
def test_weights_of_several_types_are_trained(policy, clip_norm, tolerance):
    # Keras adds up L2 terms only in float32.
    model, logs, norms = step(network={"weight_decay": 0.0}, gradient_clip_norm=clip_norm)
    assert {weight.dtype for weight in model.trainable_weights} == {policy, "float32"}
    total = sum(float(logs[f"gradient_norm_{group}"]) ** 2 for group in GROUPS) ** 0.5
    assert sum(norm**2 for norm in norms.values()) ** 0.5 == pytest.approx(clip_norm or total, rel=tolerance)


def test_an_evaluation_logs_no_gradients():
    model, logs, _ = step()
    assert set(model.get_metrics_result()) == set(logs)
    for evaluated in (
        model.evaluate(IMAGES, LABELS, return_dict=True, verbose=0),
        model.test_on_batch(IMAGES, LABELS, return_dict=True),
    ):
        assert set(logs) - set(evaluated) == {f"gradient_norm_{group}" for group in GROUPS}
