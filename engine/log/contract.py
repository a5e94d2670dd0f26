"""The contract of an event log. Both implementations pass the same test suite, `tests/contract`.

Theory of operation. A *stream* holds the events of one deployment or one LGP in consecutive versions. The *log of
everything* holds the events of all streams by position. An append is atomic, and conditional on the version that the
appender has read, so the events of two writers never interleave. An append also makes the stream *dirty*; a worker
that has advanced the stream acknowledges it, which makes it clean. Dirty streams are the outbox: a lost queue message
costs one sweep, never a change. Timers make streams *due*: a stream that waits has a timer, and becomes dirty at that
time. A *lock* lets one worker at a time advance a stream. The log checks the lock in every append, and the worker
checks it before every write to a peer, so a worker that was suspended past the lock's TTL cannot write.

Why no wake-up is lost. A stream that becomes dirty (by an append, by its timer or by `mark_dirty`) gets a *work token*,
a new number. A timer and `mark_dirty` also give a dirty stream a new one; an append raises its version. A worker reads
the work token before it reads the events. `acknowledge` makes the stream clean and sets its one timer, in one atomic
step, only if there are no newer events and the work token is the same. So a stream is either dirty, or clean with
exactly the timer that the last decision asked for.

What happens when Redis loses its last second (`appendfsync everysec` and a crash; or a failover to a replica that
lacks the newest events). Every operation is one transaction in the append-only file and in replication. So the log as a
whole returns to an earlier state: counters, work tokens, timers and locks go back together with the events. The lost
work is done again: a stream that was dirty at that time is dirty again, and acts are idempotent. Polls and watches
compare the peers with the log. They drop what they remember when `history` reports that the log went back. A worker
that runs through such a loss may be *ahead* of the log: `append` raises ConcurrencyConflict with a smaller `actual`,
`acknowledge` returns False, `save_snapshot` does nothing, and the worker folds again from the start. Lost positions,
versions and fences are used again for other events. So an event is identified by its `id`, which folds and
`acknowledge` compare, and a lock by its token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from engine.event import Event, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A folded state at a version. A cache: the loss of a snapshot costs time only, unless its stream was trimmed."""

    stream: str
    version: int
    fingerprint: str
    """Of the code that folded the state; a fold ignores a snapshot with another fingerprint."""
    state: bytes
    """The state and the failures of its acts, as canonical JSON."""


class Lock(Protocol):
    """The lock of one stream, while it is held."""

    @property
    def stream(self) -> str: ...

    @property
    def fence(self) -> int:
        """A number that grows with every acquisition of any lock of this log."""
        ...

    @property
    def token(self) -> str:
        """The unique name of this acquisition; the log compares it."""
        ...

    def keep(self) -> None:
        """Verify that the lock is still held, and extend it by its full TTL.

        Call it before every write to a peer. Raises LockLost, LogUnavailable.
        """
        ...


