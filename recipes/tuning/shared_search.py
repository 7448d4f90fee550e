"""A search over several processes, with KerasTuner's chief and workers: who is what, and where."""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuning.settings import TuneConfig

PATIENCE = 3600
"""Seconds that a worker waits for its chief."""


def check_part(config: TuneConfig) -> None:
    """Refuses what cannot be this process's part in a shared search, and tells KerasTuner of it.

    Raises:
        ValueError: part and address do not fit each other, or are none, or another process listens at the address.
    """
    if not config.distributed:
        if config.chief_address:
            raise ValueError(
                "--chief-address is for shared searches: it needs --distributed chief or worker0, worker1, ...; "
                f"received --chief-address {config.chief_address} without it: add that flag, or leave both out"
            )
        return
    if not re.fullmatch(r"chief|worker\d+", config.distributed):
        raise ValueError(f"--distributed: expected chief or worker0, worker1, ..., received {config.distributed!r}")
    host, _, port = config.chief_address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ValueError(
            f"--distributed {config.distributed} needs --chief-address HOST:PORT, where the chief listens; "
            f"received {config.chief_address!r}"
        )
    # gRPC would share the port with another chief without a word, so that workers could reach either.
    if config.distributed == "chief":
        try:
            with socket.socket() as probe:
                # Or a port whose chief has just ended would count as taken.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, int(port)))
        except OSError as error:
            raise ValueError(f"--chief-address {config.chief_address} is not available: {error.strerror}") from error
    os.environ |= {
        "KERASTUNER_TUNER_ID": config.distributed,
        "KERASTUNER_ORACLE_IP": host,
        "KERASTUNER_ORACLE_PORT": port,
    }


def wait_for_chief(config: TuneConfig, best: Path) -> None:
    """Returns when the chief listens, or has written `best` because nothing is left to do.

    Raises:
        ValueError: it does neither for an hour, or its work directory is another one.
    """
    host, _, port = config.chief_address.rpartition(":")
    end = time.monotonic() + PATIENCE
    while not best.exists():
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            break
        except OSError as error:
            if time.monotonic() > end:
                raise ValueError(f"no chief listens at {config.chief_address}: {error.strerror}") from error
            time.sleep(0.5)
    if not Path(config.workdir, "config.json").exists():
        raise ValueError(f"the chief's work directory is not {config.workdir}: all take part in the same --workdir")
