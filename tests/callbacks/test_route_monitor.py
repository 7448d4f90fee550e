"""What TensorBoard would read, against numbers computed from the model's own predictions."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

import reset_keras as rk
from networks import EAGERLY_ON_TENSORFLOW, LOSS, images_and_labels, one_module_reset, randomize, small_reset
from reset_keras.callbacks import RouteMonitor, RouteProbe, projector, route_probe, write_hparams
from reset_keras.callbacks.projector import write_projector

IMAGES, LABELS = images_and_labels()
THUMBNAILS = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), np.uint8)
HPARAMS = {"scorer": "gumbel_st", "rate": 0.1, "units": (2, 2), "target": None}
EPOCHS = 3


def fit(model, callbacks):
    options = {"metrics": ["accuracy"], "entropy": rk.Entropy(0.1), **EAGERLY_ON_TENSORFLOW}
    model.compile(keras.optimizers.SGD(0.1), LOSS, **options)
    return model.fit(
        IMAGES, LABELS, validation_data=(IMAGES, LABELS), batch_size=32, epochs=EPOCHS, callbacks=callbacks, verbose=0
    )


class Expected(keras.callbacks.Callback):
    """The scores and policies of the images after each epoch, by `predict`."""

    def __init__(self):
        super().__init__()
        self.scores, self.policies = [], []

    def on_epoch_end(self, epoch, logs=None):
        routes = self.model.predict_routes(IMAGES, verbose=0)
        self.scores.append([route["scores"] for route in routes])
        self.policies.append([np.array(keras.ops.softmax(route["logits"])) for route in routes])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    keras.utils.set_random_seed(0)
    log_dir = tmp_path_factory.mktemp("logs") / "run"
    expected = Expected()
    names = ("zero", "one", "two", "three")
    monitor = RouteMonitor(log_dir, IMAGES, LABELS, names, THUMBNAILS, HPARAMS)
    history = fit(small_reset("gumbel_st"), [expected, monitor])
    return log_dir, expected, history.history


def read(log_dir, part):
    accumulator = EventAccumulator(str(log_dir / part), {"tensors": 0, "images": 0})
    return accumulator.Reload()


def values(events, tag):
    return [tf.make_ndarray(event.tensor_proto) for event in events.Tensors(tag)]


def test_use_of_units_and_entropies_of_each_iteration(run):
    log_dir, expected, _ = run
    events = read(log_dir, "routes")
    tags = events.Tags()["tensors"]
    assert sum(tag.startswith("unit_use_") for tag in tags) == 2 * 2 * 3
    for module in range(2):
        for k in range(2):
            place = f"module_{module + 1}/iteration_{k + 1}"
            for unit, name in enumerate(("1", "2", "zero")):
                means = [scores[module][:, k, unit].mean() for scores in expected.scores]
                np.testing.assert_allclose(values(events, f"unit_use_{place}_unit_{name}"), means, atol=1e-5)
            policies = [policy[module][:, k] for policy in expected.policies]
            within = [-(policy * np.log(policy)).sum(axis=1).mean() for policy in policies]
            across = [-(policy.mean(axis=0) * np.log(policy.mean(axis=0))).sum() for policy in policies]
            np.testing.assert_allclose(values(events, f"entropy_within_{place}"), within, atol=1e-4)
            np.testing.assert_allclose(values(events, f"entropy_across_{place}"), across, atol=1e-4)


def test_skipped_iterations(run):
    log_dir, expected, _ = run
    events = read(log_dir, "routes")
    skipped = [np.mean([part[..., -1] == 1.0 for part in scores]) for scores in expected.scores]
    np.testing.assert_allclose(values(events, "skipped_iterations"), skipped, atol=1e-6)


def test_histograms_of_the_scores(tmp_path):
    """Of soft scores: those of one-hot ones are all the same."""
    keras.utils.set_random_seed(0)
    model, monitor, steps = one_module_reset(), RouteMonitor(tmp_path, IMAGES), []
    model.compile("sgd", LOSS)
    monitor.set_model(model)
    monitor.set_params({"epochs": 2})
    monitor.on_train_begin()
    for epoch in range(2):
        randomize(model, seed=epoch)
        monitor.on_epoch_end(epoch, {})
        steps.append(model.predict_routes(IMAGES, verbose=0))
    monitor.on_train_end()
    events, all_counts = read(tmp_path, "routes"), set()
    for k in range(2):
        found = values(events, f"scores_module_1/iteration_{k + 1}")
        for buckets, (route,) in zip(found, steps, strict=True):
            counts, edges = np.histogram(route["scores"][:, k].astype("float64"), bins=len(buckets))
            np.testing.assert_array_equal(buckets[:, 2], counts)
            all_counts.add(tuple(counts))
            np.testing.assert_allclose(buckets[:, :2], np.stack([edges[:-1], edges[1:]], axis=1), atol=1e-5)
    assert len(all_counts) == 2 * 2


def test_all_that_is_logged_is_there_too(run):
    log_dir, _, history = run
    train, validation = read(log_dir, "train"), read(log_dir, "validation")
    norms = [f"gradient_norm_{group}" for group in ("controllers", "pools", "others")]
    terms = ["loss", "accuracy", "task_loss", "l2", "entropy_across", "entropy_within", "skip_fraction", "skip_reward"]
    for name in [*terms, *norms, "compute_fraction"]:
        np.testing.assert_allclose(values(train, f"epoch_{name}"), history[name], rtol=1e-5)
    for name in terms:
        np.testing.assert_allclose(values(validation, f"epoch_{name}"), history[f"val_{name}"], rtol=1e-5)
    assert not [tag for tag in validation.Tags()["tensors"] if "gradient" in tag]
    assert len(history["compute_fraction"]) == EPOCHS


def test_figure_6_is_drawn_along_the_training(run):
    drawn = values(read(run[0], "routes"), "policy_evolution")
    assert len(drawn) == 2
    width, height, picture = drawn[-1]
    pixels = tf.io.decode_png(picture).numpy()
    assert pixels.shape[:2] == (int(height), int(width))
    assert pixels[..., :3].std() > 1
    assert drawn[0][2] != picture


def test_thumbnails_that_are_too_many_pixels_are_made_smaller(monkeypatch, tmp_path):
    monkeypatch.setattr(projector, "LARGEST_SPRITE", 20)
    thumbnails = np.random.default_rng(0).integers(0, 256, (5, 16, 10, 3)).astype("uint8")
    write_projector(tmp_path, np.zeros((5, 2)), thumbnails=thumbnails)
    assert "single_image_dim: 4\n    single_image_dim: 6\n" in (tmp_path / "projector_config.pbtxt").read_text()
    sprite = tf.io.decode_png((tmp_path / "thumbnails.png").read_bytes()).numpy()
    assert sprite.shape == (18, 12, 3)
    np.testing.assert_array_equal(sprite[6:12, 4:8], thumbnails[4, ::3, ::3])


def test_the_projector_finds_routes_labels_and_thumbnails(run):
    log_dir, expected, _ = run
    folder = log_dir / "routes"
    assert list(folder.glob("events.*"))
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (embedding,) = config.embeddings
    vectors = np.loadtxt(folder / embedding.tensor_path, delimiter="\t")
    by_hand = np.concatenate([part.reshape(32, -1) for part in expected.scores[-1]], axis=1)
    np.testing.assert_allclose(vectors, by_hand, atol=1e-4)
    header, *rows = (folder / embedding.metadata_path).read_text().splitlines()
    assert header == "class\timage"
    assert rows == [f"{('zero', 'one', 'two', 'three')[label]}\t{index}" for index, label in enumerate(LABELS)]
    assert list(embedding.sprite.single_image_dim) == [8, 8]
    sprite = tf.io.decode_png((folder / embedding.sprite.image_path).read_bytes()).numpy()
    assert sprite.shape == (48, 48, 1)
    for index in (0, 5, 6, 31):
        row, column = divmod(index, 6)
        cell = sprite[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        np.testing.assert_array_equal(cell, THUMBNAILS[index])


def session(log_dir):
    """Hyperparameters and result columns of a folder, as the HParams plugin reads them."""
    accumulator = EventAccumulator(str(log_dir)).Reload()
    contents = accumulator.PluginTagToContent("hparams")
    start = plugin_data_pb2.HParamsPluginData.FromString(contents["_hparams_/session_start_info"]).session_start_info
    experiment = plugin_data_pb2.HParamsPluginData.FromString(contents["_hparams_/experiment"]).experiment
    hparams = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    columns = [info.name.tag for info in experiment.metric_infos]
    assert {info.name for info in experiment.hparam_infos} == set(hparams)
    return hparams, {tag: float(values(accumulator, tag)[0]) for tag in columns}


def test_hyperparameters_and_results(run):
    log_dir, _, history = run
    hparams, results = session(log_dir)
    assert hparams == {"scorer": "gumbel_st", "rate": 0.1, "units": "2 2", "target": "none"}
    for name in ("val_accuracy", "loss", "compute_fraction"):
        assert results[f"result/{name}"] == pytest.approx(history[name][-1], rel=1e-5)


def test_results_that_are_no_number_are_left_out(tmp_path):
    write_hparams(tmp_path, {"a": True}, {"good": 0.5, "bad": float("nan")}, name="mine/first")
    assert session(tmp_path) == ({"a": True}, {"result/good": 0.5})
    start = EventAccumulator(str(tmp_path)).Reload().PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert plugin_data_pb2.HParamsPluginData.FromString(start).session_start_info.group_name == "mine/first"


def test_layers_that_cannot_be_counted_leave_the_fraction_out(tmp_path):
    inputs = keras.Input((4, 6))
    units = [keras.layers.MultiHeadAttention(1, 4, name="attention")]

    @keras.saving.register_keras_serializable("tests")
    class Attention(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.attention = units[0]

        def build(self, shape):
            self.attention.build(shape, shape)

        def call(self, x):
            return self.attention(x, x)

    x, routes = rk.ReSet([Attention()], 1, return_routes=True)(inputs)
    model = rk.RoutedModel(inputs, keras.layers.GlobalAveragePooling1D()(x), routes=[routes])
    model.compile("sgd", "mse", **EAGERLY_ON_TENSORFLOW)
    words = np.random.default_rng(0).normal(size=(8, 4, 6))
    history = model.fit(words, np.zeros((8, 6)), callbacks=[RouteMonitor(tmp_path, words)], verbose=0)
    assert "compute_fraction" not in history.history
    assert "skipped_iterations" in read(tmp_path, "routes").Tags()["tensors"]


def test_a_probe_looks_once_however_many_callbacks_share_it():
    model, probe = one_module_reset(), RouteProbe(IMAGES)
    first = probe.routes(model)
    assert probe.routes(model) is first


def test_a_probe_looks_again_when_weights_have_changed():
    model, probe = one_module_reset(), RouteProbe(IMAGES)
    probe.routes(model)
    model.routed_modules[0].controller.dense.bias.assign([0.0, 3.0, 0.0])
    for seen, expected in zip(probe.routes(model).modules, model.predict_routes(IMAGES, verbose=0), strict=True):
        np.testing.assert_allclose(seen["scores"], expected["scores"], atol=1e-5)


def test_the_images_of_a_probe_go_through_in_batches(monkeypatch):
    monkeypatch.setattr(route_probe, "BATCH_SIZE", 20)
    model, batches = one_module_reset(), []
    expected = model.predict_routes(IMAGES, verbose=0)
    pool = model.routed_modules[0].pool
    monkeypatch.setattr(
        pool, "call", lambda x, *args, call=pool.call, **kw: batches.append(len(x)) or call(x, *args, **kw)
    )
    for seen, route in zip(RouteProbe(IMAGES).routes(model).modules, expected, strict=True):
        np.testing.assert_allclose(seen["scores"], route["scores"], atol=1e-5)
    assert batches == [20, 20, 12, 12]  # two iterations


def test_names_of_classes_may_be_an_array(tmp_path):
    names = np.array(["zero", "one", "two", "three"])
    assert RouteMonitor("unused", IMAGES, LABELS, names).class_names is names
    write_projector(tmp_path, np.eye(4), np.arange(4), names)
    assert [row.split("\t")[0] for row in (tmp_path / "labels.tsv").read_text().splitlines()[1:]] == [*names]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RouteProbe(IMAGES[:0]), "must hold an image"),
        (lambda: RouteProbe(IMAGES, LABELS[:3]), "32 images, 3 labels"),
        (lambda: RouteProbe(IMAGES, np.eye(4)[LABELS]), "`labels` must be classes as integers"),
        (lambda: RouteMonitor("unused", IMAGES, LABELS[:3]), "`labels` must be as many as the images, 32. Received: 3"),
        (lambda: RouteMonitor("unused", IMAGES, LABELS, ["a", "b"]), "from 0 to 3. Received: 2 names"),
        (lambda: RouteMonitor("unused", IMAGES, thumbnails=THUMBNAILS[:5]), "as many as the images, 32. Received: 5"),
        (lambda: RouteMonitor("unused", IMAGES, thumbnails=THUMBNAILS[..., 0]), r"uint8 of shape \(32, 8, 8\)"),
        (lambda: RouteMonitor("unused", IMAGES, thumbnails=THUMBNAILS / 255), "Received: float64 of shape"),
        (lambda: RouteMonitor("unused", IMAGES, hparams={1: 2}), r"strings as keys. Received: hparams=\{1: 2\}"),
        (lambda: RouteMonitor("unused", IMAGES, hparams="rate"), r"must be a dict .* Received: hparams='rate'"),
        (lambda: write_hparams("unused", {1: 2}, {}), r"strings as keys. Received: hparams=\{1: 2\}"),
    ],
)
def test_arguments_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()
    assert not pathlib.Path("unused").exists()


def test_a_model_without_routes_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4)], name="plain")
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"must be a RoutedModel, .* Received: a Sequential, 'plain'"):
        model.fit(np.zeros((4, 8, 8, 1)), np.zeros((4, 4)), callbacks=[RouteMonitor(tmp_path, np.zeros((2, 8, 8, 1)))])


def test_its_history_is_gone_on_with(tmp_path):
    records = {"steps": np.array([0, 2]), "module_0": np.ones((2, 1, 3), np.float32)}
    monitor = RouteMonitor(tmp_path, IMAGES)
    monitor.restore(records)
    assert monitor.state().keys() == records.keys()
    for name, array in monitor.state().items():
        np.testing.assert_array_equal(array, records[name])
