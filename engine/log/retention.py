"""Retention: archive what is old, then take it out of the log.

Two things grow for ever otherwise: the history of streams that live long, and whole streams of deployments and LGPs
that are gone. What goes is first written to an archive file (same lines as an export, forced to disk), so that
`import_log` of all archives and an export together gives the full log again. A crash between archive and trim
archives the same lines once more, which an import tolerates.

A live stream is trimmed up to its snapshot at most, never beyond, and keeps its last event; a snapshot is written
first where there is none that reaches far enough. A stream that is gone goes as a whole, once it is clean, without a
timer and unlocked: nobody will look at it again. Streams of the data plane itself (`engine/…`) are small and stay.
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
"""Events after which a stream is gone …"""
INITIAL_EVENTS = frozenset({"DeploymentRegistered", "LgpObserved"})
"""… unless one of these follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long events stay in the log."""

    live: timedelta | None
    """Events of live streams; None: for ever."""
    gone: timedelta | None
    """Streams of what was deleted, counted from their last event; None: for ever."""


@dataclass(slots=True)
class Retained:
    """What one run did."""

    archive: Path | None = None
    """File with what went, None when nothing did."""
    trimmed: dict[str, int] = field(default_factory=dict)
    """Live stream → events that went."""
    forgotten: dict[str, int] = field(default_factory=dict)
    """Gone stream → events that went."""


def retain(
    events: EventLog, machines: Mapping[str, AnyMachine], policy: Policy, folder: Path, now: datetime
) -> Retained:
    """Apply `policy`; `machines` are those of all components, by stream prefix. Archives go to `folder`.

    Raises OSError when the archive cannot be written (nothing is trimmed then), LogUnavailable.
    """
    retained = Retained()
    timers = {stream for stream, _ in events.due()}
    trims: dict[str, int] = {}
    farewells: dict[str, int] = {}
    going: list[Record] = []
    for prefix, machine in machines.items():
        for stream in events.streams(prefix):
            records = events.read(stream)
            if not records:
                continue
            if _gone(records):
                if policy.gone is not None and records[-1].at < now - policy.gone and stream not in timers:
                    farewells[stream] = records[-1].version
                    going += records
            elif policy.live is not None:
                through = _trimmable(events, machine, stream, records, now - policy.live)
                if through:
                    trims[stream] = through
                    going += [record for record in records if record.version <= through]
    if going:
        going.sort(key=lambda record: record.position)
        retained.archive = _archived(folder, f"{now:%Y%m%dT%H%M%S.%fZ}", [header(), *map(line, going)])
    for stream, through in trims.items():
        with contextlib.suppress(TrimRefused):
            retained.trimmed[stream] = events.trim(stream, through)
    for stream, version in farewells.items():
        with contextlib.suppress(TrimRefused):  # it came to life meanwhile
            retained.forgotten[stream] = events.forget(stream, version)
    log.info("retention", trimmed=len(retained.trimmed), forgotten=len(retained.forgotten), events=len(going))
    return retained


def _gone(records: Sequence[Record]) -> bool:
    last = next((record.type for record in reversed(records) if record.type in TERMINAL_EVENTS | INITIAL_EVENTS), None)
    return last in TERMINAL_EVENTS


def _trimmable(events: EventLog, machine: AnyMachine, stream: str, records: Sequence[Record], before: datetime) -> int:
    """Return the last version of a live stream that may go, having made sure of a snapshot; 0 for none."""
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
    """Write a file that is either complete and on disk, or not there under its name."""
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
