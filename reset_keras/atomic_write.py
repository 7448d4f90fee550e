import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def atomic_write(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path beside `path` to write to; it gets the name `path` when all is written, never before.

    A process that is killed meanwhile leaves what was at `path` as it was.

    Args:
        path: The file to be written. Its suffix is that of the temporary path too.

    Examples:
        >>> target = pathlib.Path("/tmp/reset_keras_example.txt")
        >>> with atomic_write(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield temporary
        # Else, after a power failure, `path` might name a file whose content never reached the disk.
        with temporary.open("r+b") as written:  # Windows flushes only what may be written
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file as `atomic_write` does."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
