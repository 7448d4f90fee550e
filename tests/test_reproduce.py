import csv
import fcntl
import itertools
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
from paper_tables import execution, paper, queue, readme, results_table, systems_figure
from paper_tables.deadline import Deadline
from paper_tables.run import Run
from paper_tables.settings import ReproduceConfig
from reproduce import main

ROOT = pathlib.Path(__file__).parents[1]


def arguments(folder, *flags):
    places = ["--workdir", str(folder / "runs"), "--results", str(folder / "results")]
    return [*places, "--readme", str(folder / "README.md"), *flags]


def start(folder, *flags):
    command = [sys.executable, str(ROOT / "recipes" / "reproduce.py"), *arguments(folder, *flags)]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def reproduce(folder, *flags, timeout=500):
    process = start(folder, *flags)
    output, errors = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def lines(folder, table):
    with (folder / "results" / f"table{table}_digits.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.programs
def test_rows_share_networks_resume_and_make_a_table(tmp_path):
    first = reproduce(tmp_path, "--table", "2", "--rows", "12", "--scale", "0.02", "--time-limit", "1")
    assert first.returncode == 0, first.stderr
    assert "0 of 2 runs are done" in first.stdout

    done = reproduce(tmp_path, "--table", "2", "--rows", "12", "--scale", "0.02")
    assert done.returncode == 0, done.stdout
    assert "2 of 2 runs are done" in done.stdout
    rows = lines(tmp_path, 2)
    assert [(row["row"], row["scale"], row["seed"]) for row in rows] == [("1", "0.02", "0"), ("12", "0.02", "0")]
    assert "--pretrained quick-scale0.02/resnet38-seed0/stages/00-resnet/model.keras" in rows[1]["command"]

    (resnet,) = tmp_path.glob("runs/*/resnet38-seed0/stages/00-resnet")
    (reset,) = tmp_path.glob("runs/*/batch_replication-seed0/stages/*-single")
    ours, theirs = (np.load(folder / "predictions.npz") for folder in (reset, resnet))
    labels = ours["test_labels"]
    assert float(rows[1]["accuracy"]) == pytest.approx(100 * np.mean(ours["test"] == labels), abs=0.01)
    better = sum(a == label != b for a, b, label in zip(ours["test"], theirs["test"], labels, strict=True))
    assert int(rows[1]["better"]) == better
    assert f"| 12 | GST pretr. GSM | {rows[1]['accuracy']} |" in (tmp_path / "README.md").read_text()

    kept = {path.parent.name for path in tmp_path.glob("runs/*/batch_replication-seed0/stages/*/model.keras")}
    assert kept == {"02-single", "03-replicated"}

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/**/result.json")}
    assert reproduce(tmp_path, "--table", "2", "--rows", "12", "--scale", "0.02").returncode == 0
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
    assert set(names) == {"resnet38", "softmax", "top_k", "controller_only"}
    for name in names:
        pretrained = paper.EXPERIMENTS[name].pretrained
        assert pretrained is None or names.index(pretrained[0]) < names.index(name)


def test_mcnemar_by_hand():
    labels = np.zeros(20, int)
    ours, theirs = labels.copy(), labels.copy()
    ours[:1] = 1  # one image that only the other gets right
    theirs[1:10] = 1  # nine that only ours gets right
    better, worse, p_value = results_table.mcnemar(ours, theirs, labels)
    assert (better, worse) == (9, 1)
    assert p_value == pytest.approx(2 * (1 + 10) / 2**10)
    assert results_table.mcnemar(ours, ours, labels) == (0, 0, 1.0)


def finished_run(folder, accuracy, stage="resnet"):
    stages = folder / "stages" / f"00-{stage}"
    stages.mkdir(parents=True)
    result = {"stage": stage, "start": None, "accuracy": {"test": accuracy, "cifar10_1_v6": accuracy - 0.09}}
    result |= {"device": "abacus", "seconds": 12.4, "compute_fraction": 1.0, "relative_time": 1.01}
    (stages / "result.json").write_text(json.dumps(result))
    (folder / "config.json").write_text(json.dumps({"dataset": "cifar10"}))
    (folder / "provenance.json").write_text(json.dumps({"command": "c", "commit": "1234567", "date": "2026-01-02"}))
    return folder


def test_seeds_are_averaged_and_other_results_kept(tmp_path):
    (row,) = paper.rows_of("2", (1,))
    for seed, accuracy in enumerate((0.92, 0.93)):
        workdir = finished_run(tmp_path / f"run{seed}", accuracy)
        line = results_table.collect(row, seed, "paper", 1.0, {"resnet38": workdir})
        results_table.merge(tmp_path / "results", [line])
    again = results_table.collect(row, 1, "paper", 1.0, {"resnet38": finished_run(tmp_path / "again", 0.94)})
    results_table.merge(tmp_path / "results", [again])
    readme.write_readme(tmp_path / "results", tmp_path / "README.md")
    assert (
        "| 1 | ResNet38 (baseline) | 92.8 | 93.00 ± 1.41 | 83.8 | - | 84.00 ± 1.41 | 9.00 ± 0.00 |"
        in (tmp_path / "README.md").read_text()
    )


def test_the_command_of_every_seed_stands_with_its_own_hardware_and_date(tmp_path):
    (row,) = paper.rows_of("2", (1,))
    for seed, (command, date) in enumerate({"first": "2026-01-02", "second": "2026-03-04"}.items()):
        workdir = finished_run(tmp_path / command, 0.9)
        (workdir / "provenance.json").write_text(json.dumps({"command": command, "commit": "1234567", "date": date}))
        line = results_table.collect(row, seed, "paper", 1.0, {"resnet38": workdir})
        results_table.merge(tmp_path / "results", [line | {"hardware": f"the {command} machine"}])
    readme.write_readme(tmp_path / "results", tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    assert "the first machine:\n\n- row 1: `first`, at 1234567, 2026-01-02\n" in text
    assert "the second machine:\n\n- row 1: `second`, at 1234567, 2026-03-04\n" in text


def test_runs_from_a_given_resnet_are_kept_apart_and_labelled(tmp_path):
    (row,) = (row for row in paper.rows_of("2", (8,)) if row.number == 8)
    runs = {"": 0.91, "mine.keras": 0.90}
    for given, accuracy in runs.items():
        workdir = finished_run(tmp_path / f"run{given}", accuracy, "rnn_softmax")
        for stage in ("00-rnn_softmax", "01-pretrain"):
            (workdir / "stages" / stage).mkdir(exist_ok=True)
            np.savez(workdir / "stages" / stage / "predictions.npz", test=np.zeros(9), test_labels=np.zeros(9))
        provenance = json.loads((workdir / "provenance.json").read_text())
        (workdir / "provenance.json").write_text(json.dumps({**provenance, "resnet": given}))
        line = results_table.collect(row, 0, "paper", 1.0, {"controller_only": workdir})
        results_table.merge(tmp_path / "results", [line])
    readme.write_readme(tmp_path / "results", tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    assert "| 8 | SM pretr., Contr. | 91.8 | 91.00 |" in text
    assert "| 8 | SM pretr., Contr., from `mine.keras` | 91.8 | 90.00 |" in text
    assert "- of table 2 with `--preset fast`: 1 to 20\n- of table 2 with `--preset paper`: 1 to 7, 9 to 20\n" in text
    assert "- of table 3 with `--preset paper`: 1 to 5\n" in text


def test_a_shorter_preset_is_labelled_and_is_not_the_papers_length(tmp_path):
    (row,) = paper.rows_of("2", (1,))
    workdir = finished_run(tmp_path / "run", 0.91)
    line = results_table.collect(row, 0, "fast", 1.0, {"resnet38": workdir})
    results_table.merge(tmp_path / "results", [line])
    readme.write_readme(tmp_path / "results", tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    assert "| fast | 1 | 1 |\n" in text
    assert "- of table 2 with `--preset fast`: 2 to 20\n- of table 2 with `--preset paper`: 1 to 20\n" in text


def test_columns_of_cifar10_1_are_there_where_it_was(tmp_path):
    (row,) = paper.rows_of("2", (1,))
    for name in ("with", "without"):
        workdir = finished_run(tmp_path / name, 0.91)
        if name == "without":
            path = workdir / "stages" / "00-resnet" / "result.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "accuracy": {"test": 0.91}}))
        line = results_table.collect(row, 0, "paper", 1.0, {"resnet38": workdir})
        results_table.merge(tmp_path / f"results-{name}", [line])
        readme.write_readme(tmp_path / f"results-{name}", tmp_path / "README.md")
        lines = (tmp_path / "README.md").read_text().splitlines()
        first = next(index for index, text in enumerate(lines) if text.startswith("| Row | Model | Paper C10"))
        assert len({text.count("|") for text in lines[first : first + 3]}) == 1
        assert ("Paper C10.1" in lines[first]) == (name == "with")


@pytest.mark.parametrize(
    ("preset", "scale", "expected"), [("fast", 1.0, []), ("fast", 0.5, ["0.061"]), ("paper", 0.5, ["0.5"])]
)
def test_a_scale_is_a_factor_on_the_length_that_the_preset_has(preset, scale, expected):
    settings = ReproduceConfig(preset=preset, scale=scale, workdir="runs")
    flags = Run(settings, "resnet38", 0).flags
    assert [after for flag, after in itertools.pairwise(flags) if flag == "--epochs-scale"] == expected


def test_the_readme_is_what_the_results_say(tmp_path):
    readme.write_readme(ROOT / "results", tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == (ROOT / "recipes" / "README.md").read_text()


def new_run(folder, experiment):
    settings = config.parse(ReproduceConfig, "", ["--workdir", str(folder)])
    run = Run(settings, experiment, 0)
    run.workdir.mkdir(parents=True)
    return run


def test_a_run_without_the_network_that_it_starts_from_is_not_begun(tmp_path):
    source, run = new_run(tmp_path, "softmax"), new_run(tmp_path, "top_k")
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
        execution.note_commit(run)
    execution.finish(run)
    assert json.loads(run.provenance.read_text())["commit"] == "1234567 89abcde+"


def test_without_git_the_environment_names_the_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "ROOT", tmp_path)
    monkeypatch.delenv("RESET_COMMIT", raising=False)
    assert execution.commit() == "unknown"
    monkeypatch.setenv("RESET_COMMIT", "1234567")
    assert execution.commit() == "1234567"


def system_run(workdir, stages, resnet_right=6, **provenance):
    """A finished run of a system: of ten test images the ResNet has the first right, and each stage some others too."""
    labels = np.zeros(10, int)
    for index, (stage, right, compute) in enumerate([("pretrain", range(resnet_right), 1.0), *stages]):
        folder = workdir / "stages" / f"{index:02d}-{stage}"
        folder.mkdir(parents=True)
        result = {"stage": stage, "start": "pretrain" if index else None, "accuracy": {"test": len(right) / 10}}
        result |= {"device": "abacus", "seconds": 10.0, "compute_fraction": compute, "relative_time": 0.9}
        (folder / "result.json").write_text(json.dumps(result | {"parameters": 12_345, "relative_time_of_one": 1.23}))
        np.savez(folder / "predictions.npz", test=np.isin(range(10), right) - 1, test_labels=labels)
    (workdir / "config.json").write_text(json.dumps({"dataset": "digits"}))
    provenance = {"command": workdir.name, "commit": "1234567", "date": "2026-01-02", "resnet": "", **provenance}
    (workdir / "provenance.json").write_text(json.dumps(provenance))
    return workdir


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
        made += [
            systems.at_strength(settings, system, strength, None).name for strength in settings.strengths or (0.0,)
        ]
    assert [row.stage for row in rows[1:]] == made


def test_systems_that_are_done_go_into_a_table_and_a_figure(tmp_path):
    runs = tmp_path / "runs" / "quick"
    for seed in (0, 1):
        finished_run(runs / f"resnet38-seed{seed}", 0.6)
        (runs / f"resnet38-seed{seed}" / "config.json").write_text(json.dumps({"dataset": "digits"}))
        stages = [("act_0.005", range(4, 9), 0.9), ("act_0.01", range(5 + seed), 0.7), ("act_0.03", range(2), 0.5)]
        system_run(runs / f"systems_act-seed{seed}", stages)
    main(config.parse(ReproduceConfig, "", arguments(tmp_path, "--table", "systems", "--seeds", "2", "--collect")))
    text = (tmp_path / "README.md").read_text()
    assert "## Systems, digits\n" in text
    assert "(../results/figures/systems_digits.svg)" in text
    assert "| 1 | ResNet | - | 60.00 ± 0.00 | 1.000 ± 0.000 | - | - | 1.01 ± 0.00 | - | - | quick | 1 | 2 |" in text
    expected = [  # p is twice the binomial tail of the smaller number
        "0.005 | 50.00 ± 0.00 | 0.900 ± 0.000 | 12,345 | 1.23 ± 0.00 | 0.90 ± 0.00 | 3 / 4 | 1 | quick | 1 | 2 |",
        "0.01 | 55.00 ± 7.07 | 0.700 ± 0.000 | 12,345 | 1.23 ± 0.00 | 0.90 ± 0.00 | 0 / 1 | 1 | quick | 1 | 2 |",
        "0.03 | 20.00 ± 0.00 | 0.500 ± 0.000 | 12,345 | 1.23 ± 0.00 | 0.90 ± 0.00 | 0 / 4 | 0.12 | quick | 1 | 2 |",
    ]
    numbers = [row.number for row in paper.rows_of("systems") if row.model == "ACT"]
    for number, cells in zip(numbers, expected, strict=True):
        assert f"| {number} | ACT | {cells}\n" in text
    header, rule, *_ = text.partition("## Systems")[2].partition("| Row")[2].splitlines()
    assert header.count("|") + 1 == rule.count("|") == cells.count("|") + 3
    figure = (tmp_path / "results" / "figures" / "systems_digits.svg").read_text()
    assert ">ACT<" in figure
    assert ">ResNet<" in figure
    assert ">SkipNet<" not in figure


def test_the_figure_has_a_curve_for_each_system_and_repeats_its_bytes(tmp_path):
    rows = [row for row in paper.rows_of("systems") if row.model in {"ReSet", "ShaResNet"}]
    for seed, right in ((0, 9), (1, 7)):
        stages = [(row.stage, range(right), compute) for row, compute in zip(rows, (1.0, 0.7, 0.5, 0.3), strict=True)]
        workdir = system_run(tmp_path / f"run{seed}", stages)
        workdirs = {row.experiment: workdir for row in rows}
        lines = [
            results_table.collect(row, seed, preset, 1.0, workdirs) for row in rows for preset in ("fast", "quick")
        ]
        results_table.merge(tmp_path, lines)
    figure = systems_figure.systems_figure(results_table.read(tmp_path / "systems_digits.csv"))
    assert [axes.get_title() for axes in figure.axes] == ["preset fast", "preset quick"]
    for axes in figure.axes:
        shared, reset = axes.containers
        assert (shared.get_label(), reset.get_label()) == ("ShaResNet", "ReSet")
        np.testing.assert_allclose(shared.lines[0].get_xydata(), [[1.0, 80]])
        np.testing.assert_allclose(reset.lines[0].get_xydata(), [[0.3, 80], [0.5, 80], [0.7, 80]])
        (bar, *_) = reset.lines[2][0].get_segments()
        np.testing.assert_allclose(bar[:, 1], [80 - 10 * 2**0.5, 80 + 10 * 2**0.5])
    (path,) = systems_figure.write_systems_figures(tmp_path)
    first = path.read_bytes()
    systems_figure.write_systems_figures(tmp_path)
    assert path.read_bytes() == first
    assert path.name == "systems_digits.svg"
    assert len(first) < 50_000


def test_results_of_other_strengths_stay_apart(tmp_path):
    row = paper.rows_of("systems")[1]
    lines = [
        results_table.collect(row, seed, "quick", 1.0, {row.experiment: workdir})
        for seed in (0, 1)
        for workdir in [system_run(tmp_path / f"run{seed}", [(row.stage, range(8), 0.9)])]
    ]
    results_table.merge(tmp_path, [{**line, "strength": "0.77"} for line in lines])
    results_table.merge(tmp_path, lines[:1])
    readme.write_readme(tmp_path, tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    assert f"| {row.number} | {row.model} | 0.77 | 80.00 ± 0.00 |" in text
    assert f"| {row.number} | {row.model} | {row.strength} | 80.00 |" in text


def test_a_run_of_other_settings_is_no_row(tmp_path):
    row = paper.rows_of("systems")[1]
    workdir = system_run(tmp_path / "run", [(f"{row.stage}77", range(8), 0.9)])
    with pytest.raises(ValueError, match=rf"run is a run of other settings: .* and no {row.stage}\. Move it away"):
        results_table.collect(row, 0, "quick", 1.0, {row.experiment: workdir})
