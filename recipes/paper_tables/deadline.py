"""When a command that runs others has to end, and when it has to wait."""

from __future__ import annotations

import contextlib
import math
import pathlib
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

MARGIN = 40.0
"""Seconds before the time limit at which the running recipe is told to end, or a tenth of the limit where that is less.
It is killed half of them later. A recipe ends within a second, unless it is deep in a compilation; nothing in a
checkpoint is lost."""
POLL = 0.1
"""Seconds between two looks at the time and at the file that pauses a process."""


class Deadline:
    """The end of a command, at a time limit or by Ctrl-C or SIGTERM, and of the process that it has started.

    Args:
        time_limit: Float, seconds from now after which the command must have ended, or `None` for no limit.
    """

    def __init__(self, time_limit: float | None) -> None:
        self.exit_code = 0
        self._margin = MARGIN if time_limit is None else min(MARGIN, time_limit / 10)
        self._end = math.inf if time_limit is None else time.monotonic() + time_limit - self._margin
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)

    @property
    def reached(self) -> bool:
        """Whether nothing more is to be started."""
        return self.exit_code != 0 or time.monotonic() >= self._end

    @contextlib.contextmanager
    def ends(self, process: subprocess.Popen[str], pause: pathlib.Path) -> Iterator[None]:
        """A context in which a process is told to end when it is time, and killed if it does not.

        Args:
            process: The process.
            pause: A file: while it exists, the process is stopped.
        """
        is_over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(process, pause, is_over), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            is_over.set()
            watcher.join()
            process.terminate()  # where an error ends the context
            process.send_signal(signal.SIGCONT)  # stopped, it could not end by itself

    def _watch(self, process: subprocess.Popen[str], pause: pathlib.Path, is_over: threading.Event) -> None:
        is_paused, kill_at = False, math.inf
        while not is_over.wait(POLL):
            if time.monotonic() >= kill_at:
                process.kill()
            elif kill_at < math.inf:
                continue
            elif self.reached:
                process.terminate()
                process.send_signal(signal.SIGCONT)
                kill_at = time.monotonic() + self._margin / 2
            elif pause.exists() != is_paused:
                is_paused = not is_paused
                process.send_signal(signal.SIGSTOP if is_paused else signal.SIGCONT)
                print(f"  paused until {pause} is gone" if is_paused else "  goes on", flush=True)

    def _interrupt(self, number: int, frame: Any) -> None:
        # No exception: the watcher ends the process, and the tables are still written.
        self.exit_code = 128 + number
