"""Ctrl-C, SIGTERM, a full disk and damaged files: what is told, what is kept, and that the run goes on."""

import json
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from recipe import ROOT, STAGE, checkpoints, finish, start, wait_for

FLAGS = ("--train-steps", 22 * 6)


def going_on(errors):
    """The command that the process told its user to go on with."""
    (line,) = [line for line in errors.splitlines() if line.startswith("Continue with: ")]
    return shlex.split(line.removeprefix("Continue with: "))


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_the_last_checkpoint_and_says_how_to_go_on(tmp_path, sent, code):
    workdir = tmp_path / "run"
    process = start(workdir, *FLAGS)
    wait_for(lambda: len(checkpoints(workdir)) == 2, process)
    process.send_signal(sent)
    ended, _, errors = finish(process)
    assert ended == code
    assert "Traceback" not in errors
    assert len(checkpoints(workdir)) == 2
    lengthen(workdir / STAGE / checkpoints(workdir)[-1], by=1000)
    python, *words = going_on(errors)
    assert python == "python"
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Going on with train after epoch" in done.stdout
    assert (workdir / "report.html").is_file()
    assert 1000 < json.loads((workdir / STAGE / "result.json").read_text())["seconds"] < 2000


def lengthen(checkpoint, by):
    """Makes a checkpoint say that its stage has taken so many seconds more."""
    with np.load(checkpoint) as archive:
        arrays = dict(archive)
    np.savez(checkpoint, **{**arrays, "clock/seconds": arrays["clock/seconds"] + by})


@pytest.mark.faults
def test_sigterm_before_the_first_checkpoint(tmp_path):
    process = start(tmp_path / "run", *FLAGS)
    wait_for((tmp_path / "run" / "config.json").exists, process)
    process.send_signal(signal.SIGTERM)
    code, _, errors = finish(process)
    assert code == 143
    assert going_on(errors)


FULL_DISK = """
set -e
mount -t tmpfs -o size=8m tmpfs "$1"
shift
set +e
"$@" > "$LOGS/first.out" 2> "$LOGS/first.err"; echo $? > "$LOGS/first.code"
ls "$DISK/run/stages/00-train" > "$LOGS/first.files"
rm "$DISK/ballast"
"$@" > "$LOGS/second.out" 2> "$LOGS/second.err"; echo $? > "$LOGS/second.code"
ls "$DISK/run" > "$LOGS/second.files"
"""


def can_mount():
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="a disk of its own cannot be mounted here")
def test_a_full_disk_costs_nothing_that_was_kept(tmp_path):
    disk, logs = tmp_path / "disk", tmp_path / "logs"
    disk.mkdir()
    logs.mkdir()
    fill = f"head -c 7340032 /dev/zero > '{disk}/ballast'"
    script = FULL_DISK.replace("shift\n", f"shift\n{fill}\nexport DISK='{disk}' LOGS='{logs}'\n")
    prefix = ["unshare", "-rm", "sh", "-c", script, "sh", str(disk)]
    code, _, errors = finish(start(disk / "run", *FLAGS, prefix=prefix))
    assert code == 0, errors
    first = (logs / "first.err").read_text()
    assert (logs / "first.code").read_text().strip() == "1", first
    assert "there is no space left" in first
    assert "Traceback" not in first
    assert going_on(first)
    kept = (logs / "first.files").read_text().split()
    assert all(name.startswith("epoch-") for name in kept)
    second = (logs / "second.err").read_text()
    assert (logs / "second.code").read_text().strip() == "0", second
    if kept:
        assert "Going on with train after epoch" in (logs / "second.out").read_text()
    assert "report.html" in (logs / "second.files").read_text()


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory):
    """A run that was killed with two checkpoints written."""
    workdir = tmp_path_factory.mktemp("cut_off") / "run"
    process = start(workdir, *FLAGS)
    wait_for(lambda: len(checkpoints(workdir)) == 2, process)
    process.kill()
    process.communicate()
    return workdir


@pytest.mark.faults
@pytest.mark.slow
def test_the_checkpoint_before_a_damaged_one_is_gone_on_from(cut_off, tmp_path):
    workdir = shutil.copytree(cut_off, tmp_path / "run")
    older, newest = checkpoints(workdir)
    data = bytearray((workdir / STAGE / newest).read_bytes())
    for position in range(len(data) // 2, len(data) // 2 + 200):
        data[position] ^= 0xFF
    (workdir / STAGE / newest).write_bytes(data)
    code, output, errors = finish(start(workdir, *FLAGS))
    assert code == 0, errors
    assert newest in errors
    assert older in errors
    assert f"Going on with train after epoch {int(older[6:10])} of" in output


@pytest.mark.faults
@pytest.mark.slow
def test_without_a_whole_checkpoint_it_does_not_start_again_by_itself(cut_off, tmp_path):
    workdir = shutil.copytree(cut_off, tmp_path / "run")
    for name in checkpoints(workdir):
        (workdir / STAGE / name).write_bytes(b"")
    code, output, errors = finish(start(workdir, *FLAGS))
    assert code == 1
    assert "none of the checkpoints" in errors
    assert "Traceback" not in errors
    assert "Epoch 1/" not in output


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--seed", 3), ("--train-steps", 22 * 7)])
def test_other_settings_do_not_touch_the_run(cut_off, flags):
    before = {path: path.stat().st_mtime_ns for path in cut_off.rglob("*")}
    code, _, errors = finish(start(cut_off, *FLAGS, *flags))
    assert code == 2
    assert "belongs to another run" in errors
    assert {path: path.stat().st_mtime_ns for path in cut_off.rglob("*")} == before
