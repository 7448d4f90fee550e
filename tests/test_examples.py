"""The examples, run as their users run them: started in a folder of their own, but shorter."""

import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import reset_keras as rk

ROOT = pathlib.Path(__file__).parents[1]
FLAGS = {
    "cnn": ["--epochs", "4", "--log-dir", "tensorboard"],
    "text_classifier": ["--epochs", "2", "--texts", "600"],
}
EXAMPLES = {path.stem: path for path in (ROOT / "examples").glob("*.py")}
COUNTS = {"cnn": "--epochs", "text_classifier": "--epochs", "serve": "--measure"}
"""A flag of each example that must be above 0."""


def test_every_example_is_here():
    assert set(EXAMPLES) == set(COUNTS) == {*FLAGS, "serve"}  # which tests/test_serve_example.py runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """For each example its folder and what it printed; they run side by side."""
    folders = {name: tmp_path_factory.mktemp(name) for name in FLAGS}
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    processes = {}
    for name, folder in folders.items():
        command = [sys.executable, str(EXAMPLES[name]), *FLAGS[name]]
        with (folder / "output.txt").open("w") as output:
            processes[name] = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
    codes = {name: process.wait() for name, process in processes.items()}
    outputs = {name: (folder / "output.txt").read_text() for name, folder in folders.items()}
    assert set(codes.values()) == {0}, "\n".join(outputs.values())
    return folders, outputs


def percentage(output, what):
    return float(re.search(rf"^{what}: ([\d.]+)%$", output, flags=re.MULTILINE)[1]) / 100


def table_rows(output):
    """The rows of the table of routes, as shares of one."""
    rows = [re.findall(r"(\d+)%", line) for line in output.splitlines() if line.count("%") > 1]
    return np.array(rows, float) / 100


def has_trained_to_the_end_of_its_schedule(model):
    schedule = keras.saving.deserialize_keras_object(model.optimizer.get_config()["learning_rate"])
    return int(model.optimizer.iterations) == schedule.decay_steps


@pytest.mark.programs
@pytest.mark.slow
def test_the_cnn(runs):
    folders, outputs = runs
    output = outputs["cnn"]
    digits = rk.data.load_digits()
    loaded = keras.models.load_model(folders["cnn"] / "runs/cnn/model.keras")
    assert has_trained_to_the_end_of_its_schedule(loaded)
    logits, (routes,) = loaded.predict_with_routes(digits.normalize(digits.test.images), verbose=0)
    accuracy = np.mean(logits.argmax(axis=1) == digits.test.labels)
    assert accuracy > 0.5  # the largest class is a tenth
    assert percentage(output, "Test accuracy") == pytest.approx(accuracy, abs=5e-4)
    assert percentage(output, "Iterations that run no unit") == pytest.approx(routes["scores"][..., 3].mean(), abs=5e-4)
    rows = table_rows(output)
    choices = routes["scores"].argmax(axis=-1)
    shares = [[np.mean(choices[digits.test.labels == label] == unit) for unit in range(4)] for label in range(10)]
    np.testing.assert_allclose(rows, shares, atol=0.0051)


@pytest.mark.programs
@pytest.mark.slow
def test_the_cnn_in_tensorboard(runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = runs[0]["cnn"] / "tensorboard"
    events = EventAccumulator(str(folder / "routes"), size_guidance={"tensors": 0})
    events.Reload()
    assert len(events.Tensors("skipped_iterations")) == 4
    assert len((folder / "routes" / "routes.tsv").read_text().splitlines()) == 360
    assert (folder / "routes" / "thumbnails.png").is_file()


@pytest.fixture
def text_classifier(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import text_classifier

    return text_classifier


@pytest.mark.programs
@pytest.mark.slow
def test_the_text_classifier(runs, text_classifier):
    folders, outputs = runs
    output = outputs["text_classifier"]
    folder = folders["text_classifier"] / "runs/text_classifier"
    train, train_labels, test, labels = text_classifier.read_corpus(600)
    assert np.bincount(train_labels).tolist() == [600] * 4
    assert not set(train) & set(test)
    assert not {"numpy", "scipy", "sklearn", "matplotlib"} & set(" ".join(train + test).split())
    vectorization = keras.layers.TextVectorization(
        vocabulary=str(folder / "vocabulary.txt"), output_sequence_length=text_classifier.WORDS
    )
    loaded = keras.models.load_model(folder / "model.keras")
    assert has_trained_to_the_end_of_its_schedule(loaded)
    logits, (routes,) = loaded.predict_with_routes(np.array(vectorization(test)), verbose=0)
    accuracy = np.mean(logits.argmax(axis=1) == labels)
    largest = np.bincount(labels).max() / len(labels)
    assert accuracy > largest + 0.2
    assert percentage(output, "Test accuracy") == pytest.approx(accuracy, abs=5e-4)
    assert percentage(output, "Largest class") == pytest.approx(largest, abs=5e-4)
    assert percentage(output, "Bag of words") > largest + 0.2
    shares = np.concatenate([routes["scores"][labels == label].mean(axis=0) for label in range(4)])
    np.testing.assert_allclose(table_rows(output), shares, atol=0.0051)


@pytest.mark.parametrize("kind", ["dense", "attention"])
def test_blocks_leave_padding_alone(text_classifier, kind):
    block = text_classifier.dense_block("block") if kind == "dense" else text_classifier.AttentionBlock(2)
    words = np.random.default_rng(0).normal(size=(3, 5, text_classifier.CHANNELS)).astype("float32")
    padded = np.pad(words, [(0, 0), (0, 4), (0, 0)])
    outputs = np.array(block(padded))
    np.testing.assert_array_equal(outputs[:, 5:], 0)
    np.testing.assert_allclose(outputs[:, :5], np.array(block(words)), atol=1e-5)
    assert np.abs(outputs[:, :5]).max() > 0.1


@pytest.mark.parametrize(("name", "flag"), COUNTS.items())
def test_help_and_mistakes_are_answered_at_once(name, flag):
    command = [sys.executable, "-X", "importtime", str(EXAMPLES[name])]
    told = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert flag in told.stdout
    assert "tensorflow" not in told.stderr
    mistaken = subprocess.run(
        [sys.executable, str(EXAMPLES[name]), flag, "0"], capture_output=True, text=True, check=False
    )
    assert mistaken.returncode == 2
    (line,) = mistaken.stderr.splitlines()
    assert f"{flag} must be " in line
