import functools

import keras
import numpy as np
import pytest

import reset_keras as rk
from gradient import gradient_of
from networks import (
    EAGERLY_ON_TENSORFLOW,
    LOSS,
    ONE_BACKEND,
    images_and_labels,
    one_module_reset,
    randomize,
    slow_on_jax,
    user_model,
)
from reset_keras.training import HalfMirrored, mirror_averaged

IMAGES, LABELS = images_and_labels()


@functools.cache
def teacher():
    """No test changes it."""
    keras.utils.set_random_seed(1)
    return randomize(rk.ResNet((2,), 4, (8, 8, 1), width=4))


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def divergences(taught, given, temperature):
    """`T^2 * sum_c p_c log(p_c / q_c)` in numpy."""
    p, q = softmax(taught.astype("float64") / temperature), softmax(given.astype("float64") / temperature)
    return temperature**2 * (p * np.log(p / q)).sum(axis=-1)


def taught(model, **options):
    distillation = rk.Distillation(teacher(), weight=0.7, temperature=2.0)
    model.compile(keras.optimizers.SGD(0.05), LOSS, distillation=distillation, **EAGERLY_ON_TENSORFLOW, **options)
    return model


def logs_of(model, **options):
    return model.evaluate(IMAGES, LABELS, batch_size=len(IMAGES), verbose=0, return_dict=True, **options)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_divergence_by_hand(temperature):
    network, logits = teacher(), np.random.default_rng(0).normal(0, 3, (32, 4)).astype("float32")
    ours = rk.Distillation(network, temperature=temperature).of_images(IMAGES)(None, logits)
    expected = divergences(np.array(network(IMAGES, training=False)), logits, temperature)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_its_gradient_pulls_the_probabilities_to_the_teachers():
    network, logits = teacher(), np.random.default_rng(0).normal(0, 3, (32, 4)).astype("float32")
    distance = rk.Distillation(network, temperature=2.0).of_images(IMAGES)
    ours = gradient_of(lambda x: keras.ops.sum(distance(None, x)), logits)
    expected = 2.0 * (softmax(logits / 2.0) - softmax(np.array(network(IMAGES, training=False)) / 2.0))
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_the_loss_is_shared_between_labels_and_teacher():
    model = taught(user_model(), entropy=rk.Entropy(0.0, 0.2))
    logs = logs_of(model)
    expected = divergences(
        np.array(teacher()(IMAGES, training=False)), np.array(model(IMAGES, training=False)), 2.0
    ).mean()
    assert logs["distillation_loss"] == pytest.approx(expected, rel=1e-4)
    total = 0.3 * logs["task_loss"] + 0.7 * expected + logs["l2"] + 0.2 * logs["entropy_within"]
    assert logs["loss"] == pytest.approx(total, rel=1e-4)
    without_teacher = user_model()
    without_teacher.set_weights(model.get_weights())
    without_teacher.compile("sgd", LOSS, **EAGERLY_ON_TENSORFLOW)
    assert logs_of(without_teacher)["task_loss"] == pytest.approx(logs["task_loss"], rel=1e-5)


def test_images_weigh_as_much_to_the_teacher_as_to_the_labels():
    model = taught(one_module_reset())
    weights = np.random.default_rng(0).uniform(0, 2, 32).astype("float32")
    each = divergences(np.array(teacher()(IMAGES, training=False)), np.array(model(IMAGES, training=False)), 2.0)
    assert logs_of(model, sample_weight=weights)["distillation_loss"] == pytest.approx(
        (weights * each).mean(), rel=1e-4
    )


def test_a_teacher_needs_no_labels():
    model = one_module_reset()
    model.compile("sgd", distillation=rk.Distillation(teacher(), weight=1.0), **EAGERLY_ON_TENSORFLOW)
    logs = model.evaluate(IMAGES, batch_size=len(IMAGES), verbose=0, return_dict=True)
    each = divergences(np.array(teacher()(IMAGES, training=False)), np.array(model(IMAGES, training=False)), 4.0)
    assert logs["distillation_loss"] == pytest.approx(each.mean(), rel=1e-4)
    assert logs["loss"] == pytest.approx(each.mean() + logs["l2"], rel=1e-4)


@slow_on_jax
@pytest.mark.parametrize("terms", [{"distillation": True}, {"skip_reward": rk.DropReward()}])
def test_the_labels_and_weights_of_the_only_output_may_be_in_lists(terms):
    terms = {name: rk.Distillation(teacher()) if term is True else term for name, term in terms.items()}
    model, weights = one_module_reset("gumbel_st"), np.linspace(0, 2, len(IMAGES))
    model.compile("sgd", LOSS, **terms, **EAGERLY_ON_TENSORFLOW)
    of_arrays = model.test_on_batch(IMAGES, LABELS, weights)
    model.reset_metrics()
    assert model.test_on_batch(IMAGES, [LABELS], [weights]) == of_arrays


