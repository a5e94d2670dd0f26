"""Retention: archives old events, then deletes them from the log.

Without retention, the streams of long-lived deployments grow forever, and the streams of deleted deployments and LGPs
stay forever. The events are first written to an archive file (the lines of an export, forced to disk). So an import of
all archives and an export gives the full log again. A crash between archive and deletion writes the same lines into
another archive; an import accepts lines that come twice.

A live stream is trimmed at most up to its snapshot, and keeps its last event; if no snapshot is recent enough, one is
saved first. The stream of a deleted deployment or LGP is deleted as a whole, once it is clean, unlocked and without a
timer. A data plane's own stream (`dataplane/…`) is small and stays.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from engine.errors import FutureEvent, SnapshotUnreadable, TrimRefused
from engine.event import Record
from engine.log.contract import EventLog
from engine.log.export import header, line
from engine.runtime.fold import Fold
from engine.runtime.machine import AnyMachine

log = structlog.get_logger(__name__)

TERMINAL_EVENTS = frozenset({"DeploymentDeleted", "LgpRemoved"})
"""Types of the events that end a stream, unless an initial event follows."""
INITIAL_EVENTS = frozenset({"DeploymentRegistered", "LgpObserved"})
"""Types of the events that begin a stream, also a stream that had ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long events stay in the log."""

    live: timedelta | None
    """How long events of live streams stay; None: forever."""
    gone: timedelta | None
    """How long an ended stream stays after its last event; None: forever."""


@dataclass(slots=True)
class Retained:
    """The result of one run."""

    archive: Path | None = None
    """File with the deleted events; None if none were deleted."""
    trimmed: dict[str, int] = field(default_factory=dict)
    """Live stream → number of deleted events."""
    forgotten: dict[str, int] = field(default_factory=dict)
    """Ended stream → number of deleted events."""


def retain(
    events: EventLog, machines: Mapping[str, AnyMachine], policy: Policy, folder: Path, now: datetime
) -> Retained:
    """Apply `policy` at the time `now` (UTC). `machines` are those of all components, by stream prefix.

    The archive is written to `folder`. Raises LogUnavailable; OSError if the archive cannot be written, and then
    deletes nothing.
    """
    retained = Retained()
    timers = {stream for stream, _ in events.due()}
    trims: dict[str, int] = {}
    ended: dict[str, int] = {}
    old: list[Record] = []
    for prefix, machine in machines.items():
        for stream in events.streams(prefix):
            records = events.read(stream)
            if not records:
                continue
            if _has_ended(records):
                if policy.gone is not None and records[-1].at < now - policy.gone and stream not in timers:
                    ended[stream] = records[-1].version
                    old += records
            elif policy.live is not None:
                through = _trimmable(events, machine, stream, records, now - policy.live)
                if through:
                    trims[stream] = through
                    old += [record for record in records if record.version <= through]
    if old:
        old.sort(key=lambda record: record.position)
        retained.archive = _archived(folder, f"{now:%Y%m%dT%H%M%S.%fZ}", [header(), *map(line, old)])
    for stream, through in trims.items():
        with contextlib.suppress(TrimRefused):
            retained.trimmed[stream] = events.trim(stream, through)
    for stream, version in ended.items():
        with contextlib.suppress(TrimRefused):  # the stream is in use again
            retained.forgotten[stream] = events.forget(stream, version)
    log.info("retention", trimmed=len(retained.trimmed), forgotten=len(retained.forgotten), events=len(old))
    return retained


def _has_ended(records: Sequence[Record]) -> bool:
    last = next((record.type for record in reversed(records) if record.type in TERMINAL_EVENTS | INITIAL_EVENTS), None)
    return last in TERMINAL_EVENTS


def _trimmable(events: EventLog, machine: AnyMachine, stream: str, records: Sequence[Record], before: datetime) -> int:
    """Return the last version of a live stream that can be trimmed, after a snapshot is saved; 0 if there is none."""
    old = [record.version for record in records[:-1] if record.at < before]
    if not old:
        return 0
    fold = Fold(machine, events, stream)
    try:
        fold.catch_up()
    except (FutureEvent, SnapshotUnreadable) as error:
        log.warning("stream is not trimmed", stream=stream, reason=str(error))
        return 0
    fold.save(every=1)
    snapshot = events.load_snapshot(stream)
    return old[-1] if snapshot is not None and snapshot.version >= old[-1] else 0


def _archived(folder: Path, name: str, lines: Iterable[bytes]) -> Path:
    """Write an archive; under its name it is either complete and on disk, or missing."""
    folder.mkdir(parents=True, exist_ok=True)
    path, unfinished = folder / f"{name}.jsonl", folder / f".{name}.unfinished"
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as archive:
        archive.writelines(lines)
        archive.flush()
        os.fsync(archive.fileno())
    unfinished.rename(path)
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return path
