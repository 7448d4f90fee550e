"""When a command that runs others has to end."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

MARGIN = 40.0
"""Seconds before a time limit at which what is run is told to end, at most a tenth of the limit; after half of them it
is killed. A recipe ends within a second, unless it is deep in a compilation; nothing in a checkpoint is lost."""


class Deadline:
    """The end of a command, at a time limit or by Ctrl-C or SIGTERM, and of the process that it has started.

    Args:
        time_limit: Float, seconds from now after which the command must have ended, or `None` for no limit.
    """

    def __init__(self, time_limit: float | None) -> None:
        self.exit_code = 0
        self._margin = MARGIN if time_limit is None else min(MARGIN, time_limit / 10)
        self._end = None if time_limit is None else time.monotonic() + time_limit - self._margin
        self._process: subprocess.Popen[str] | None = None
        self._timers: list[threading.Timer] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)

    @property
    def reached(self) -> bool:
        """Whether nothing more is to be started."""
        return self.exit_code != 0 or (self._end is not None and time.monotonic() >= self._end)

    @contextlib.contextmanager
    def ends(self, process: subprocess.Popen[str]) -> Iterator[None]:
        """A context in which a process is told to end when it is time, and killed if it does not."""
        self._process = process
        if self.reached:
            self._tell()
        elif self._end is not None:
            self._in(self._end - time.monotonic(), self._tell)
        try:
            yield
        finally:
            self._process = None
            process.terminate()  # where an error ends the context
            for timer in self._timers:
                timer.cancel()
            self._timers.clear()

    def _tell(self) -> None:
        process = self._process  # which a timer's thread may find gone a moment later
        if process is not None:
            process.terminate()
            process.send_signal(signal.SIGCONT)  # a paused one could not end
            self._in(self._margin / 2, process.kill)

    def _in(self, seconds: float, do: Any) -> None:
        timer = threading.Timer(seconds, do)
        timer.daemon = True  # none may keep the command from ending
        self._timers.append(timer)
        timer.start()

    def _interrupt(self, number: int, frame: Any) -> None:
        self.exit_code = 128 + number
        self._tell()
