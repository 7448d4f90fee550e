"""Pauses a process while a file is there."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import subprocess
import threading
from collections.abc import Iterator

POLL = 0.5
"""Seconds between two looks at the file."""


@contextlib.contextmanager
def paused_by(file: pathlib.Path, process: subprocess.Popen[str]) -> Iterator[None]:
    """A context in which a process is stopped while `file` exists, and goes on when it is gone."""
    ended = threading.Event()

    def watch() -> None:
        is_paused = False
        while not ended.wait(POLL):
            if file.exists() != is_paused:
                is_paused = not is_paused
                process.send_signal(signal.SIGSTOP if is_paused else signal.SIGCONT)
                print(f"  paused until {file} is gone" if is_paused else "  goes on", flush=True)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        process.send_signal(signal.SIGCONT)  # stopped, it could not end by itself
