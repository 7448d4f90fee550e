"""The hyperparameter search: alone, killed and gone on with, shared by processes."""

import csv
import dataclasses
import json
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import time

import config
import from_scratch
import keras
import keras_tuner
import numpy as np
import oracles
import pytest
import search_space
import tune
from sklearn.model_selection import train_test_split
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray

import reset_keras as rk

ROOT = pathlib.Path(__file__).parents[1]
TINY = ["--units", "1", "--batch-size", "512", "--train-steps", "6", "--compute-limit", "0.9"]
"""Three epochs of two batches."""


def settings(workdir, *flags):
    return config.parse(tune.TuneConfig, "", ["--workdir", str(workdir), *TINY, *flags])


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

    from hypermodel import ReSetHyperModel

    search = settings(tmp_path)
    hypermodel = ReSetHyperModel(search, tune.with_validation(tune.load(search)))
    hp = keras_tuner.HyperParameters()
    hp.values = {name: value for name, value in values[best].items() if not name.startswith("tuner/")}
    whole = hypermodel.fit(hp, hypermodel.build(hp), tmp_path, None, tmp_path / "logs")
    assert whole == {name: trials[prolonged][name] for name in whole}


def test_a_failed_trial_is_listed_and_does_not_end_the_search(tmp_path, monkeypatch, capsys):
    from hypermodel import ReSetHyperModel

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
    from hypermodel import ReSetHyperModel

    def fit(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ReSetHyperModel, "fit", fit)
    with pytest.raises(OSError, match="No space left"):
        tune.main(settings(tmp_path, "--trials", "2"))
    assert not results(tmp_path)


def test_every_point_of_the_space_is_a_command_line():
    search = settings("folder", "--seed", "3", "--epochs-scale", "0.5")
    oracle = oracles.make_oracle(dataclasses.replace(search, tuner="random"), 3)
    hp = oracle.get_space()
    search_space.declare(hp, search.scorers)
    oracle.update_space(hp)
    defaults = config.parse(from_scratch.FromScratchConfig, "", [])
    for _ in range(100):
        hp = oracle.get_space()
        hp.values = oracle._random_values()
        values = search_space.declare(hp, search.scorers)
        noisy = values["scorer"] != "softmax"
        assert ("temperature" in values) == ("final_temperature" in values) == noisy
        assert ("skip_reward" in values) == (values["scorer"] == "gumbel_st")
        assert values["controller_size"] in search_space.SIZES[values["controller"]]
        least, most = search_space.RATES[values["optimizer"]]
        assert least <= values["rate"] <= most
        full = search_space.scratch_config(search, values)
        assert (full.seed, full.epochs_scale, full.train_steps) == (3, 0.5, defaults.train_steps)
        flags = shlex.split(search_space.command(full))[2:]
        assert config.parse(from_scratch.FromScratchConfig, "", flags) == full


@pytest.mark.parametrize("tuner", ["random", "hyperband", "bayesian"])
def test_an_oracle_killed_between_its_files_goes_on(tmp_path, tuner):
    def new_oracle(name):
        oracle = oracles.make_oracle(settings(tmp_path, "--tuner", tuner, "--trials", "6"), 9)
        oracle._set_project_dir(str(tmp_path), name)
        hp = oracle.get_space()
        search_space.declare(hp, tune.SCORERS)
        oracle.update_space(hp)
        return oracle

    def end(oracle, trial, score):
        oracle.update_trial(trial.trial_id, {"objective": score})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)

    def next_values(oracle):
        return oracle.create_trial("tuner0").hyperparameters.values

    undisturbed = new_oracle("undisturbed")
    for score in (0.5, 0.75, 0.6, 0.7):
        end(undisturbed, undisturbed.create_trial("tuner0"), score)

    oracle = new_oracle("killed")
    for score in (0.5, 0.75, 0.6):
        end(oracle, oracle.create_trial("tuner0"), score)
    last = oracle.create_trial("tuner0")
    oracle.update_trial(last.trial_id, {"objective": 0.25})  # its result is known, its end not yet
    unrecorded = {**last.get_state(), "trial_id": "4"}  # and one has begun that the oracle's own file does not have
    (tmp_path / "killed" / "trial_4").mkdir()
    (tmp_path / "killed" / "trial_4" / "trial.json").write_text(json.dumps(unrecorded))

    again = new_oracle("killed")
    again.reload()
    assert set(again.trials) == {"0", "1", "2", "3"}
    repeated = again.create_trial("tuner0")
    assert (repeated.trial_id, repeated.hyperparameters.values) == ("3", last.hyperparameters.values)
    end(again, repeated, 0.7)
    assert again.trials["3"].score == 0.7
    ended = new_oracle("undisturbed")
    ended.reload()  # from a file that still has the last trial as running
    assert next_values(again) == next_values(undisturbed) == next_values(ended)