@slow_on_jax
def test_reinforce_counts_what_the_teacher_says():
    """The running baseline is minus the loss per image, on the first batch, where nothing is rewarded."""
    model = taught(one_module_reset("hard"))
    y_pred = model(IMAGES, training=True, return_routes=True)
    model.compute_loss(IMAGES, LABELS, y_pred, training=True)
    outputs = np.array(y_pred.outputs)
    task = -np.log(softmax(outputs)[np.arange(32), LABELS])
    both = 0.3 * task + 0.7 * divergences(np.array(teacher()(IMAGES, training=False)), outputs, 2.0)
    np.testing.assert_allclose(model.skip_reward.baseline, [-both.mean()] * 2, rtol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: HalfMirrored(teacher()),
        pytest.param(lambda: randomize(one_module_reset("gumbel_st")), marks=[ONE_BACKEND, pytest.mark.slow]),
    ],
)
def test_the_student_learns_and_the_teacher_stays(make):
    master, model = make(), rk.ReSetNet((1,), None, 4, (8, 8, 1), scorer="gumbel_st", width=4)
    before = [np.array(weight) for weight in master.weights]
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), LOSS, distillation=rk.Distillation(master, 1.0))
    history = model.fit(IMAGES, LABELS, batch_size=16, epochs=8, verbose=0).history["distillation_loss"]
    assert history[-1] < 0.5 * history[0]
    for old, new in zip(before, master.weights, strict=True):
        np.testing.assert_array_equal(new, old)


@slow_on_jax
def test_a_file_is_the_model_without_its_teacher(tmp_path):
    model = taught(one_module_reset(), entropy=rk.Entropy(0.1))
    model.train_on_batch(IMAGES, LABELS)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.variables) == len(model.variables)
    np.testing.assert_allclose(
        np.array(loaded(IMAGES, training=False)), np.array(model(IMAGES, training=False)), atol=1e-6
    )
    loaded.save(tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")
    for use in (loaded.fit, again.fit, again.train_on_batch):
        with pytest.raises(ValueError, match=r"by Distillation\(weight=0.7, temperature=2.0\), whose teacher its file"):
            use(IMAGES, LABELS)
    with pytest.warns(UserWarning, match="model.loss, entropy=model.entropy, distillation=.* without the teacher's"):
        logs = again.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(logs["task_loss"] + logs["l2"] - 0.1 * logs["entropy_across"], rel=1e-5)
    steps = int(loaded.optimizer.iterations)
    loaded.compile(loaded.optimizer, loaded.loss, **EAGERLY_ON_TENSORFLOW)
    loaded.fit(IMAGES, LABELS, verbose=0)
    assert int(loaded.optimizer.iterations) == steps + 1 == 2 * steps
    assert "distillation_loss" not in logs_of(loaded)


def test_the_mean_over_an_image_and_its_mirror_image():
    network = teacher()
    both = np.array(mirror_averaged(network)(IMAGES, training=False))
    mirrored = np.ascontiguousarray(IMAGES[:, :, ::-1])
    expected = (np.array(network(IMAGES, training=False)) + np.array(network(mirrored, training=False))) / 2
    np.testing.assert_allclose(both, expected, atol=1e-5)


@pytest.mark.parametrize("make", [teacher, lambda: randomize(one_module_reset("gumbel_st"))])
def test_every_other_image_mirrored(make):
    network = make()
    plain = np.array(network(IMAGES, training=False))
    mirrored = np.array(network(np.ascontiguousarray(IMAGES[:, :, ::-1]), training=False))
    assert np.abs(plain - mirrored).min() > 0
    shown = np.array(HalfMirrored(network)(IMAGES))
    np.testing.assert_allclose(shown[::2], mirrored[::2], atol=1e-5)
    np.testing.assert_allclose(shown[1::2], plain[1::2], atol=1e-5)


def test_a_teacher_that_is_no_model_is_refused():
    with pytest.raises(ValueError, match=r"`teacher` must be a keras.Model; .* Received: 'resnet38_cifar10'"):
        rk.Distillation("resnet38_cifar10")


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((8, 8, 1), 5, r"logits of the shape of the model's outputs, \(None, 4\). Received: .* returns \(None, 5\)"),
        ((16, 16, 3), 4, "The teacher cannot be called with the model's inputs: "),
    ],
)
def test_a_teacher_of_something_else_is_refused_before_training(shape, classes, message):
    stranger = rk.ResNet((2,), classes, shape, width=4)
    with pytest.raises(ValueError, match=message):
        one_module_reset().compile("sgd", LOSS, distillation=rk.Distillation(stranger))


def test_a_teacher_of_several_outputs_is_refused():
    inputs = keras.Input((8, 8, 1))
    logits = keras.layers.Dense(4)(keras.layers.Flatten()(inputs))
    for outputs in ([logits, logits], {"logits": logits}):
        stranger = keras.Model(inputs, outputs)
        with pytest.raises(ValueError, match=r"outputs, \(None, 4\). Received: a teacher that returns .*\(None, 4\)"):
            one_module_reset().compile("sgd", LOSS, distillation=rk.Distillation(stranger))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (None, r"needs a model with a single output. Received: outputs of shapes \["),
        ("mse", "a teacher need one loss of one output. Received: loss='mse' and 2 outputs"),
    ],
)
def test_several_outputs_cannot_be_taught(loss, message):
    inputs = keras.Input((8, 8, 4))
    x, routes = rk.ReSet(2, 2, return_routes=True)(inputs)
    model = rk.RoutedModel(inputs, [x, x], routes=[routes])
    with pytest.raises(ValueError, match=message):
        model.compile("sgd", loss, distillation=rk.Distillation(model))
