"""`agentplane export` and `import`: the event log as JSON Lines. The fields of a line are in engine/log/export.py."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from cli.log import event_log
from cli.output import console, counted
from engine.log.contract import EventLog
from engine.log.export import export_log, export_streams, import_log
from engine.queries import DeploymentSummary, find, streams_of
from engine.replay import DATA_PLANE_PREFIX


def export(file: Path | None, deployment: str | None) -> None:
    """Write the log, or one deployment's part of it (with the data planes' own streams), as JSON Lines."""
    log = event_log()
    lines = export_log(log) if deployment is None else _part(log, find(log, deployment))
    if file is None:
        _write(sys.stdout.buffer, lines)
    elif file.exists() and not stat.S_ISREG(file.stat().st_mode):
        with file.open("wb") as device:  # a pipe or /dev/stdout cannot be replaced
            _write(device, lines)
    else:
        _write_whole(file, lines)


def _part(log: EventLog, summary: DeploymentSummary) -> Iterator[bytes]:
    """Return the lines of one deployment's streams and of the data planes', whose configuration a replay needs."""
    return export_streams(log, {*streams_of(summary), *log.streams(DATA_PLANE_PREFIX)})


def _write_whole(file: Path, lines: Iterable[bytes]) -> None:
    """Write a file whole or not at all: a full disk leaves no part of an export behind."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            _write(stream, lines)
            os.fsync(stream.fileno())
        partial.replace(file)
    except OSError as error:
        error.filename = str(file)
        raise
    finally:
        partial.unlink(missing_ok=True)


def _write(stream: IO[bytes], lines: Iterable[bytes]) -> None:
    for entry in lines:
        stream.write(entry)
    stream.flush()


def import_(file: Path) -> None:
    """Add an exported log to the installation's log."""
    with file.open("rb") as lines:
        done = import_log(event_log(), lines)
    console.print(f"added {counted(done.added, 'event')}; {done.present} were already there")
