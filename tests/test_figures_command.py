"""The command that draws the figures of a run."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import figures
import reset_keras as rk

RECIPES = pathlib.Path(figures.__file__).parent


def parsed(*flags):
    return figures.parse(figures.FiguresConfig, "", [*map(str, flags)])


def error_of(capsys, *flags):
    with pytest.raises(SystemExit) as stopped:
        figures.main(parsed(*flags))
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"dataset": "digits", "image_size": None}))
    folder = tmp_path / "stages" / "00-soft"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"stage": "soft", "policy_entropy": 0.5}))
    scores = np.random.default_rng(0).dirichlet(np.ones(2), size=(360, 1))
    rk.analysis.Routes([{"scores": scores}] * 2, (True, True)).save(folder / "routes.npz")
    return tmp_path


def test_help_is_instant():
    code = """
import atexit, sys
heavy = {"tensorflow", "keras", "numpy", "matplotlib", "reset_keras"}
atexit.register(lambda: print("loaded", sorted(heavy & set(sys.modules))))
import figures
figures.parse(figures.FiguresConfig, "", ["--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=RECIPES)
    assert "--queries" in done.stdout
    assert done.stdout.strip().endswith("loaded []")


def test_files_are_named_and_lie_in_the_work_directory(workdir, capsys):
    figures.main(parsed("--workdir", workdir, "--queries", "1"))
    *paths, note = capsys.readouterr().out.splitlines()
    expected = {workdir / "figures" / f"figure{n}-soft.{suffix}" for n in (4, 5) for suffix in ("png", "pdf")}
    assert {pathlib.Path(path) for path in paths} == set((workdir / "figures").iterdir()) == expected
    assert note.startswith("No figure 6")


@pytest.mark.slow
def test_with_a_history_there_is_a_figure_6(workdir, capsys):
    scores = {"module_0": np.ones((2, 1, 2)), "module_1": np.ones((2, 1, 2))}
    path = workdir / "stages" / "00-soft" / "route_history.npz"
    np.savez(path, steps=[0, 5], zero_units=[True, True], **scores)
    output = workdir / "elsewhere"
    figures.main(parsed("--workdir", workdir, "--output", output, "--stage", "soft"))
    assert "No figure 6" not in capsys.readouterr().out
    assert (output / "figure6-soft.pdf").is_file()


def test_mistakes(workdir, capsys):
    assert "there is no folder" in error_of(capsys, "--workdir", workdir / "none")
    assert "is no work directory of a recipe" in error_of(capsys, "--workdir", workdir / "stages")
    assert "it has ['soft']" in error_of(capsys, "--workdir", workdir, "--stage", "hard")
    assert "of which there are 10" in error_of(capsys, "--workdir", workdir, "--queries", 11)
    assert "--queries: must be at least 1, received 0" in error_of(capsys, "--queries", 0)
    assert "File exists" in error_of(capsys, "--workdir", workdir, "--output", workdir / "config.json")
    (workdir / "stages" / "00-soft" / "routes.npz").write_bytes(b"damaged")
    assert "routes.npz holds no routes" in error_of(capsys, "--workdir", workdir)
    (workdir / "config.json").write_text("{")
    assert "is not JSON" in error_of(capsys, "--workdir", workdir)
