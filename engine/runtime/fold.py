"""Folding the events of a stream into a state, from a snapshot if one fits.

A snapshot is a cache. A fold uses a snapshot only if the code that reads it would have folded the same state: the
snapshot's fingerprint covers the schema of the state and the source of the fold (`fingerprint`). There is one
exception: the snapshot of a trimmed stream is all that is left of the trimmed events. A fold uses such a snapshot of
older code if the current class of the state can read it.

A `Fold` lives longer than one read, and the log may change meanwhile: a Redis that lost its last second has fewer
events than were folded, or other events in their place. So a fold remembers the id of its last event and reads that
event again each time. If the event is no longer there, the fold starts again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import orjson
from pydantic import ValidationError

from engine.digests import canonical, digest
from engine.errors import AgentplaneError, FutureEvent, SnapshotUnreadable
from engine.event import Event, Record, Registry
from engine.log.contract import EventLog, Snapshot
from engine.runtime.backoff import ActDeferred
from engine.runtime.values import Value, from_json, schema, to_json

S = TypeVar("S", bound=Value)

SNAPSHOT_EVERY = 50
"""Number of events after which a fold saves a new snapshot."""


class Folding(Protocol[S]):
    """How the events of one kind of stream are folded: the part of a machine that a fold needs."""

    @property
    def name(self) -> str: ...

    @property
    def events(self) -> Registry: ...

    @property
    def initial(self) -> S: ...

    def evolve(self, state: S, event: Event, at: datetime, /) -> S: ...


AnyFolding: TypeAlias = Folding[Any]
"""The folding of some kind of stream."""


@dataclass(frozen=True)
class StreamKind(Generic[S]):
    """A folding without a machine: enough to read streams, without the configuration of a component."""

    name: str
    """Name of the component."""
    prefix: str
    """What the names of the streams start with."""
    events: Registry
    initial: S
    evolve: Callable[[S, Event, datetime], S]


def fold_records(
    folding: Folding[S], events: EventLog, stream: str, records: Sequence[Record]
) -> tuple[S, AgentplaneError | None]:
    """Fold `records`, all that the log has of `stream`; return the state, and the error that ended the fold early.

    A trimmed stream starts from its snapshot. The error is FutureEvent, SnapshotUnreadable or None. Raises
    LogUnavailable.
    """
    state, version = folding.initial, 0
    try:
        if records and records[0].version > 1:
            snapshot = _beginning(events, stream, records[0].version)
            state, version = _restored(folding, snapshot)[0], snapshot.version
        for record in records:
            if record.version > version:
                state = folding.evolve(state, folding.events.decode(record), record.at)
    except (FutureEvent, SnapshotUnreadable) as error:
        return state, error
    return state, None


class Fold(Generic[S]):
    """The state of one stream; `catch_up` brings it up to date with the log."""

    def __init__(self, folding: Folding[S], events: EventLog, stream: str) -> None:
        self.stream = stream
        self._folding = folding
        self._events = events
        self._fingerprint = fingerprint(folding)
        self._start_from(self._fitting_snapshot())

    def _start_from(self, snapshot: Snapshot | None) -> None:
        """Discard the state; start from `snapshot`, or (None) from the first event."""
        self.state: S = self._folding.initial
        self.version = 0
        self.last_id: str | None = None
        """Id of the event at `version`; None when the fold knows that version from a snapshot only."""
        self._failures: dict[str, int] = {}
        if snapshot is not None:
            self.state, self._failures = _restored(self._folding, snapshot)
            self.version = snapshot.version
        self._snapshot_version = self.version

    def _fitting_snapshot(self) -> Snapshot | None:
        snapshot = self._events.load_snapshot(self.stream)
        return snapshot if snapshot is not None and snapshot.fingerprint == self._fingerprint else None

    def catch_up(self) -> None:
        """Fold the events that were appended since the last call.

        Raises FutureEvent, SnapshotUnreadable, LogUnavailable.
        """
        for record in self._unfolded():
            event = self._folding.events.decode(record)
            self.state = self._folding.evolve(self.state, event, record.at)
            self.version, self.last_id = record.version, record.id
            self._count_failures(event, record.cause)

    def _unfolded(self) -> list[Record]:
        """Return the records after `version`; start again first if the log is not the one that was folded."""
        records = self._following()
        if records is None:
            self._start_from(self._fitting_snapshot())
            records = self._following()
        if records is None:
            self._start_from(None)
            records = self._events.read(self.stream)
        if not records or records[0].version == self.version + 1:
            return records
        self._start_from(_beginning(self._events, self.stream, records[0].version))
        return self._events.read(self.stream, self.version)

    def _following(self) -> list[Record] | None:
        """Return the records after `version`; None if the last folded event is no longer in the log."""
        if self.version == 0:
            return self._events.read(self.stream)
        records = self._events.read(self.stream, self.version - 1)
        if not records:
            return None
        if records[0].version > self.version:
            return records  # the last folded event was trimmed
        if self.last_id not in (None, records[0].id):
            return None
        self.last_id = records[0].id
        return records[1:]

    def _count_failures(self, event: Event, cause: str | None) -> None:
        if isinstance(event, ActDeferred):
            self._failures[event.act] = event.attempt
        elif cause is not None:
            self._failures.pop(cause, None)

    def failures(self, act: str) -> int:
        """Return how many times in a row `act` was deferred."""
        return self._failures.get(act, 0)

    def save(self, every: int = SNAPSHOT_EVERY) -> None:
        """Save a snapshot if at least `every` events were folded since the last one."""
        if self.version - self._snapshot_version >= every:
            state = canonical({"state": to_json(self.state), "failed": self._failures})
            self._events.save_snapshot(
                Snapshot(stream=self.stream, version=self.version, fingerprint=self._fingerprint, state=state)
            )
            self._snapshot_version = self.version


AnyFold: TypeAlias = Fold[Any]
"""The fold of some kind of stream."""


def _beginning(events: EventLog, stream: str, first: int) -> Snapshot:
    """Return the snapshot of a trimmed stream whose first remaining event has version `first`."""
    snapshot = events.load_snapshot(stream)
    if snapshot is None or snapshot.version < first - 1:
        raise SnapshotUnreadable(
            f"{stream} begins at version {first} and has no snapshot of what came before; import the archived events"
        )
    return snapshot


def _restored(folding: Folding[S], snapshot: Snapshot) -> tuple[S, dict[str, int]]:
    """Return the state and the failures of acts in `snapshot`. Raises SnapshotUnreadable."""
    try:
        saved = orjson.loads(snapshot.state)
        return from_json(type(folding.initial), canonical(saved["state"])), dict(saved["failed"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        raise SnapshotUnreadable(
            f"{snapshot.stream}: this version of agentplane cannot read the state in the snapshot at version "
            f"{snapshot.version} ({type(error).__name__}); run the version that wrote the snapshot, or import the "
            "archived events"
        ) from None


SHARED_RULES = (Path(__file__).parent, Path(__file__).parents[1] / "kubernetes")
"""Folders with code that the folds of both components use."""

_fingerprints: dict[tuple[str, type[Value]], str] = {}


def fingerprint(folding: AnyFolding) -> str:
    """Return what a snapshot depends on: the name of the machine, the source of its fold and the schema of its state.

    The source is the folder of the machine, that of its state, and the folders with the rules that both components
    share: dispatch, deferrals and retries (this folder), fingerprints and repairs (`engine/kubernetes`).
    """
    file, state = inspect.getfile(folding.evolve), type(folding.initial)
    known = _fingerprints.get((file, state))
    if known is None:
        folders = {Path(file).parent, Path(inspect.getfile(state)).parent, *SHARED_RULES}
        sources = sorted((path.name, path.read_text()) for folder in folders for path in folder.glob("*.py"))
        known = _fingerprints[file, state] = digest([sources, schema(state)])
    return f"{folding.name}:{known}"
