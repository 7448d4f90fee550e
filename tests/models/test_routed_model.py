import keras
import numpy as np
import pytest
from networks import LOSS, images_and_labels, small_reset

import reset_keras as rk
from reset_keras.models.routed_model import TERMS

IMAGES, LABELS = images_and_labels()


def user_model(**reset_options):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same", kernel_regularizer=keras.regularizers.L2(0.01))(inputs)
    x, routes = rk.ReSet(2, 3, return_routes=True, **reset_options)(x)
    return rk.RoutedModel(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)), [routes])


def compiled(model, **options):
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), LOSS, metrics=["accuracy"], **options)
    return model


@pytest.mark.parametrize(
    ("scorer", "reward"),
    [
        ("softmax", rk.SkipReward(0.01)),
        ("gumbel_softmax", None),
        ("gumbel_st", rk.SkipReward(0.01, "reinforce")),
        ("top_k", rk.SkipReward([0.01, 0.0, 0.02])),
        ("hard", None),
    ],
)
def test_trains_with_every_scorer(scorer, reward):
    model = compiled(user_model(scorer=scorer), entropy=rk.Entropy(0.01, 0.01), skip_reward=reward)
    history = model.fit(IMAGES, LABELS, batch_size=16, epochs=8, validation_data=(IMAGES, LABELS), verbose=0).history
    assert set(TERMS) < set(history)
    assert {f"val_{term}" for term in TERMS} < set(history)
    assert history["task_loss"][-1] < history["task_loss"][0]


def test_every_parameter_receives_a_gradient():
    model = compiled(small_reset("gumbel_st"), entropy=rk.Entropy(0.1, 0.1))
    before = [np.array(variable) for variable in model.trainable_variables]
    model.fit(IMAGES, LABELS, batch_size=32, epochs=2, verbose=0)
    unmoved = [v.path for v, old in zip(model.trainable_variables, before, strict=True) if np.array_equal(v, old)]
    assert not unmoved


def test_the_loss_is_the_sum_of_its_terms():
    model = compiled(user_model(), entropy=rk.Entropy(across=0.3, within=0.2), skip_reward=rk.SkipReward(0.5))
    logs = model.evaluate(IMAGES, LABELS, batch_size=32, verbose=0, return_dict=True)
    routes = model.predict_routes(IMAGES, verbose=0)[0]
    policy = np.exp(routes["logits"]) / np.exp(routes["logits"]).sum(axis=-1, keepdims=True)
    across = -(policy.mean(axis=0) * np.log(policy.mean(axis=0))).sum()
    within = -(policy * np.log(policy)).sum(axis=-1).mean(axis=0).sum()
    outputs = model.predict(IMAGES, verbose=0)
    task = np.mean(np.log(np.exp(outputs).sum(axis=-1)) - outputs[np.arange(len(LABELS)), LABELS])
    l2 = 0.01 * np.sum(np.square(model.network.layers[1].get_weights()[0]))
    skip = routes["scores"][..., -1]
    expected = {
        "task_loss": task,
        "entropy_across": across,
        "entropy_within": within,
        "skip_reward": 0.5 * skip.sum(axis=1).mean(),
        "skip_fraction": skip.mean(),
        "l2": l2,
        "loss": task + l2 - 0.3 * across + 0.2 * within - 0.5 * skip.sum(axis=1).mean(),
    }
    for name, value in expected.items():
        assert logs[name] == pytest.approx(value, abs=1e-4), name


def test_predict_gives_the_outputs_and_predict_routes_the_routes():
    model = user_model()
    called = model(IMAGES, training=False)
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), called["outputs"], atol=1e-5)
    np.testing.assert_allclose(model.predict_on_batch(IMAGES), called["outputs"], atol=1e-5)
    (routes,) = model.predict_routes(IMAGES, batch_size=5, verbose=0)
    assert routes["logits"].shape == routes["scores"].shape == (32, 3, 3)
    np.testing.assert_allclose(routes["scores"], called["routes"]["module_0"]["scores"], atol=1e-5)


