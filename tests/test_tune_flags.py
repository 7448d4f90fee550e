"""Mistakes in a search's flags: one clear line and exit code 2, before any trial."""

import json
import pathlib
import socket
import subprocess
import sys
import types

import pytest

import tune
from tiny_search import settings

ROOT = pathlib.Path(__file__).parents[1]


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
        (["--chief-address", "localhost:1"], "received --chief-address localhost:1 without it: add that flag"),
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


@pytest.mark.slow
def test_a_search_that_is_running_is_left_alone(capsys, tmp_path):
    hold = "import sys; from reset_keras.training import WorkDirectory; w = WorkDirectory(sys.argv[1], {}); w.hold()"
    command = [sys.executable, "-c", f"{hold}; print('held', flush=True); sys.stdin.read()", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert f"another process is running in the work directory {tmp_path}" in error_of(capsys, workdir=tmp_path)
        other.communicate("")


def test_a_worker_takes_the_precision_that_its_chief_has_chosen(monkeypatch, tmp_path):
    def chief_begins(config, best):
        (tmp_path / "config.json").write_text(json.dumps({"precision": "bfloat16"}))

    def set_up(config, dataset):
        begun.append(config.precision)
        return types.SimpleNamespace(search=lambda: None)

    begun = []
    monkeypatch.setattr(tune, "check_part", lambda config: None)
    monkeypatch.setattr(tune, "load", lambda config: None)
    monkeypatch.setattr(tune, "wait_for_chief", chief_begins)
    monkeypatch.setattr(tune, "set_up", set_up)
    monkeypatch.setattr("reset_keras.training.set_precision", lambda precision: None)
    monkeypatch.setattr("reset_keras.training.choose_precision", {"auto": "float32", "bfloat16": "bfloat16"}.get)
    tune.main(settings(tmp_path, "--distributed", "worker0", "--precision", "auto"))
    assert begun == ["bfloat16"]


def test_it_needs_tensorflow(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    assert "KERAS_BACKEND=jax: unset it" in error_of(capsys, workdir=tmp_path / "run")


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