class EventLog(Protocol):
    """Atomic, conditional append; reads; dirty and due sets; locks; snapshots."""

    def append(
        self,
        stream: str,
        expected_version: int,
        events: Sequence[Event],
        *,
        actor: str,
        cause: str | None = None,
        lock: Lock | None = None,
    ) -> int:
        """Append `events` with consecutive versions and make the stream dirty; return the new version.

        All or nothing. Raises ConcurrencyConflict when the stream is not at `expected_version`, LockLost when `lock` is
        given and no longer held, LogUnavailable. An empty sequence appends nothing and returns `expected_version`.
        After LogUnavailable, the events may have been appended or not.
        """
        ...

    def read(self, stream: str, after: int = 0) -> list[Record]:
        """Return the records of `stream` with version > `after`, oldest first."""
        ...

    def read_many(self, after: Mapping[str, int]) -> dict[str, list[Record]]:
        """Read many streams in one round trip. `after` has the version to read after, by stream."""
        ...

    def read_all(self, after_position: int = 0, limit: int = 1000) -> list[Record]:
        """Return up to `limit` records of any stream with position > `after_position`, by position."""
        ...

    def tail(
        self, after_position: int | None = None, block: float = 1.0, until: Callable[[], bool] | None = None
    ) -> Iterator[Record]:
        """Yield records as they are appended, forever, from `after_position` (None: only records appended from now on).

        Each wait inside the log lasts at most `block` seconds. The iteration ends when `until`, called between two
        waits, returns True. It continues after an outage of Redis. When Redis has lost its last second and assigns
        positions again, the new records are yielded, unless more events were appended within one wait than were lost.
        """
        ...

    def head(self) -> int:
        """Return the position of the last event of the log; 0 for an empty log."""
        ...

    def history(self) -> str:
        """Return the name of the log's current history.

        A changed name means that Redis was restarted or replaced, so that the newest events may be lost. A caller that
        remembers what it read from the log then reads again.
        """
        ...

    def version(self, stream: str) -> int:
        """Return the version of the last event of `stream`; 0 for an empty stream."""
        ...

    def versions(self, prefix: str = "") -> dict[str, int]:
        """Return the version of every stream that starts with `prefix`, in one round trip."""
        ...

    def streams(self, prefix: str = "") -> list[str]:
        """Return the names of all streams that start with `prefix`, sorted."""
        ...

    def lock(self, stream: str, ttl: float) -> AbstractContextManager[Lock]:
        """Hold the lock of `stream` in a block, for `ttl` seconds from the last `keep`.

        Raises LockHeld at once, without waiting, when another holder has the lock.
        """
        ...

    def locked(self, stream: str) -> bool:
        """Whether a worker holds the lock of `stream` now."""
        ...

    # --- presence

    def announce(self, name: str, ttl: float) -> None:
        """Record for `ttl` seconds that a process called `name` is alive. The record is no event, and may be lost."""
        ...

    def announced(self, name: str) -> bool:
        """Whether a process called `name` announced itself, and the TTL of that has not passed."""
        ...

    # --- outbox and timers

    def mark_dirty(self, stream: str) -> None:
        """Make `stream` dirty, with a new work token, whatever its version."""
        ...

    def work_token(self, stream: str) -> int:
        """Return the work token of `stream`, 0 when it is clean. Read it before the events; `acknowledge` takes it."""
        ...

    def acknowledge(
        self,
        stream: str,
        version: int,
        *,
        work_token: int | None = None,
        last: str | None = None,
        until: datetime | None = None,
        lock: Lock | None = None,
    ) -> bool:
        """Make `stream` clean and set its timer to `until` (None: no timer), atomically, unless there is newer work.

        The conditions: the stream is at `version`; its work token is `work_token` (unless that is None); its last event
        has the id `last` (unless that is None). Returns whether they held. False changes nothing; the caller reads and
        decides again. Raises LockLost when `lock` is given and no longer held.
        """
        ...

    def take_dirty(self, older_than: float, limit: int = 1000) -> list[str]:
        """Return streams that became dirty, or were last returned by this call, more than `older_than` seconds ago.

        The age of each returned stream starts again, so that the next sweep does not return it at once.
        """
        ...

    def dirty(self) -> list[str]:
        """Return all dirty streams, the longest dirty first."""
        ...

    def schedule(self, stream: str, at: datetime) -> None:
        """Make `stream` dirty at `at` (UTC). A stream has one timer; the last call (or `acknowledge`) sets it."""
        ...

    def unschedule(self, stream: str) -> None:
        """Remove the timer of `stream`."""
        ...

    def take_due(self, now: datetime, limit: int = 1000) -> list[str]:
        """Atomically make the streams whose timer is at or before `now` dirty; return them."""
        ...

    def due(self) -> list[tuple[str, datetime]]:
        """Return all timers, soonest first."""
        ...

    # --- snapshots and retention

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """Replace the snapshot of the stream by `snapshot`.

        Does nothing when `snapshot` is ahead of its stream, older than the events that were trimmed from the stream, or
        (with the same fingerprint) older than the current snapshot.
        """
        ...

    def load_snapshot(self, stream: str) -> Snapshot | None:
        """Return the snapshot of `stream`; None when there is none."""
        ...

    def drop_snapshots(self) -> int:
        """Delete the snapshots of all streams that were not trimmed; return their number."""
        ...

    def trimmed(self) -> dict[str, int]:
        """Return, for each trimmed stream, the version of the last event that was trimmed."""
        ...

    def trim(self, stream: str, through: int) -> int:
        """Delete the events of `stream` up to version `through`; return their number. Idempotent.

        Raises TrimRefused when the stream has no snapshot at `through` or later, or no event after `through`. (The last
        event stays: the gap before the first remaining event shows that the stream was trimmed.)
        """
        ...

    def forget(self, stream: str, version: int) -> int:
        """Delete a clean `stream` at `version` with its timer and snapshot; return the number of its events.

        Raises TrimRefused when the stream is dirty, locked or at another version.
        """
        ...

    # --- import

    def restore(self, records: Sequence[Record]) -> None:
        """Add records with their ids, versions, positions and times; make their streams dirty. All or nothing.

        The records must be in order of position, after the head of the log, and each must be the next version of its
        stream. Raises ImportRefused otherwise.
        """
        ...

    def restore_trimmed(self, snapshot: Snapshot, through: int) -> None:
        """Create a stream that begins after version `through`; `snapshot` stands for the events before.

        Raises ImportRefused when the stream exists.
        """
        ...
