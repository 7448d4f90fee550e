import json
import os
import pathlib
import shlex
import sys
import warnings
from collections.abc import Callable
from typing import Any

from reset_keras.argument_checks import check_integer
from reset_keras.atomic_write import atomic_write, write_json

FORMAT = 1
"""Version of a run's files; this package cannot read later versions."""


class DamagedRunError(ValueError):
    """A file of a run cannot be read any more, so that the run cannot go on by itself."""


class WorkDirectory:
    """The folder of one run: its config, its metrics, a folder for each stage, its report.

    It holds `config.json`, `metrics.jsonl`, `stages/NN-name/`, `tensorboard/` and `report.html`. A run that finds a
    work directory of the same config goes on in it.

    Args:
        path: The folder, which is made if need be.
        config: The run's settings, as JSON can hold them: of tuples it makes lists, of other names texts.
        replaceable: Names of settings that may differ from those of an earlier start, such as the directory itself.

    Raises:
        ValueError: the folder cannot be written to, or belongs to a run of other settings, which the message names; or
            JSON cannot hold a setting, or one is called `format`.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> workdir = WorkDirectory(folder.name, {"seed": 0})
        >>> workdir.write_config()  # from here on the folder is that of this run
        >>> WorkDirectory(folder.name, {"seed": 1})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: the work directory ... belongs to another run: seed was 0, is 1. ...
    """

    def __init__(self, path: str | os.PathLike, config: dict[str, Any], replaceable: tuple[str, ...] = ()) -> None:
        self.path = pathlib.Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"the work directory {self.path} cannot be made: {error.strerror}") from error
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise ValueError(f"the work directory {self.path} cannot be written to")
        self.config = _as_written(config)
        self._check_config(replaceable)

    def hold(self) -> None:
        """Keeps other processes out until this one ends, however it ends.

        Where there are no locks, as on Windows and some file systems, it does nothing.

        Raises:
            ValueError: another process holds the folder.
        """
        try:
            import fcntl  # only Unix has it
        except ModuleNotFoundError:
            return

        descriptor = os.open(self.path / ".lock", os.O_CREAT | os.O_WRONLY, 0o666)  # the system closes it
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:  # POSIX lets a system say by either that the lock is held
            raise ValueError(
                f"another process is running in the work directory {self.path}: wait for it, end it, or give another "
                "`path` (recipes: --workdir)"
            ) from error
        except OSError:  # of a file system without locks
            os.close(descriptor)

    def write_config(self) -> None:
        """Writes `config.json`, which makes this the folder of a run with these settings."""
        write_json(self.path / "config.json", {"format": FORMAT, **self.config})

    def _check_config(self, replaceable: tuple[str, ...]) -> None:
        path = self.path / "config.json"
        if not path.exists():
            return
        earlier = read_config(path)
        for name, value in earlier.items():
            if name not in self.config:
                raise ValueError(
                    f"{path} has the unknown setting '{name}': remove it, or give another `path` (recipes: --workdir)"
                )
            if not _are_alike(value, self.config[name]):
                raise ValueError(
                    f"{path}: '{name}' must be of the type of {self.config[name]!r}, is {value!r}: repair it, or give "
                    "another `path` (recipes: --workdir)"
                )
        differing = [
            f"{name} was {earlier.get(name)!r}, is {self.config[name]!r}"
            for name in sorted(self.config)
            if name not in replaceable and not _are_equal(earlier.get(name), self.config[name])
        ]
        if differing:
            raise ValueError(
                f"the work directory {self.path} belongs to another run: {'; '.join(differing)}. "
                "Give another `path` (recipes: --workdir), or the settings of that run"
            )

    @property
    def command(self) -> str:
        """The command line of this process."""
        return shlex.join(["python", *sys.argv])

    def stage(self, index: int, name: str) -> pathlib.Path:
        """The folder of a stage, made if need be."""
        folder = self.path / "stages" / _numbered(index, name)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def tensorboard(self, index: int, name: str) -> pathlib.Path:
        """Where a stage's TensorBoard logs go."""
        return self.path / "tensorboard" / _numbered(index, name)

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Adds a line to `metrics.jsonl`."""
        with (self.path / "metrics.jsonl").open("a") as metrics:
            metrics.write(json.dumps(line) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; a last line that a killed run left unfinished is not counted.

        Other lines that are damaged are left out with a warning.
        """
        path = self.path / "metrics.jsonl"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        parsed = [_parse(line) for line in lines]
        damaged = [number for number, line in enumerate(parsed[:-1], start=1) if line is None]
        if damaged:
            warnings.warn(f"{path}: lines {damaged} are damaged, and are left out", stacklevel=2)
        return [line for line in parsed if line is not None]

    def keep_metrics(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Drops the lines of `metrics.jsonl` that are to be written again."""
        kept = [line for line in self.metrics() if keep(line)]
        with atomic_write(self.path / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """The settings in a run's `config.json`.

    Args:
        path: The file.

    Raises:
        ValueError: it is no JSON, holds no settings, or is of a later version of this package.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> WorkDirectory(folder.name, {"seed": 0}).write_config()
        >>> read_config(pathlib.Path(folder.name) / "config.json")
        {'seed': 0}
    """
    try:
        config = json.loads(pathlib.Path(path).read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}): repair it, or take another work directory (recipes: --workdir)"
        ) from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold an object with settings by name, holds {config!r}")
    written = config.pop("format", FORMAT)
    if not isinstance(written, int) or written > FORMAT:
        raise ValueError(
            f"{path}: 'format' is {written!r}, and this reset_keras reads up to {FORMAT}: install the version that "
            "the run was started with"
        )
    return config


def read_result(path: str | os.PathLike) -> dict[str, Any]:
    """The row in a finished stage's `result.json`.

    Args:
        path: The file.

    Raises:
        DamagedRunError: it holds no row.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = pathlib.Path(folder.name) / "result.json"  # in a run: in the stage's folder
        >>> _ = path.write_text('{"stage": "pretrain", "paper_steps": "0", "accuracy": {"test": 0.98}}')
        >>> read_result(path)["accuracy"]
        {'test': 0.98}
    """
    try:
        row = json.loads(pathlib.Path(path).read_text())
        return {"paper_steps": row.get("steps"), "stage": row["stage"], **row}  # "steps" as version 0.1 called them
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise DamagedRunError(f"{path} is damaged ({error!r}): remove it to train this stage again") from error


def _as_written(config: dict[str, Any]) -> dict[str, Any]:
    """Settings as they are read again from `config.json`."""
    try:
        written = json.loads(json.dumps(config))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`config` must hold what JSON can: {error}. Received: config={config!r}") from error
    if "format" in written:
        raise ValueError(f"'format' stands for the files' version; give the setting another name. Received: {config!r}")
    return written


def _numbered(index: int, name: str) -> str:
    return f"{check_integer('index', index, least=0):02d}-{name}"


def _are_equal(earlier: Any, now: Any) -> bool:
    """Whether two values are the same, NaN for NaN, too."""
    return earlier == now or json.dumps(earlier) == json.dumps(now)


def _are_alike(earlier: Any, now: Any) -> bool:
    """Whether two values are of one type; any may be missing, and an integer stand for a float."""
    if earlier is None or now is None:
        return True
    if isinstance(now, list) and isinstance(earlier, list):
        return all(_are_alike(value, now[0]) for value in earlier) if now else True
    return type(earlier) is type(now) or (type(earlier), type(now)) in {(int, float), (float, int)}


def _parse(line: str) -> dict[str, Any] | None:
    try:
        parsed = json.loads(line)
    except json.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) else None
