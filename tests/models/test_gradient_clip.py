"""The limit to the norm of the gradient, beside the optimizer's own."""

import keras
import numpy as np
import pytest

import reset_keras as rk
from networks import LOSS, images_and_labels, slow_on_jax, user_model

IMAGES, LABELS = images_and_labels()


def moved_by_a_step(model, optimizer, **options):
    """Norm of the change of all weights."""
    model.compile(optimizer, LOSS, run_eagerly=True, **options)
    before = [np.array(variable) for variable in model.trainable_variables]
    model.train_on_batch(IMAGES, LABELS)
    moved = [v - old for v, old in zip(map(np.array, model.trainable_variables), before, strict=True)]
    return np.sqrt(sum(np.sum(m**2) for m in moved))


@pytest.mark.parametrize("scale", [None, 1024.0])
def test_the_gradient_norm_is_clipped_and_only_where_it_is_said(scale):
    optimizer = keras.optimizers.SGD(0.5)
    if scale is not None:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=scale)
    model = user_model()
    assert moved_by_a_step(model, optimizer, gradient_clip_norm=1e-3) == pytest.approx(0.5e-3, rel=1e-2)
    assert moved_by_a_step(model, optimizer) > 1e-2


def without_batch_norm():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x, routes = rk.ReSet([keras.layers.Dense(6, "tanh") for _ in range(2)], 2, return_routes=True)(inputs)
    return rk.RoutedModel(inputs, keras.layers.Dense(4)(x), routes=[routes])


@slow_on_jax
@pytest.mark.parametrize("scale", [None, 1024.0])
def test_the_gradient_of_several_batches_is_clipped_as_that_of_one(scale):
    features, found = np.random.default_rng(0).normal(size=(16, 6)).astype("float32"), []
    for batch_size in (16, 8):
        model, steps = without_batch_norm(), 16 // batch_size
        optimizer = keras.optimizers.SGD(0.5, gradient_accumulation_steps=steps if steps > 1 else None)
        if scale is not None:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=scale)
        before = np.concatenate([np.ravel(weight) for weight in model.trainable_variables])
        model.compile(optimizer, LOSS, gradient_clip_norm=1e-2, run_eagerly=keras.backend.backend() == "tensorflow")
        model.fit(features, LABELS[:16], batch_size=batch_size, shuffle=False, verbose=0)
        found.append(np.concatenate([np.ravel(weight) for weight in model.trainable_variables]) - before)
    assert np.linalg.norm(found[0]) == pytest.approx(0.5e-2, rel=1e-3)
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)


def test_the_optimizers_own_clip_stays():
    model, optimizer = user_model(), keras.optimizers.SGD(0.5, global_clipnorm=1e-3)
    for options, norm in (({"gradient_clip_norm": 1.0}, 1e-3), ({}, 1e-3), ({"gradient_clip_norm": 1e-4}, 1e-4)):
        assert moved_by_a_step(model, optimizer, **options) == pytest.approx(0.5 * norm, rel=1e-2)
    optimizer.global_clipnorm = 1e-2
    assert moved_by_a_step(model, optimizer) == pytest.approx(0.5e-2, rel=1e-2)


def test_what_is_set_in_the_optimizer_is_not_kept_in_files(tmp_path):
    model = user_model()
    moved_by_a_step(model, keras.optimizers.SGD(0.5), gradient_clip_norm=1e-3)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.gradient_clip_norm == 1e-3
    assert moved_by_a_step(loaded, loaded.optimizer, gradient_clip_norm=1e-3) == pytest.approx(0.5e-3, rel=1e-2)
    assert moved_by_a_step(loaded, loaded.optimizer) > 1e-2


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow's step clips both ways")
@pytest.mark.parametrize("options", [{"clipnorm": 1e-3}, {"clipvalue": 1e-3}])
def test_an_optimizer_that_clips_otherwise_is_refused(options):
    with pytest.raises(ValueError, match=r"needs an optimizer without `clipnorm` and `clipvalue`.* or compile without"):
        user_model().compile(keras.optimizers.SGD(0.5, **options), LOSS, gradient_clip_norm=1.0)
