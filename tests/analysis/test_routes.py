import keras
import numpy as np
import pytest
import tensorflow as tf

import reset_keras as rk
from networks import images_and_labels, randomize
from reset_keras.analysis import Routes, collect_routes, mutual_information, sequentialness
from reset_keras.callbacks import RouteProbe

IMAGES, LABELS = images_and_labels(20)
RNG = np.random.default_rng(0)
SCORES = [RNG.dirichlet(np.ones(3), size=(40, 2)), RNG.dirichlet(np.ones(2), size=(40, 3))]
CLASSES = RNG.integers(0, 3, 40)
ROUTES = Routes([{"scores": part, "logits": np.log(part)} for part in SCORES], (True, False), CLASSES)


@pytest.fixture(scope="module")
def model():
    return randomize(rk.ReSetNet((1, 1), None, 4, (8, 8, 1), width=4))


@pytest.fixture(scope="module")
def expected(model):
    """Routes image by image, from the network as it is called."""
    return [model(IMAGES[i : i + 1], training=False, return_routes=True).routes for i in range(len(IMAGES))]


def batches():
    return tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "collect",
    [
        lambda model: collect_routes(model, IMAGES, LABELS, batch_size=8),
        lambda model: collect_routes(model, keras.ops.convert_to_tensor(IMAGES), LABELS),
        lambda model: collect_routes(model, batches()),
        lambda model: collect_routes(model, [(IMAGES[:12], LABELS[:12]), (IMAGES[12:], LABELS[12:])]),
        lambda model: collect_routes(model, [[IMAGES[:12], LABELS[:12]], [IMAGES[12:], LABELS[12:]]]),
    ],
    ids=["array", "tensor", "tf.data", "list", "lists"],
)
def test_routes_of_a_dataset_are_those_of_its_images(model, expected, collect):
    routes = collect(model)
    assert len(routes) == 20
    np.testing.assert_array_equal(routes.labels, LABELS)
    for index, module in enumerate(routes.modules):
        for name, array in module.items():
            one_by_one = np.concatenate([routes[index][name] for routes in expected])
            np.testing.assert_allclose(array, one_by_one, rtol=1e-5, atol=1e-5)


def test_an_array_goes_through_in_chunks(model, monkeypatch):
    seen = []
    predict = model.predict_routes
    monkeypatch.setattr("reset_keras.analysis.routes.CHUNK", 8)
    monkeypatch.setattr(model, "predict_routes", lambda x, **options: seen.append(len(x)) or predict(x, **options))
    routes = collect_routes(model, IMAGES)
    assert seen == [8, 8, 4]
    assert (len(routes), routes.labels) == (20, None)


def test_a_shuffled_dataset_keeps_images_and_labels_together(model, expected):
    routes = collect_routes(model, batches().unbatch().shuffle(20, seed=1).batch(8))
    assert not np.array_equal(routes.labels, LABELS)
    first = np.stack([routes[0]["scores"][0] for routes in expected])
    for scores, label in zip(routes.scores[0], routes.labels, strict=True):
        image = np.abs(first - scores).sum(axis=(1, 2)).argmin()
        assert LABELS[image] == label


@pytest.mark.parametrize(
    ("collect", "message"),
    [
        (lambda model: collect_routes(model, IMAGES[:0]), "must hold at least one image"),
        (
            lambda model: collect_routes(model, batches(), LABELS),
            r"`labels` go with an array.* data of the type \w+\. Leave `labels` out",
        ),
        (lambda model: collect_routes(model, IMAGES, LABELS[:3]), r"images and labels \[3, 20\]"),
    ],
)
def test_data_that_cannot_be_collected(model, collect, message):
    with pytest.raises(ValueError, match=message):
        collect(model)