def test_sized_controllers_are_else_the_usual_ones():
    digits = rk.data.load_digits()
    for kind, attribute in (("rnn", "hidden_size"), ("cnn", "filters")):
        flags = ["--units", "1", "2", "--controller", kind]
        usual, small = (
            from_scratch.stages(config.parse(from_scratch.FromScratchConfig, "", flags + more), digits)[0].prepare(None)
            for more in ([], ["--controller-size", "4"])
        )
        for ours, theirs in zip(small.routed_modules, usual.routed_modules, strict=True):
            expected = {**theirs.controller.get_config(), attribute: 4}
            assert ours.controller.get_config() == expected


def test_a_skip_reward_is_given_only_where_there_is_one():
    digits = rk.data.load_digits()
    for flags, reward in ([], None), (["--skip-reward", "0.05"], 0.05):
        (stage,) = from_scratch.stages(config.parse(from_scratch.FromScratchConfig, "", flags), digits)
        options = stage.training.compile_options()
        assert (options["skip_reward"].reward if "skip_reward" in options else None) == reward


def error_of(capsys, *flags, workdir="unused"):
    with pytest.raises(SystemExit) as stopped:
        tune.main(settings(workdir, *flags))
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tuner", "grid"], "invalid choice: 'grid'"),
        (["--trials", "0"], "--trials: must be at least 1, received 0"),
        (["--scorers", "hard"], "invalid choice: 'hard'"),
        (["--strategy", "multihost"], "invalid choice: 'multihost'"),
        (["--distributed", "worker0"], "--distributed worker0 needs --chief-address HOST:PORT"),
        (["--distributed", "worker0", "--chief-address", "localhost"], "received 'localhost'"),
        (["--distributed", "boss", "--chief-address", "localhost:1"], "expected chief or worker0, worker1, ..."),
        (["--chief-address", "localhost:1"], "it needs --distributed"),
    ],
)
def test_mistakes_in_flags(capsys, flags, message):
    assert message in error_of(capsys, *flags)


def test_a_taken_address_is_refused(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = error_of(capsys, "--distributed", "chief", "--chief-address", address)
    assert f"--chief-address {address}" in line


def test_a_search_that_is_running_is_left_alone(capsys, tmp_path):
    hold = "import sys; from reset_keras.training import WorkDirectory; w = WorkDirectory(sys.argv[1], {}); w.hold()"
    command = [sys.executable, "-c", f"{hold}; print('held', flush=True); sys.stdin.read()", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert f"another process is running in the work directory {tmp_path}" in error_of(capsys, workdir=tmp_path)
        other.communicate("")


def test_it_needs_tensorflow(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    assert "KERAS_BACKEND=jax: unset it" in error_of(capsys, workdir=tmp_path / "run")


def test_another_search_in_the_same_work_directory_is_refused(capsys, undisturbed):
    line = error_of(capsys, "--trials", "4", workdir=undisturbed)
    assert "trials was 3, is 4" in line


def test_help_does_not_load_tensorflow():
    code = """
import atexit, sys
heavy = {"tensorflow", "keras", "numpy", "keras_tuner", "reset_keras"}
atexit.register(lambda: print("loaded", sorted(heavy & set(sys.modules))))
import tune
tune.parse(tune.TuneConfig, tune.__doc__, ["--help"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "recipes"
    )
    assert done.stdout.strip().endswith("loaded []")
