"""A small recipe in a separate process, to be killed, interrupted and started again."""

import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
STAGE = "stages/00-train"


def start(workdir, *flags, prefix=()):
    """Starts a hard-routed training from scratch; each pass over the digits is an epoch of 22 batches."""
    command = [*prefix, sys.executable, str(ROOT / "recipes" / "from_scratch.py"), "--workdir", str(workdir)]
    command += ["--units", "1", "1", "--scorer", "gumbel_st", "--entropy-across", "0.02", *map(str, flags)]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "COLUMNS": "120", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process, seconds=500):
    """Exit code, output and error output of a process that ends."""
    output, errors = process.communicate(timeout=seconds)
    return process.returncode, output, errors


def checkpoints(workdir):
    """Names of the checkpoints there are, oldest first."""
    return sorted(path.name for path in (workdir / STAGE).glob("epoch-*.npz"))


def wait_for(happened, process, seconds=300):
    """Waits until something has happened, and fails if the process ends before that."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)