def test_statistics_by_hand():
    vectors = ROUTES.vectors()
    assert vectors.shape == (40, 12)
    assert ROUTES.choices().shape == (40, 5)
    for image in (0, 17):
        np.testing.assert_allclose(vectors[image], [*SCORES[0][image].ravel(), *SCORES[1][image].ravel()], rtol=1e-6)
        by_hand = [max(range(len(row)), key=row.__getitem__) for part in SCORES for row in part[image]]
        assert ROUTES.choices()[image].tolist() == by_hand
    for part, means, by_class, deviations, within, across in zip(
        SCORES,
        ROUTES.mean_scores(),
        ROUTES.mean_scores_by_class(),
        ROUTES.deviations(),
        ROUTES.entropies_within(),
        ROUTES.entropies_across(),
        strict=True,
    ):
        np.testing.assert_allclose(means, sum(part) / 40, rtol=1e-12)
        for label in range(3):
            np.testing.assert_allclose(by_class[label], part[label == CLASSES].mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(deviations, np.sqrt(((part - means) ** 2).sum(axis=0) / 40), rtol=1e-12)
        np.testing.assert_allclose(within, -(part * np.log(part)).sum(axis=-1).mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(across, -(means * np.log(means)).sum(axis=-1), rtol=1e-9)


def test_an_iteration_is_skipped_where_only_the_zero_unit_counts():
    zero, unit = [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]
    routes = Routes([{"scores": np.array([[zero, unit], [unit, zero]])}, {"scores": np.ones((2, 1, 1))}], (True, False))
    assert routes.skips().tolist() == [[True, False, False], [False, True, False]]


def test_a_class_without_an_image_has_no_mean_route():
    routes = Routes([{"scores": np.ones((2, 1, 1))}], (False,), np.array([0, 2]))
    np.testing.assert_array_equal(routes.mean_scores_by_class()[0].ravel(), [1.0, np.nan, 1.0])


def test_the_mean_entropy_is_over_all_iterations():
    modules = [np.zeros((5, 2, 4)), np.array([[[50.0, 0.0]]]).repeat(5, axis=0)]
    routes = Routes([{"logits": logits, "scores": logits} for logits in modules], (True, True))
    assert routes.mean_entropy() == pytest.approx(np.log(4) * 2 / 3)


def test_the_file(tmp_path):
    ROUTES.save(tmp_path / "routes.npz")
    read = Routes.load(tmp_path / "routes.npz")
    np.testing.assert_array_equal(read.labels, CLASSES)
    assert list(read.zero_units) == [True, False]
    for part, written in zip(read.scores, SCORES, strict=True):
        np.testing.assert_allclose(part, written, rtol=1e-3)
    (tmp_path / "routes.npz").write_bytes((tmp_path / "routes.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match="holds no routes that can be read"):
        Routes.load(tmp_path / "routes.npz")


def test_small_scores_are_not_zero_in_the_file_as_their_units_have_run(tmp_path):
    scores = np.array([[[1e-12, 1.0]], [[0.0, 1.0]], [[-1e-12, 1.0]]], "float32")
    Routes([{"scores": scores}], (True,)).save(tmp_path / "routes")
    read = Routes.load(tmp_path / "routes")
    np.testing.assert_array_equal(np.sign(read.scores[0]), np.sign(scores))
    assert read.skips().tolist() == [[False], [True], [False]]
    np.testing.assert_allclose(read.scores[0], scores, atol=1e-7)
    assert [path.name for path in tmp_path.iterdir()] == ["routes"]


@pytest.mark.parametrize(
    "ask",
    [Routes.policies, Routes.entropies_within, Routes.entropies_across, Routes.mean_entropy, sequentialness],
)
def test_what_is_of_policies_needs_logits_which_a_file_does_not_hold(ask, tmp_path):
    ROUTES.save(str(tmp_path / "routes.npz"))
    with pytest.raises(ValueError, match=r"need routes with `logits`.* Received: \[\['scores'\], \['scores'\]\]"):
        ask(Routes.load(str(tmp_path / "routes.npz")))


def test_modules_of_different_images_are_refused():
    with pytest.raises(ValueError, match="2 modules, 1 entries in `zero_units`"):
        Routes(ROUTES.modules, (True,))


def test_nearness_to_the_sequential_policy():
    first = np.log([[[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]]]).repeat(3, axis=0)
    second = np.log([[[0.1, 0.8, 0.1], [0.2, 0.6, 0.2]]]).repeat(3, axis=0)
    near = sequentialness(Routes([{"logits": part, "scores": part} for part in (first, second)], (True, True)))
    assert near.probability == pytest.approx((0.7 + 0.3 + 0.1 + 0.6) / 4)
    assert near.choice == pytest.approx(2 / 4)


def test_more_iterations_than_units_have_no_sequential_policy():
    logits = np.zeros((3, 2, 2))
    assert sequentialness(Routes([{"logits": logits, "scores": logits}], (True,))) is None
    assert sequentialness(Routes([{"logits": logits, "scores": logits}], (False,))) is not None


def test_it_is_there_without_an_import_of_its_own():
    assert rk.analysis.Routes is Routes
    assert issubclass(rk.callbacks.RouteMonitor, keras.callbacks.Callback)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rk.nothing  # noqa: B018


def test_inputs_by_name_are_collected():
    inputs = {name: keras.Input((8, 8, 2), name=name) for name in ("left", "right")}
    x, routed = rk.ReSet(2, 1, return_routes=True)(keras.layers.Add()(list(inputs.values())))
    model = rk.RoutedModel(inputs, x, routes=[routed])
    data = {name: np.random.default_rng(0).normal(size=(5, 8, 8, 2)).astype("float32") for name in inputs}
    found = collect_routes(model, data, labels=np.arange(5))
    np.testing.assert_allclose(found.scores[0], model.predict_routes(data, verbose=0)[0]["scores"], atol=1e-6)
    watched = RouteProbe(data).routes(model)
    np.testing.assert_allclose(watched.scores[0], found.scores[0], atol=1e-5)
    assert len(RouteProbe(data)) == 5


def test_labels_that_are_no_classes_are_told_by_the_first_batch(model):
    seen = []
    batches = ((IMAGES[:4], np.zeros((4, 3))) for _ in range(3) if seen.append(0) is None)
    with pytest.raises(
        ValueError, match=r"take the argmax of one-hot labels.*For routes without labels give images only"
    ):
        collect_routes(model, batches)
    assert len(seen) == 1


def test_labels_may_have_a_last_axis_of_1():
    routes = Routes(ROUTES.modules, ROUTES.zero_units, CLASSES[:, np.newaxis])
    for ours, expected in zip(routes.mean_scores_by_class(), ROUTES.mean_scores_by_class(), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(
    "labels",
    [np.eye(3, dtype=int)[CLASSES], CLASSES.astype(float), CLASSES - 1],
    ids=["one-hot", "floats", "negative"],
)
def test_other_labels_than_classes_are_refused(labels):
    with pytest.raises(ValueError, match=r"`labels` must be classes.* Received: "):
        Routes(ROUTES.modules, ROUTES.zero_units, labels)


@pytest.mark.parametrize("ask", [Routes.mean_scores_by_class, mutual_information])
def test_what_is_of_classes_needs_labels(ask):
    with pytest.raises(ValueError, match=r"with `labels`. Received: labels=None"):
        ask(Routes([{"scores": np.ones((2, 1, 1))}], (False,)))


def test_entropies_of_many_images_keep_their_digits():
    logits = np.zeros((50_000, 5, 6), "float32")
    routes = Routes([{"logits": logits, "scores": logits}], (True,))
    for (entropies,) in (routes.entropies_within(), routes.entropies_across()):
        np.testing.assert_allclose(entropies, np.log(6), rtol=1e-6)


def test_texts_in_a_tensor_are_collected():
    texts = tf.constant(["a b", "b", "a a a"])
    lookup = keras.layers.TextVectorization(output_mode="count", vocabulary=["a", "b"])
    inputs = keras.Input((), dtype="string")
    x, logits = rk.ReSet([keras.layers.Dense(3)], 1, return_routes=True)(lookup(inputs))
    model = rk.RoutedModel(inputs, keras.layers.Dense(2)(x), routes=[logits])
    routes = collect_routes(model, texts, labels=np.array([0, 1, 0]))
    np.testing.assert_allclose(routes.scores[0], model.predict_routes(texts, verbose=0)[0]["scores"])
