"""Networks and folders that `reproduce.py` is given, which are looked at before anything is run."""

import pathlib
import re

import pytest

from experiment import config
from finished_runs import arguments
from paper_tables import paper, queue
from paper_tables.run import Run
from paper_tables.settings import ReproduceConfig
from reproduce import main


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--rows", "8", "--resnet", "typo.keras"), "typo.keras is no file, and none of the trained networks reset20"),
        (
            ("--rows", "2", "--resnet", "resnet38_cifar10"),
            "rows that start from a ResNet; none of these does; received resnet38_cifar10: leave",
        ),
        (
            ("--rows", "8", "--softmax", "reset38_softmax_cifar10"),
            "--softmax is for rows that start from a softmax-routed ReSet; none of these does",
        ),
        (("--rows", "8", "--resnet", ""), "--resnet: is no file"),
        (("--rows", "8", "--resnet", "file"), "--resnet must be a ResNet; received file, no .keras file"),
        (
            ("--rows", "18", "--softmax", "resnet38_cifar10"),
            "must be a softmax-routed ReSet; received resnet38_cifar10, a Re",
        ),
        (("--rows", "18", "--softmax", "reset38_efficient_cifar10"), "a ReSet of another scorer, GumbelSTScorer"),
        (("--rows", "13", "--resnet", "reset38_softmax_cifar10"), "reset38_softmax_cifar10, a softmax-routed ReSet"),
        (("--rows", "1", "--readme", "file/rd.md"), "cannot make the folder file: File exists"),
        (("--rows", "1", "--workdir", "file/runs"), "cannot make the folder file/runs: Not a directory"),
        (("--rows", "1", "--results", "file"), "cannot make the folder file: File exists"),
    ],
)
def test_places_that_are_not_there_are_told_before_anything_is_run(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stopped:
        main(config.parse(ReproduceConfig, "", [*arguments(tmp_path, "--table", "2"), *flags]))
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*"))


def test_rows_may_start_from_a_given_softmax_network(tmp_path):
    flags = ("--workdir", str(tmp_path), "--softmax", "reset38_softmax_cifar10")
    settings = config.parse(ReproduceConfig, "", flags)
    baseline, run = queue.runs_of(settings, paper.rows_of("2", (18,)), 0)
    assert (baseline.name, run.name) == ("quick/resnet38-seed0", "quick/top_1-from-reset38_softmax_cifar10-seed0")
    assert run.flags[-4:] == ["--k", "1", "--pretrained", "reset38_softmax_cifar10"]
    assert run.lacks == ""


def test_a_work_directory_may_be_moved_with_the_network_that_it_starts_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.keras").touch()
    for given in ("mine.keras", str(tmp_path / "mine.keras")):
        settings = config.parse(ReproduceConfig, "", ["--workdir", "runs", "--softmax", given])
        assert Run(settings, "top_1", 0).flags[-1] == "../mine.keras"


def test_given_files_of_nearly_the_same_name_have_different_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = set()
    for given in ("a_b.keras", "a.b.keras", "a-b.keras", "a/b.keras", str(tmp_path / "a_b.keras")):
        file = pathlib.Path(given)
        file.parent.mkdir(exist_ok=True)
        file.touch()
        names.add(Run(config.parse(ReproduceConfig, "", ["--workdir", "runs", "--softmax", given]), "top_1", 0).name)
    assert len(names) == 4  # the last is the first
    (tmp_path / "a_b.keras").unlink()  # as `--collect` may find it
    assert (
        Run(config.parse(ReproduceConfig, "", ["--workdir", "runs", "--softmax", "a_b.keras"]), "top_1", 0).name
        in names
    )
    assert all(re.fullmatch(r"quick/top_1-from-[\w-]+-seed0", name) for name in names)
