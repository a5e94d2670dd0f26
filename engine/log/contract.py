"""What an event log promises. Both implementations pass the same test suite, `tests/contract`.

Theory of operation. A *stream* holds the events of one deployment or one LGP in consecutive versions; the *log of
everything* holds all of them by position. Appending is atomic and conditional on the version the appender had read,
so two writers can never interleave. An append also marks the stream *dirty*; a worker that has advanced the stream
settles it. Dirty is the outbox: a lost queue message costs one sweep, never a change. *Due* is the timer: a
stream that waits is put to a time, and turns dirty when the time has come. A *lock* lets one worker at a time advance a
stream; its fence is checked again inside every append and before every write to the outside, so a worker that
slept through its lock cannot add anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        `lock` is given and no longer held, LogUnavailable. An empty sequence appends nothing.
        """
        ...

    def read(self, stream: str, after: int = 0) -> list[Record]:
        """Return the records of `stream` with version > `after`, oldest first."""
        ...

    def read_all(self, after_position: int = 0, limit: int = 1000) -> list[Record]:
        """Return up to `limit` records of any stream with position > `after_position`, by position."""
        ...

    def tail(self, after_position: int | None = None, block: float = 1.0) -> Iterator[Record]:
        """Yield records as they are appended, for ever, from `after_position` (None: only what comes from now on).

        Waits at most `block` seconds inside the log at a time.
        """
        ...

    def version(self, stream: str) -> int:
        """Return the version of the last event of `stream`, 0 when it has none."""
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

    # --- outbox and timers

    def mark_dirty(self, stream: str) -> None:
        """Mark `stream` dirty through its current version."""
        ...

    def settle(self, stream: str, version: int) -> bool:
        """Take `stream` from the dirty set if nothing was appended after `version`; return whether it is clean now."""
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
        """Make `stream` dirty at `at` (UTC). One timer a stream: the last call wins."""
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

    def save_snapshot(self, snapshot: Snapshot) -> None: ...

    def load_snapshot(self, stream: str) -> Snapshot | None: ...

    def drop_snapshots(self) -> int:
        """Delete every snapshot that no trimmed stream depends on; return how many."""
        ...