def test_keras_file_round_trip_with_all_that_was_compiled(tmp_path):
    model = compiled(
        user_model(scorer="gumbel_st"),
        entropy=rk.Entropy(0.1),
        skip_reward=rk.SkipReward(0.2, "reinforce"),
        gradient_clip_norm=0.5,
    )
    model.fit(IMAGES, LABELS, batch_size=16, epochs=1, verbose=0)
    model.entropy.across.assign(0.05)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0))
    assert float(loaded.entropy.across) == pytest.approx(0.05)
    np.testing.assert_array_equal(loaded.skip_reward.baseline, model.skip_reward.baseline)
    assert loaded.gradient_clip_norm == 0.5
    for step in (model, loaded):
        step.fit(IMAGES, LABELS, batch_size=16, epochs=1, shuffle=False, verbose=0)
    np.testing.assert_allclose(loaded.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0), atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exporting needs TensorFlow")
def test_keras_export_writes_what_predict_computes(tmp_path):
    import tensorflow as tf

    model = user_model(scorer="gumbel_st")
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    for count in (1, 32):
        images = IMAGES[:count]
        np.testing.assert_allclose(loaded.serve(images).numpy(), model.predict(images, verbose=0), atol=1e-5)


def test_weights_file_round_trip(tmp_path):
    model = user_model()
    model.save_weights(tmp_path / "model.weights.h5")
    other = user_model()
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0))


def test_changed_loss_weights_reach_a_compiled_step():
    model = compiled(user_model(), entropy=rk.Entropy(within=0.0))
    first = model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    model.entropy.within.assign(2.0)
    second = model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    assert second["loss"] - first["loss"] == pytest.approx(2 * first["entropy_within"], rel=1e-4)


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
    with pytest.raises(ValueError, match="`gradient_clip_norm` needs an optimizer without `clipnorm` and `clipvalue`"):
        user_model().compile(keras.optimizers.SGD(0.5, **options), LOSS, gradient_clip_norm=1.0)


def test_quantizing_is_refused():
    with pytest.raises(NotImplementedError, match="cannot be quantized: its file could not be loaded"):
        small_reset().quantize("int8")


def test_inputs_are_not_rounded_before_the_layers_that_want_them_whole():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((8, 8, 1))
        x = keras.layers.Normalization(mean=[1000.0], variance=[1.0], dtype="float32")(inputs)
        x, routes = rk.ReSet(2, 1, return_routes=True)(keras.layers.Conv2D(4, 3)(x))
        model = rk.RoutedModel(inputs, x, [routes])
    finally:
        keras.config.set_dtype_policy(before)
    images = 1000 + IMAGES
    expected = model.network.predict(images, verbose=0)["outputs"]
    np.testing.assert_array_equal(model.predict(images, verbose=0), expected)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="part of the TensorFlow step")
def test_replicated_images_train_like_repeated_ones():
    replicated, repeated = (compiled(user_model(), batch_replication=n) for n in (3, 1))
    repeated.set_weights(replicated.get_weights())
    replicated.train_on_batch(IMAGES, LABELS)
    repeated.train_on_batch(np.repeat(IMAGES, 3, axis=0), np.repeat(LABELS, 3))
    for ours, theirs in zip(replicated.get_weights(), repeated.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="part of the TensorFlow step")
def test_each_replica_of_an_image_has_its_own_noise():
    model = user_model(scorer="gumbel_softmax")
    scores = model(np.repeat(IMAGES[:1], 4, axis=0), training=True)["routes"]["module_0"]["scores"]
    assert len(np.unique(np.round(scores, 6), axis=0)) == 4


def test_a_loss_of_any_form_serves_reinforce():
    for loss in (LOSS, "sparse_categorical_crossentropy", keras.losses.sparse_categorical_crossentropy):
        model = user_model(scorer="hard")
        model.compile("sgd", loss)
        assert np.isfinite(model.train_on_batch(IMAGES, LABELS)).all()


