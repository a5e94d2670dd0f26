"""Folding a stream into its state, from a snapshot where one fits.

A snapshot is a cache, so it is used only if the very code that reads it would have folded the same: its fingerprint
covers the schema of the state and the source of the machine's package. The exception is a stream whose oldest events
were trimmed: there a snapshot of earlier code is all that is left of them, and is taken if today's state understands
it.

A fold outlives reads, and the log may change behind it: a Redis that comes back without its last second has fewer
events than were folded, or others in their place. So a fold remembers the id of its last event, reads that one again
each time, and begins anew when it is not there any more.
"""

from __future__ import annotations

import inspect
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import orjson
from pydantic import ValidationError

from engine.digests import canonical, digest
from engine.errors import SnapshotUnreadable
from engine.event import Event, Record, Registry
from engine.log.contract import EventLog, Snapshot
from engine.runtime.machine import State
from engine.runtime.retry import ActDeferred
from engine.runtime.values import Value, from_json, schema, to_json

S = TypeVar("S", bound=State | Value)

SNAPSHOT_EVERY = 50
"""Events after which a new snapshot is worth its write."""


class Folding(Protocol[S]):
    """What a fold needs of a machine."""

    @property
    def name(self) -> str: ...

    @property
    def events(self) -> Registry: ...

    @property
    def initial(self) -> S: ...

    def evolve(self, state: S, event: Event, at: datetime) -> S: ...


class Fold(Generic[S]):
    """The state of one stream, kept up with its log."""

    def __init__(self, machine: Folding[S], events: EventLog, stream: str) -> None:
        self.stream = stream
        self._machine = machine
        self._events = events
        self._fingerprint = fingerprint(machine)
        self._begin(self._fitting_snapshot())

    def _begin(self, snapshot: Snapshot | None) -> None:
        """Forget what was folded; start from `snapshot`, or from nothing."""
        self.state: S = self._machine.initial
        self.version = 0
        self.last_id: str | None = None
        """Id of the event at `version`; None when a snapshot is all that we know of it."""
        self._snapshot_version = 0
        self._failed: dict[str, int] = {}
        if snapshot is not None:
            self._restore(snapshot)

    def _fitting_snapshot(self) -> Snapshot | None:
        snapshot = self._events.load_snapshot(self.stream)
        return snapshot if snapshot is not None and snapshot.fingerprint == self._fingerprint else None

    def _restore(self, snapshot: Snapshot) -> None:
        try:
            kept = orjson.loads(snapshot.state)
            self.state = from_json(type(self._machine.initial), canonical(kept["state"]))
            self._failed = dict(kept["failed"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
            raise SnapshotUnreadable(
                f"{self.stream}: the snapshot at version {snapshot.version} holds a state that this version of "
                f"agentplane does not know ({type(error).__name__}); run the version that wrote it, or import the "
                "archived events"
            ) from None
        self.version = self._snapshot_version = snapshot.version

    def catch_up(self) -> None:
        """Fold what was appended since. Raises FutureEvent, SnapshotUnreadable, LogUnavailable."""
        for record in self._unfolded():
            event = self._machine.events.decode(record)
            self.state = self._machine.evolve(self.state, event, record.at)
            self.version, self.last_id = record.version, record.id
            self._count(event, record.cause)

    def _unfolded(self) -> list[Record]:
        """Return the records after our version, having begun anew where the log is not the one that was folded."""
        records = self._following()
        if records is None:
            self._begin(self._fitting_snapshot())
            records = self._following()
        if records is None:
            self._begin(None)
            records = self._events.read(self.stream)
        if not records or records[0].version == self.version + 1:
            return records
        snapshot = self._events.load_snapshot(self.stream)
        if snapshot is None or snapshot.version < records[0].version - 1:
            raise SnapshotUnreadable(
                f"{self.stream} begins at version {records[0].version} and has no snapshot of what came before; "
                "import the archived events"
            )
        self._begin(snapshot)
        return self._events.read(self.stream, self.version)

    def _following(self) -> list[Record] | None:
        """Return the records after our version, None when our last event is not in the log any more."""
        if self.version == 0:
            return self._events.read(self.stream)
        records = self._events.read(self.stream, self.version - 1)
        if not records:
            return None
        if records[0].version > self.version:
            return records  # ours was trimmed
        if self.last_id not in (None, records[0].id):
            return None
        self.last_id = records[0].id
        return records[1:]

    def _count(self, event: Event, cause: str | None) -> None:
        if isinstance(event, ActDeferred):
            self._failed[event.act] = event.attempt
        elif cause is not None:
            self._failed.pop(cause, None)

    def failures(self, act: str) -> int:
        """Return how often `act` was deferred since it last came through."""
        return self._failed.get(act, 0)

    def save(self, every: int = SNAPSHOT_EVERY) -> None:
        """Keep a snapshot where it saves reading at least `every` events."""
        if self.version - self._snapshot_version >= every:
            state = canonical({"state": to_json(self.state), "failed": self._failed})
            self._events.save_snapshot(
                Snapshot(stream=self.stream, version=self.version, fingerprint=self._fingerprint, state=state)
            )
            self._snapshot_version = self.version


_fingerprints: dict[tuple[str, type[State | Value]], str] = {}


def fingerprint(machine: Folding[Any]) -> str:
    """Return what a snapshot depends on: the machine, its code and the schema of its state."""
    file, state = inspect.getfile(machine.evolve), type(machine.initial)
    known = _fingerprints.get((file, state))
    if known is None:
        folders = {Path(file).parent, Path(inspect.getfile(state)).parent}
        sources = sorted((path.name, path.read_text()) for folder in folders for path in folder.glob("*.py"))
        known = _fingerprints[file, state] = digest([sources, schema(state)])
    return f"{machine.name}:{known}"
