"""`agentplane export` and `import`: the event log as JSON Lines. The fields of a line are in engine/log/export.py."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cli.log import event_log
from cli.output import console, counted, note
from engine.errors import FutureEvent, ImportRefused
from engine.log.contract import EventLog
from engine.log.export import HEADER, export_log, export_streams, import_log
from engine.names import DATA_PLANE_PREFIX
from engine.queries import DeploymentSummary, find, streams_of
from engine.replay import ReplayError

NO_EVENT = (f'{{"{HEADER}"'.encode(), b'{"snapshot"')
"""How lines begin that are no events."""


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
        note(f"wrote {counted(_write_whole(file, lines), 'event')} to {file}")


def _part(log: EventLog, summary: DeploymentSummary) -> Iterator[bytes]:
    """Return the lines of one deployment's streams and of the data planes', whose configuration a replay needs."""
    return export_streams(log, {*streams_of(summary), *log.streams(DATA_PLANE_PREFIX)})


def _write_whole(file: Path, lines: Iterable[bytes]) -> int:
    """Write a file whole or not at all: a full disk leaves no part of an export behind. Return how many events."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            written = _write(stream, lines)
            os.fsync(stream.fileno())
        partial.replace(file)
    except OSError as error:
        error.filename = str(file)
        raise
    finally:
        partial.unlink(missing_ok=True)
    return written


def _write(stream: IO[bytes], lines: Iterable[bytes]) -> int:
    """Write lines; return how many of them are events."""
    events = 0
    for entry in lines:
        stream.write(entry)
        events += not entry.startswith(NO_EVENT)
    stream.flush()
    return events


def import_(file: Path) -> None:
    """Add an exported log to the installation's log."""
    with file.open("rb") as lines, naming(file):
        done = import_log(event_log(), lines)
    archived = f"; {done.archived} were archived from this log and not added" if done.archived else ""
    console.print(f"added {counted(done.added, 'event')}; {done.present} were already there{archived}")


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Put the name of the file before the message of an error that says what is wrong with the file."""
    try:
        yield
    except (ImportRefused, ReplayError, FutureEvent) as error:
        raise type(error)(f"{file}: {error}") from error