@pytest.mark.parametrize("weights", [12.0, [12.0], "sample_weight"])
def test_weights_of_the_loss_are_reinforces_too(weights):
    """Without a baseline to take off, the controllers' step is 12 times as long."""
    of_images = np.full(len(IMAGES), 12.0, "float32") if weights == "sample_weight" else None
    steps = []
    for weighted in (False, True):
        keras.utils.set_random_seed(0)
        model = user_model(scorer=rk.HardScorer(seed=3))
        reward = rk.SkipReward(0.0, "reinforce")
        loss_weights = weights if weighted and of_images is None else None
        model.compile(keras.optimizers.SGD(1e-3), LOSS, loss_weights=loss_weights, skip_reward=reward, run_eagerly=True)
        reward.updates.assign(1.0)
        kernel = model.routed_modules[0].controller.dense.kernel
        before = np.array(kernel)
        model.train_on_batch(IMAGES, LABELS, sample_weight=of_images if weighted else None)
        steps.append(np.array(kernel) - before)
    assert np.abs(steps[0]).max() > 1e-5
    np.testing.assert_allclose(steps[1], 12 * steps[0], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("method", ["fit", "train_on_batch", "evaluate", "test_on_batch"])
def test_a_model_must_be_compiled_first(method):
    with pytest.raises(ValueError, match=r"You must call `compile\(\)`"):
        getattr(user_model(), method)(IMAGES, LABELS)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras's other steps do not warn")
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_without_trainable_weights_warns_as_keras_does(clip):
    model = user_model()
    model.trainable = False
    before = model.get_weights()
    compiled(model, gradient_clip_norm=clip, run_eagerly=True)
    with pytest.warns(UserWarning, match="The model does not have any trainable weights"):
        logs = model.train_on_batch(IMAGES, LABELS, return_dict=True)
    assert np.isfinite(logs["loss"])
    assert logs["gradient_norm_pools"] == 0
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


def two_modules(units=2, **shared):
    x = inputs = keras.Input((8, 8, 4))
    all_routes = []
    for name in ("one", "two"):
        x, routes = rk.ReSet(units, 1, return_routes=True, name=name, **shared)(x)
        all_routes.append(routes)
    return rk.RoutedModel(inputs, keras.layers.GlobalAveragePooling2D()(x), all_routes)


@pytest.mark.parametrize(
    ("part", "make"),
    [
        ("controller", lambda: rk.RNNController(3, name="mine")),
        ("scorer", lambda: rk.SoftmaxScorer(name="mine")),
        ("units", lambda: rk.ResidualPool(2, name="mine")),
        ("units", lambda: [keras.layers.Dense(4, name="mine"), keras.layers.Dense(4)]),
    ],
)
def test_two_modules_that_share_a_part_are_refused(part, make):
    with pytest.raises(ValueError, match=r"'one' and 'two' share 'mine', one .* Give each module one of its own"):
        two_modules(**{part: make()})


def test_modules_may_share_a_controller_without_weights():
    assert len(two_modules(controller=rk.FixedController(3, [1])).routed_modules) == 2


def test_a_module_that_is_called_twice_can_be_saved(tmp_path):
    inputs = keras.Input((8, 8, 4))
    module = rk.ReSet(2, 1, return_routes=True)
    x, first = module(inputs)
    x, second = module(x)
    model = rk.RoutedModel(inputs, keras.layers.GlobalAveragePooling2D()(x), [first, second])
    model.save(tmp_path / "model.keras")
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 4)).astype("float32")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rk.RoutedModel(keras.Input((1,)), keras.Input((1,)), []), "`routes` must hold the routes of at least"),
        (
            lambda: rk.RoutedModel(keras.Input((1,)), keras.Input((1,)), [{"scores": keras.Input((1,))}]),
            "`routes` must be what ReSet layers",
        ),
        (lambda: compiled(user_model(), skip_reward=rk.SkipReward(0.1, "reinforce")), "scorers that sample one unit"),
        (lambda: compiled(user_model(scorer="hard"), skip_reward=rk.SkipReward(0.1)), "gets no gradient through"),
        (
            lambda: compiled(user_model(zero_unit=False), skip_reward=rk.SkipReward(0.1)),
            "modules with a zero unit",
        ),
        (lambda: compiled(user_model(), gradient_clip_norm=0.0), "`gradient_clip_norm` must be above 0"),
        (lambda: compiled(user_model(), batch_replication=0), "`batch_replication` must be at least 1"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
