"""What an event log promises. Both implementations pass the same test suite, `tests/contract`.

Theory of operation. A *stream* holds the events of one deployment or one LGP in consecutive versions; the *log of
everything* holds all of them by position. Appending is atomic and conditional on the version the appender had read,
so two writers can never interleave. An append also marks the stream *dirty*; a worker that has advanced the stream
settles it. Dirty is the outbox: a lost queue message costs one sweep, never a change. *Due* is the timer: a
stream that waits is put to a time, and turns dirty when the time has come. A *lock* lets one worker at a time advance a
stream; it is checked again inside every append and before every write to the outside, so a worker that
slept through its lock cannot add anything.

Why a lost wake-up is impossible. Every demand to look at a stream (an append, a timer that ran out, `mark_dirty`)
leaves a *mark* with a number of its own on the stream. A worker reads the mark before it reads the events, and
`settle`, in one atomic step, cleans the stream only if neither events nor marks were added since, and sets the
stream's one timer. So a stream is at any time dirty, or clean with exactly the timer that its last decision asked for.

When Redis comes back without its last second (`appendfsync everysec` and a crash), or a replica without the newest
takes the place of its master, the log is what it was a moment earlier, as a whole: every operation is one transaction
in the append-only file and on its way to replicas. Counters, marks, timers and locks go back together with the events.
What happened in the lost moment happens again: a stream that was dirty then is dirty again, its acts are idempotent,
and polls and watches compare with the log rather than with their memory, which they drop when `history` tells them
that the log was taken back. A worker that lived through it may be *ahead* of the log: append answers with
ConcurrencyConflict whose `actual` is the smaller one, `settle` answers False, `save_snapshot` ignores it; the worker
folds anew. Positions, versions and fences that were lost are used again for other events: what identifies an event is
its `id`, which a fold and `settle` compare, and what identifies a lock is its token.
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
    """A folded state at a version. A cache: losing it costs time only (unless the stream was trimmed up to it)."""

    stream: str
    version: int
    fingerprint: str
    """Of the code that folded it (machine name and state schema); another fingerprint is ignored."""
    state: bytes
    """Canonical JSON."""


class Lock(Protocol):
    """A held lock on one stream."""

    @property
    def stream(self) -> str: ...

    @property
    def fence(self) -> int:
        """Grows with every acquisition of any lock of this log."""
        ...

    @property
    def token(self) -> str:
        """Names this acquisition and no other; what the log compares."""
        ...

    def keep(self) -> None:
        """Prove that the lock is still ours and extend it by its full term.

        Raises LockLost. Called before every write to the outside.
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
        """Append `events` with consecutive versions and mark the stream dirty; return the new version.

        All or nothing. Raises ConcurrencyConflict when the stream is not at `expected_version`, LockLost when
        `lock` is given and no longer held, LogUnavailable. An empty sequence appends nothing and returns
        `expected_version`. After LogUnavailable the events may have been appended all the same.
        """
        ...

    def read(self, stream: str, after: int = 0) -> list[Record]:
        """Return the records of `stream` with version > `after`, oldest first."""
        ...

    def read_many(self, after: Mapping[str, int]) -> dict[str, list[Record]]:
        """`read` of many streams at once, pipelined: the version to read after, by stream."""
        ...

    def read_all(self, after_position: int = 0, limit: int = 1000) -> list[Record]:
        """Return up to `limit` records of any stream with position > `after_position`, by position."""
        ...

    def tail(
        self, after_position: int | None = None, block: float = 1.0, until: Callable[[], bool] | None = None
    ) -> Iterator[Record]:
        """Yield records as they are appended, for ever, from `after_position` (None: only what comes from now on).

        Waits at most `block` seconds inside the log at a time, and ends when `until`, asked between two waits, says
        True. Goes on after an outage of Redis. Positions that a Redis without its last second gives out anew are
        yielded as the new records that they are, unless more came within one wait than were lost.
        """
        ...

    def head(self) -> int:
        """Return the position of the last event of the log, 0 when it has none."""
        ...

    def history(self) -> str:
        """Name the history that the log is in.

        Another name than before says that Redis was started again, or that another server took its place, so that
        the newest of the log may be gone: whoever remembers what the log knows looks again.
        """
        ...

    def version(self, stream: str) -> int:
        """Return the version of the last event of `stream`, 0 when it has none."""
        ...

    def versions(self, prefix: str = "") -> dict[str, int]:
        """Return the version of every stream that starts with `prefix`, in one round trip."""
        ...

    def streams(self, prefix: str = "") -> list[str]:
        """Return the names of all streams that start with `prefix`, sorted."""
        ...

    def lock(self, stream: str, term: float) -> AbstractContextManager[Lock]:
        """Hold the lock of `stream` for `term` seconds unless kept; released at the end of the block.

        Raises LockHeld at once (no waiting) when another holds it.
        """
        ...

    def locked(self, stream: str) -> bool:
        """Whether any worker holds the lock of `stream` now."""
        ...

    # --- presence

    def announce(self, name: str, term: float) -> None:
        """Leave a sign that a process called `name` is there, for `term` seconds. It is no event, and may be lost."""
        ...

    def announced(self, name: str) -> bool:
        """Whether a process called `name` has left a sign whose term has not run out."""
        ...

    # --- outbox and timers

    def mark_dirty(self, stream: str) -> None:
        """Ask for `stream` to be looked at (again), whatever its version."""
        ...

    def work_token(self, stream: str) -> int:
        """Return the number of the stream's mark, 0 when it is clean. Read before the events, given to `settle`."""
        ...

    def acknowledge(
        self,
        stream: str,
        version: int,
        *,
        mark: int | None = None,
        last: str | None = None,
        until: datetime | None = None,
        lock: Lock | None = None,
    ) -> bool:
        """Clean `stream` and set its timer to `until` (None: no timer), atomically, if nothing came in between.

        That is: if the stream is at `version` exactly, (unless `mark` is None) its mark is still `mark`, and (unless
        `last` is None) its last event has that id. Returns whether it was so; False changes nothing, and the caller
        looks again. Raises LockLost when `lock` is given and no longer held.
        """
        ...

    def take_dirty(self, older_than: float, limit: int = 1000) -> list[str]:
        """Return dirty streams that were marked or last returned by this call more than `older_than` seconds ago.

        Each returned stream's age starts anew, so that a sweep does not return it again at once.
        """
        ...

    def dirty(self) -> list[str]:
        """Return all dirty streams, oldest mark first."""
        ...

    def schedule(self, stream: str, at: datetime) -> None:
        """Make `stream` dirty at `at` (UTC). One timer a stream: the last call (or `settle`) wins."""
        ...

    def unschedule(self, stream: str) -> None:
        """Forget the timer of `stream`."""
        ...

    def take_due(self, now: datetime, limit: int = 1000) -> list[str]:
        """Atomically turn every timer at or before `now` into a dirty mark; return those streams."""
        ...

    def due(self) -> list[tuple[str, datetime]]:
        """Return all timers, soonest first."""
        ...

    # --- snapshots and retention

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """Keep `snapshot` in place of an older one.

        Ignored when it is ahead of its stream, or older than what was trimmed from it, or (with the same
        fingerprint) older than the one that is kept.
        """
        ...

    def load_snapshot(self, stream: str) -> Snapshot | None: ...

    def drop_snapshots(self) -> int:
        """Delete every snapshot that no trimmed stream depends on; return how many."""
        ...

    def trimmed(self) -> dict[str, int]:
        """Return, for each stream that lost its oldest events to `trim`, the version of the last one that went."""
        ...

    def trim(self, stream: str, through: int) -> int:
        """Delete the events of `stream` up to version `through`; return how many there were. Idempotent.

        Raises TrimRefused when the stream has no snapshot at `through` or later, or no event after it: the last event
        stays, so that a gap before it shows that the stream was trimmed.
        """
        ...

    def forget(self, stream: str, version: int) -> int:
        """Delete everything about `stream`, which is clean and at `version`; return how many events there were.

        Raises TrimRefused when it is dirty, locked or at another version.
        """
        ...

    # --- import

    def restore(self, records: Sequence[Record]) -> None:
        """Add records as they are (ids, versions, positions, times) and mark their streams dirty. All or nothing.

        They must be in order of position, after the head of the log, and each the next version of its stream.
        Raises ImportRefused.
        """
        ...

    def restore_trimmed(self, snapshot: Snapshot, through: int) -> None:
        """Make a stream that does not exist yet begin after version `through`, on the strength of `snapshot`.

        Raises ImportRefused when the stream exists.
        """
        ...
