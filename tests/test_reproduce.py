import csv
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import systems
from experiment import config
from experiment.systems import SYSTEMS
from finished_runs import arguments, finished_run
from paper_tables import execution, paper, queue
from paper_tables.deadline import Deadline
from paper_tables.run import Run
from paper_tables.settings import ReproduceConfig
from reproduce import main

ROOT = pathlib.Path(__file__).parents[1]


def start(folder, *flags):
    command = [sys.executable, str(ROOT / "recipes" / "reproduce.py"), *arguments(folder, *flags)]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def reproduce(folder, *flags, timeout=500):
    process = start(folder, *flags)
    output, errors = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@pytest.mark.programs
@pytest.mark.slow
def test_rows_share_networks_resume_and_make_a_table(tmp_path):
    (number,) = (row.number for row in paper.rows_of("systems") if row.experiment == "systems_unrolled")
    command = ("--table", "systems", "--rows", str(number), "--scale", "0.02")
    first = reproduce(tmp_path, *command, "--time-limit", "1")
    assert first.returncode == 0, first.stderr
    assert "0 of 2 runs are done" in first.stdout

    done = reproduce(tmp_path, *command)
    assert done.returncode == 0, done.stdout
    assert "2 of 2 runs are done" in done.stdout
    with (tmp_path / "results" / "systems_digits.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["scale"], row["seed"]) for row in rows] == [("1", "0.02", "0"), (str(number), "0.02", "0")]
    assert "--pretrained quick-scale0.02/resnet38-seed0/stages/00-resnet/model.keras" in rows[1]["command"]

    (resnet,) = tmp_path.glob("runs/*/resnet38-seed0/stages/00-resnet")
    (reset,) = tmp_path.glob("runs/*/systems_unrolled-seed0/stages/*-unrolled_*")
    ours, theirs = (np.load(folder / "predictions.npz") for folder in (reset, resnet))
    labels = ours["test_labels"]
    assert float(rows[1]["accuracy"]) == pytest.approx(100 * np.mean(ours["test"] == labels), abs=0.01)
    better = sum(a == label != b for a, b, label in zip(ours["test"], theirs["test"], labels, strict=True))
    assert int(rows[1]["better"]) == better
    assert f"| {number} | {rows[1]['model']} | - | {rows[1]['accuracy']} |" in (tmp_path / "README.md").read_text()

    kept = {path.parent for path in tmp_path.glob("runs/*/systems_unrolled-seed0/stages/*/model.keras")}
    assert kept == {reset}

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/**/result.json")}
    assert reproduce(tmp_path, *command).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/**/result.json")} == before


def is_held(workdir):
    with (workdir / ".lock").open("a") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.faults
@pytest.mark.slow
def test_what_is_terminated_in_a_training_takes_it_along_and_goes_on(tmp_path):
    row = ("--table", "2", "--rows", "1", "--scale", "0.5")
    workdir = tmp_path / "runs" / "quick-scale0.5" / "resnet38-seed0"
    process = start(tmp_path, *row)
    while not list(workdir.glob("stages/00-resnet/epoch-*.npz")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    assert is_held(workdir)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "0 of 1 runs are done" in output
    assert (tmp_path / "README.md").exists()
    assert not is_held(workdir)

    done = reproduce(tmp_path, *row)
    assert "1 of 1 runs are done" in done.stdout
    assert "Going on with resnet after epoch" in (workdir / "log.txt").read_text()


@pytest.fixture
def deadline_of():
    """`Deadline`, whose handlers of signals end with the test."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield Deadline
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.faults
def test_what_does_not_end_is_killed_in_time(tmp_path, deadline_of):
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)"
    deadline = deadline_of(8.0)
    command = [sys.executable, "-c", f"{code}; time.sleep(99)"]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "deaf\n"
        with deadline.ends(process, tmp_path / "pause"):
            assert process.wait(timeout=30) == -signal.SIGKILL
    assert time.monotonic() - began < 8.0
    assert deadline.reached
    assert deadline.exit_code == 0


@pytest.mark.faults
def test_what_is_run_stands_still_while_there_is_a_file(tmp_path, deadline_of):
    file = tmp_path / "pause"
    code = "import time\nfor _ in range(600):\n    print(_, flush=True)\n    time.sleep(0.01)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        state = pathlib.Path(f"/proc/{process.pid}/stat")

        def wait_for(*states):
            while state.read_text().rsplit(")", 1)[1].split()[0] not in states:
                assert process.poll() is None
                time.sleep(0.02)

        with deadline_of(None).ends(process, file):
            file.touch()
            wait_for("T")
            file.unlink()
            wait_for("S", "R")
            file.touch()
            wait_for("T")
        assert process.wait(timeout=30) == -signal.SIGTERM  # which it could not do while it stands still


@pytest.mark.faults
def test_what_stands_still_is_told_to_end(tmp_path, deadline_of):
    (tmp_path / "pause").touch()
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('here', flush=True)"
    deadline = deadline_of(6.0)
    with subprocess.Popen([sys.executable, "-c", f"{code}; time.sleep(99)"], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"here\n"
        with deadline.ends(process, tmp_path / "pause"):
            assert process.wait(timeout=30) == 7


def test_the_queue_has_every_row_once_and_each_after_what_it_starts_from():
    runs = queue.queued_runs(ReproduceConfig())
    assert len(set(runs)) == len(runs)
    assert {run.experiment for run in runs} == set(paper.experiments_of(paper.ROWS))
    for index, run in enumerate(runs):
        assert run.source is None or run.source in runs[:index]
    assert [run.experiment for run in runs[:4]] == ["resnet38", "softmax", "softmax_entropy", "gumbel_st"]
    first_system = next(index for index, run in enumerate(runs) if run.experiment.startswith("systems"))
    assert {run.experiment for run in runs[first_system:]} == {f"systems_{name}" for name in SYSTEMS}
    assert {run.seed for run in runs} == {0, 1, 2}


def test_what_is_done_goes_into_the_tables_and_nothing_is_run(tmp_path, capsys):
    finished_run(tmp_path / "runs/quick/resnet38-seed0", 0.9)
    main(config.parse(ReproduceConfig, "", arguments(tmp_path, "--queue", "--collect")))
    printed = capsys.readouterr().out
    assert "| 1 | ResNet38 (baseline) | 92.8 | 90.00 |" in (tmp_path / "README.md").read_text()
    assert "Left: quick/softmax-seed0" in printed
    assert "Not run: --collect." in printed
    for flags in (("--rows", "1", "--table", "2"), ("--seeds", "5")):
        assert "leave out --table, --rows and --seeds" in reproduce(tmp_path, "--queue", *flags).stderr


def test_unknown_rows_are_refused(tmp_path):
    done = reproduce(tmp_path, "--table", "2", "--rows", "21")
    assert done.returncode == 2
    assert done.stderr.strip().endswith("table 2 has the rows 1 to 20; received [21]")


def test_rows_of_no_single_table_are_refused(tmp_path):
    done = reproduce(tmp_path, "--rows", "1")
    assert done.returncode == 2
    assert "--rows are those of one table; received --table 1 2 3" in done.stderr


def test_every_row_of_the_paper_is_here():
    numbers = {table: [row.number for row in paper.rows_of(table)] for table in "123"}
    assert numbers == {"1": list(range(1, 7)), "2": list(range(1, 21)), "3": list(range(1, 6))}
    assert all(row.accuracy and row.accuracy_10_1 for row in paper.ROWS if row.table in numbers)


def test_experiments_come_after_those_that_they_start_from():
    names = paper.experiments_of(paper.rows_of("2", (18, 10)))
    assert set(names) == {"resnet38", "softmax", "top_1", "controller_only"}
    for name in names:
        pretrained = paper.EXPERIMENTS[name].pretrained
        assert pretrained is None or names.index(pretrained[0]) < names.index(name)


def new_run(folder, experiment):
    settings = config.parse(ReproduceConfig, "", ["--workdir", str(folder)])
    run = Run(settings, experiment, 0)
    run.workdir.mkdir(parents=True)
    return run


def test_a_run_without_the_network_that_it_starts_from_is_not_begun(tmp_path):
    source, run = new_run(tmp_path, "softmax"), new_run(tmp_path, "top_1")
    assert run.lacks == "quick/softmax-seed0 is not done"
    source.provenance.write_text("{}")
    assert run.lacks == "quick/softmax-seed0 lacks its train network"
    network = source.workdir / "stages" / "00-train" / "model.keras"
    network.parent.mkdir(parents=True)
    network.touch()
    assert run.lacks == source.lacks == ""
    assert run.flags[-1] == "quick/softmax-seed0/stages/00-train/model.keras"


def test_all_commits_that_a_run_was_carried_out_by_are_told(tmp_path, monkeypatch):
    run = new_run(tmp_path, "softmax")
    for commit in ("1234567", "1234567", "89abcde+"):
        monkeypatch.setattr(execution, "commit", lambda commit=commit: commit)
        execution.note_begin(run)
    execution.finish(run)
    assert json.loads(run.provenance.read_text())["commit"] == "1234567 89abcde+"


def test_without_git_the_environment_names_the_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "ROOT", tmp_path)
    monkeypatch.delenv("RESET_COMMIT", raising=False)
    assert execution.commit() == "unknown"
    monkeypatch.setenv("RESET_COMMIT", "1234567")
    assert execution.commit() == "1234567"


def test_every_system_has_a_row_for_each_strength_that_its_recipe_makes(tmp_path):
    rows = paper.rows_of("systems")
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    network = new_run(tmp_path, "resnet38").workdir / "stages" / "00-resnet" / "model.keras"
    network.parent.mkdir(parents=True)
    network.touch()
    made = []
    for name, system in SYSTEMS.items():
        flags = new_run(tmp_path, f"systems_{name}").flags
        settings = config.parse(systems.SystemsConfig, "", flags)
        assert (settings.system, settings.pretrained) == (name, "quick/resnet38-seed0/stages/00-resnet/model.keras")
        for strength in settings.strengths or (0.0,):
            *_, last = systems.at_strength(settings, system, strength, np.zeros(1))
            made.append((systems.settled(settings, strength, np.zeros(1)) if system.settled else last).name)
    assert [row.stage for row in rows[1:]] == made
