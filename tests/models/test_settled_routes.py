"""Masks of what hardly any image chooses."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import images_and_labels, one_module_reset, randomize, small_reset, small_resnet, user_model
from reset_keras.models import with_settled_routes
from reset_keras.training import train_only_controllers

IMAGES, _ = images_and_labels(64)


def choices_of(model, images=IMAGES):
    routes = model(images, training=False, return_routes=True).routes
    return [np.array(route["scores"]).argmax(axis=-1) for route in routes]


def routed_reset():
    """Of its 64 images, some choices are made by many, some by few, and some by none."""
    model = small_reset("gumbel_st")
    for seed in range(40):
        shares = np.array(counted(randomize(model, seed))) / 64
        if (shares == 0).any() and ((shares > 0) & (shares < 0.2)).any() and ((shares > 0.2) & (shares < 1)).any():
            return model
    raise AssertionError


def halting_reset():
    return rk.resnet_to_reset(small_resnet(), rk.HaltingController(1, 4), rk.HardScorer(sampled=False))


@keras.saving.register_keras_serializable("tests")
class Decides(rk.GateController):
    def check_module(self, module):
        if not (module.allowed.mask.sum(axis=1) > 1).all():
            raise ValueError("There must be a choice in every iteration.")


def reset_that_must_decide():
    return one_module_reset("hard", controller=Decides(3, 2))


def counted(model):
    """For each module and iteration how many images take each choice, counted one by one."""
    found = []
    for module, choices in zip(model.routed_modules, choices_of(model), strict=True):
        counts = [[0] * module.num_scores for _ in range(module.num_iterations)]
        for route in choices:
            for iteration, choice in enumerate(route):
                counts[iteration][choice] += 1
        found.append(counts)
    return found


@pytest.mark.parametrize("least_share", [0, 0.2])
def test_what_fewer_images_choose_is_forbidden(least_share):
    model = routed_reset()
    expected = [
        [[count > 0 and count / 64 >= least_share for count in row] for row in module] for module in counted(model)
    ]
    settled = with_settled_routes(model, IMAGES, least_share)
    assert [module.allowed.mask.tolist() for module in settled.routed_modules] == expected
    assert [module.allowed.config for module in model.routed_modules] == ["any", "any"]


def test_routes_of_which_nothing_is_forbidden_stay_as_they_are():
    model = routed_reset()
    settled = with_settled_routes(model, IMAGES, 0)
    np.testing.assert_array_equal(np.concatenate(choices_of(settled)), np.concatenate(choices_of(model)))
    # Without the forbidden units, whose scores were 0, sums may be rounded differently.
    np.testing.assert_allclose(settled(IMAGES, training=False), model(IMAGES, training=False), atol=1e-5, rtol=1e-5)


def test_a_module_that_is_called_twice_may_choose_what_it_did_in_either_call():
    inputs = keras.Input((8, 8, 1))
    module = rk.ReSet(2, 2, "rnn", "hard", return_routes=True)
    x, first = module(keras.layers.Conv2D(4, 3, padding="same")(inputs))
    x, second = module(x)
    model = randomize(rk.RoutedModel(inputs, keras.layers.Flatten()(x), routes=[first, second]), 6)
    settled = with_settled_routes(model, IMAGES, 0)
    first, second = choices_of(model)
    assert any(set(ours) != set(theirs) for ours, theirs in zip(first.T, second.T, strict=True))
    np.testing.assert_array_equal(choices_of(settled), [first, second])
    allowed = settled.routed_modules[0].allowed.mask
    assert [set(np.flatnonzero(row)) for row in allowed] == [set(both) for both in np.concatenate([first, second]).T]


def test_an_image_takes_the_likeliest_of_what_is_left():
    model = one_module_reset("hard", controller=rk.GateController(3, 2))
    (gates,) = [module.controller for module in model.routed_modules]
    likes = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    for dense, logits in zip(gates.dense, likes, strict=True):
        dense.kernel.assign(np.zeros(dense.kernel.shape))
        dense.bias.assign(logits)
    settled = with_settled_routes(model, IMAGES)
    assert settled.allowed == [[False, False, True], [True, False, False]]
    for dense in settled.routed_modules[0].controller.dense:
        dense.bias.assign([0.0, 9.0, 0.0])
    assert {tuple(route) for route in choices_of(settled)[0]} == {(2, 0)}


@pytest.mark.parametrize("make", [routed_reset, lambda: randomize(user_model(scorer="hard"), 3)])
def test_a_file_keeps_the_masks(make, tmp_path):
    settled = with_settled_routes(make(), IMAGES, 0.2)
    settled.save(tmp_path / "settled.keras")
    loaded = keras.models.load_model(tmp_path / "settled.keras")
    for ours, theirs in zip(loaded.routed_modules, settled.routed_modules, strict=True):
        np.testing.assert_array_equal(ours.allowed.mask, theirs.allowed.mask)
        assert not theirs.allowed.mask.all()
    np.testing.assert_allclose(loaded(IMAGES, training=False), settled(IMAGES, training=False), atol=1e-6)


def test_it_shares_nothing_with_the_model_and_what_was_not_trained_is_not():
    model = routed_reset()
    train_only_controllers(model)
    settled = with_settled_routes(model, IMAGES)
    assert {weight.path for weight in settled.trainable_weights} == {weight.path for weight in model.trainable_weights}
    before = np.array(model(IMAGES, training=False))
    for weight in settled.weights:
        weight.assign(np.zeros(weight.shape))
    np.testing.assert_array_equal(model(IMAGES, training=False), before)


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (small_resnet, {}, "must be a RoutedModel"),
        (one_module_reset, {}, "Each iteration must choose one unit"),
        (lambda: one_module_reset("hard", halting="act"), {}, r"\['stage0_reset'\], whose images halt"),
        (halting_reset, {}, r"\['stage0_reset', 'stage1_reset'\], whose images halt"),
        (lambda: one_module_reset("hard"), {"least_share": 0.5}, "below 0.5"),
        (lambda: one_module_reset("hard"), {"least_share": -0.1}, "at least 0"),
        (lambda: one_module_reset("hard"), {"images": IMAGES[:0]}, "must hold an image"),
        (reset_that_must_decide, {}, "in every iteration"),
    ],
)
def test_what_cannot_be_settled(make, options, expected):
    with pytest.raises(ValueError, match=expected):
        with_settled_routes(make(), **{"images": IMAGES, **options})
