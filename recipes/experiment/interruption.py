"""What ends a run from outside, and what its user is told then."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when there is no more room for a file."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a cluster sends it before it takes a machine away."""


@contextlib.contextmanager
def ended_in_words() -> Iterator[None]:
    """A context that ends the process in a line or two where something from outside ends the run.

    Ctrl-C ends it with exit code 130, SIGTERM with 143, a full disk, a damaged file of the run or a loss that is not
    finite with 1. Whatever it was, all up to the last checkpoint is kept. The command that goes on from there is
    printed, except where it would come to the same end.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        yield
    except KeyboardInterrupt as interruption:
        # Or `_interrupt` would raise again while the user is told.
        signal.setitimer(signal.ITIMER_REAL, 0)
        terminated = isinstance(interruption, Terminated)
        _end(143 if terminated else 130, "terminated" if terminated else "interrupted")
    except OSError as error:
        if not _says_full(error):
            raise
        _end(1, f"there is no space left to write to ({error}). Make some; nothing that was kept is lost")
    except FloatingPointError as error:
        _tell(f"{error} (--help lists the rates; a new run has another --workdir)")
        raise SystemExit(1) from None
    except ValueError as error:
        from reset_keras.training import DamagedRunError

        if not isinstance(error, DamagedRunError):
            raise
        _end(1, str(error))


def _interrupt(number: int, frame: Any) -> NoReturn:
    """Raises an exception, and again a second later: what traces a function may swallow one."""
    signal.signal(signal.SIGALRM, lambda *_: _interrupt(number, frame))
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _says_full(error: OSError) -> bool:
    """Whether it is the disk; HDF5 hides the number in its text."""
    return error.errno in FULL or os.strerror(errno.ENOSPC) in str(error) or os.strerror(errno.EFBIG) in str(error)


def _end(code: int, what: str) -> NoReturn:
    _tell(f"{what}\nContinue with: {shlex.join(['python', *sys.argv])}")
    raise SystemExit(code)


def _tell(what: str) -> None:
    print(f"\n{Path(sys.argv[0]).name}: {what}", file=sys.stderr, flush=True)
