"""The hyperparameter search: alone, killed and gone on with, shared by processes."""

import csv
import json
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import time

import keras
import keras_tuner
import numpy as np
import pytest
from sklearn.model_selection import train_test_split
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray

import from_scratch
import reset_keras as rk
import tune
from experiment import config
from tiny_search import TINY, settings

pytestmark = pytest.mark.programs

ROOT = pathlib.Path(__file__).parents[1]


def start(workdir, *flags):
    command = [sys.executable, str(ROOT / "recipes" / "tune.py"), "--workdir", str(workdir), *TINY, *flags]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "COLUMNS": "160", "PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **streams, text=True, env=environment)


def ended(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


def wait_until(condition, *processes):
    while not condition():
        assert all(process.poll() is None for process in processes), processes[0].communicate()[1]
        time.sleep(0.02)


def results(workdir):
    rows = [json.loads(path.read_text()) for path in sorted(workdir.glob("trials/trial_*/result.json"))]
    return {row.pop("trial"): row for row in rows}


def hyperparameters(workdir, trial):
    """As KerasTuner has them."""
    return json.loads((workdir / "trials" / f"trial_{trial}" / "trial.json").read_text())["hyperparameters"]["values"]


def ranked(workdir):
    with (workdir / "ranking.csv").open() as file:
        return list(csv.DictReader(file))


def without_time(workdir):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in ranked(workdir)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A Bayesian search, the third trial of which is the Gaussian process's choice."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    tune.main(settings(workdir, "--trials", "3"))
    return workdir


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The same search from the command line, killed in its second trial and started again; and what it printed."""
    workdir = tmp_path_factory.mktemp("killed")
    process = start(workdir, "--trials", "3")
    wait_until((workdir / "trials" / "trial_1" / "epoch-0001.npz").exists, process)
    process.kill()
    process.communicate()
    finished = results(workdir)
    return workdir, finished, ended(start(workdir, "--trials", "3"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Hyperband by a chief and two workers: three trials of an epoch, the best one prolonged to three, two of three."""
    workdir = tmp_path_factory.mktemp("shared")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = ["--tuner", "hyperband", "--chief-address", address, "--distributed"]
    processes = {part: start(workdir, *flags, part) for part in ("chief", "worker0", "worker1")}
    oracle = workdir / "trials" / "oracle.json"

    def busy():
        return set(json.loads(oracle.read_text())["ongoing_trials"]) if oracle.exists() else set()

    wait_until(busy, *processes.values())
    first = min(busy())
    processes[first].send_signal(signal.SIGSTOP)  # until the other worker, however slow, has a trial too
    wait_until(lambda: busy() - {first}, *processes.values())
    processes[first].send_signal(signal.SIGCONT)
    return workdir, {part: ended(process) for part, process in processes.items()}


def test_the_ranking_follows_from_what_the_trials_measured(undisturbed):
    rows, trials = ranked(undisturbed), results(undisturbed)
    assert len(rows) == len(trials) == 3
    expected = {}
    for name, trial in trials.items():
        expected[name] = trial["accuracy"] - max(0, trial["compute_fraction"] - 0.9)
        oracle = json.loads((undisturbed / "trials" / f"trial_{name}" / "trial.json").read_text())
        assert oracle["score"] == pytest.approx(expected[name])
    assert [row["trial"] for row in rows] == sorted(expected, key=expected.get, reverse=True)
    assert [float(row["objective"]) for row in rows] == pytest.approx(sorted(expected.values(), reverse=True))
    assert min(expected[name] - trial["accuracy"] for name, trial in trials.items()) < 0


def test_the_best_network_is_the_best_trials(undisturbed):
    best, first = json.loads((undisturbed / "best.json").read_text()), ranked(undisturbed)[0]
    model = keras.models.load_model(undisturbed / "best.keras")
    digits = rk.data.load_digits()
    _, images, _, labels = train_test_split(
        digits.train.images, digits.train.labels, test_size=0.2, random_state=0, stratify=digits.train.labels
    )
    parts = {"validation": (images, labels), "test": (digits.test.images, digits.test.labels)}
    for name, (images, labels) in parts.items():
        outputs, routes = model.predict_with_routes((images - best["mean"]) / np.array(best["std"]), verbose=0)
        assert best["accuracy"][name] == pytest.approx(np.mean(outputs.argmax(-1) == labels))
        fraction = rk.inference.compute_fractions(model, routes).mean()
        assert best["compute_fraction"][name] == pytest.approx(fraction)
    assert best["trial"] == first["trial"]
    assert best["accuracy"]["validation"] == pytest.approx(float(first["accuracy"]))


def test_the_best_command_has_the_trials_settings(undisturbed):
    best = results(undisturbed)[json.loads((undisturbed / "best.json").read_text())["trial"]]
    program, recipe, *flags = shlex.split((undisturbed / "best_command.txt").read_text())
    assert (program, recipe) == ("python", "recipes/from_scratch.py")
    full = config.parse(from_scratch.FromScratchConfig, "", flags)
    assert (full.units, full.batch_size, full.train_steps) == ((1,), 512, 450)
    assert full.workdir == str(undisturbed / "best")
    assert {name: getattr(full, name) for name in best["hyperparameters"]} == best["hyperparameters"]


def test_tensorboard_compares_the_trials(undisturbed):
    trials = results(undisturbed)
    columns = set()
    for name, trial in trials.items():
        log_dir = undisturbed / "tensorboard" / f"trial-{name}"
        accumulator = EventAccumulator(str(log_dir)).Reload()
        contents = accumulator.PluginTagToContent("hparams")
        data = {tag: plugin_data_pb2.HParamsPluginData.FromString(content) for tag, content in contents.items()}
        hparams = data["_hparams_/session_start_info"].session_start_info.hparams
        shown = {key: getattr(value, value.WhichOneof("kind")) for key, value in hparams.items()}
        assert {key: shown[key] for key in trial["hyperparameters"]} == trial["hyperparameters"]
        columns.add(tuple(sorted(shown)))
        for metric in ("objective", "accuracy", "compute_fraction"):
            (event,) = accumulator.Tensors(f"result/{metric}")
            assert float(make_ndarray(event.tensor_proto)) == pytest.approx(trial[metric])
        assert len(list((log_dir / "train").glob("events*"))) == 1
    assert len(columns) == 1  # or TensorBoard hides those that its first run lacks


@pytest.mark.faults
@pytest.mark.slow
def test_after_a_kill_the_search_is_as_if_undisturbed(undisturbed, killed):
    workdir, finished, output = killed
    assert "0" in finished
    assert len(finished) < 3
    after = results(workdir)
    assert {name: after[name] for name in finished} == finished
    assert without_time(workdir) == without_time(undisturbed)
    oracle = json.loads((workdir / "trials" / "oracle.json").read_text())
    assert (oracle["start_order"], oracle["end_order"]) == (["0", "1", "2"], ["0", "1", "2"])
    assert output.count("--- trial") == 3 - len(finished)


@pytest.mark.faults
@pytest.mark.slow
def test_the_command_prints_the_ranking_and_how_to_go_on(killed):
    workdir, _, output = killed
    table = [line.split("│")[2].strip() for line in output.splitlines() if line.startswith("│    ")]
    assert [name for name in table if name] == [row["trial"] for row in ranked(workdir)]
    assert (workdir / "best_command.txt").read_text().strip() in output


@pytest.mark.faults
@pytest.mark.slow
def test_workers_share_a_search(shared):
    workdir, outputs = shared
    trials = results(workdir)
    assert sorted(trial["steps"] for trial in trials.values()) == [2, 2, 2, 6, 6, 6]
    assert {trial["worker"] for trial in trials.values()} == {"worker0", "worker1"}
    assert [row["rank"] for row in ranked(workdir)] == ["1", "2", "3", "4", "5", "6"]
    assert (workdir / "best_command.txt").read_text().strip() in outputs["chief"]
    for part in ("worker0", "worker1"):
        own = [name for name, trial in trials.items() if trial["worker"] == part]
        assert [line.split()[2].strip(",") for line in outputs[part].splitlines() if line.startswith("---")] == own
        assert len(outputs[part].splitlines()) == 2 * len(own) + 1


@pytest.mark.faults
@pytest.mark.slow
def test_a_trial_that_hyperband_prolongs_is_as_if_never_cut(shared, tmp_path):
    trials = results(shared[0])
    values = {name: hyperparameters(shared[0], name) for name in trials}
    ((prolonged, best),) = [(name, own["tuner/trial_id"]) for name, own in values.items() if "tuner/trial_id" in own]
    short = {name: trial["objective"] for name, trial in trials.items() if trial["steps"] == 2}
    assert best == max(short, key=short.get)
    assert trials[prolonged]["hyperparameters"] == trials[best]["hyperparameters"]

    from tuning.hypermodel import ReSetHyperModel

    search = settings(tmp_path)
    hypermodel = ReSetHyperModel(search, tune.load(search))
    hp = keras_tuner.HyperParameters()
    hp.values = {name: value for name, value in values[best].items() if not name.startswith("tuner/")}
    whole = hypermodel.fit(hp, hypermodel.build(hp), tmp_path, None, tmp_path / "logs")
    assert whole == {name: trials[prolonged][name] for name in whole}


def test_a_failed_trial_is_listed_and_does_not_end_the_search(tmp_path, monkeypatch, capsys):
    from tuning.hypermodel import ReSetHyperModel

    fits = []

    def fit(self, hp, model, folder, *_):
        fits.append(hp)
        if len(fits) != 4:
            raise FloatingPointError("the loss became nan")
        np.savez(folder / "epoch-0001.npz", stopped=False, **as_checkpoint(model))
        return {"objective": 0.5, "accuracy": 0.5, "compute_fraction": 0.8}

    monkeypatch.setattr(ReSetHyperModel, "fit", fit)
    tune.main(settings(tmp_path, "--trials", "4", "--tuner", "random"))
    rows = ranked(tmp_path)
    assert [(row["rank"], row["trial"]) for row in rows] == [("1", "3"), ("", "0"), ("", "1"), ("", "2")]
    assert rows[1]["failure"] == "the loss became nan"
    assert "failed: the loss became nan" in capsys.readouterr().out


def as_checkpoint(model):
    variables = [*model.variables, *model.optimizer.variables]
    return {f"variable_{index}": keras.ops.convert_to_numpy(value) for index, value in enumerate(variables)}


def test_other_errors_end_the_search(tmp_path, monkeypatch):
    from tuning.hypermodel import ReSetHyperModel

    def fit(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ReSetHyperModel, "fit", fit)
    with pytest.raises(OSError, match="No space left"):
        tune.main(settings(tmp_path, "--trials", "2"))
    assert not results(tmp_path)


def test_another_search_in_the_same_work_directory_is_refused(capsys, undisturbed):
    with pytest.raises(SystemExit) as stopped:
        tune.main(settings(undisturbed, "--trials", "4"))
    assert stopped.value.code == 2
    assert "trials was 3, is 4" in capsys.readouterr().err
