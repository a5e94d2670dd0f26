"""The event log in memory, for tests and for the replay of an exported log. The contract is that of the log in Redis.

Every operation holds one mutex, so it is as atomic as a script in Redis. Event data is encoded to JSON and decoded, so
that data which Redis could not store fails here too. All times, those of locks included, are those of the given clock:
a test that moves its clock moves all of them.
"""

from __future__ import annotations

import secrets
import threading
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

import orjson

from engine.clock import SystemClock
from engine.errors import ConcurrencyConflict, ImportRefused, LockHeld, LockLost, TrimRefused
from engine.event import Event, Record
from engine.log.contract import Lock, Snapshot
from engine.log.envelope import from_micros, new_id, to_micros
from engine.ports import Clock


@dataclass(frozen=True, slots=True)
class _Held:
    """The token of the acquisition that holds a lock, and when the lock expires (microseconds)."""

    token: str
    until: int


class MemoryLock:
    """The lock of one stream of a MemoryLog, while it is held."""

    def __init__(self, events: MemoryLog, stream: str, fence: int, ttl: float) -> None:
        self.stream = stream
        self.fence = fence
        self.token = secrets.token_hex(16)
        self._events = events
        self._ttl = ttl

    def keep(self) -> None:
        self._events.prove(self, extend_by=self._ttl)


class MemoryLog:
    """An EventLog in this process. Threads can share it."""

    def __init__(self, clock: Clock | None = None, new_id: Callable[[], str] = new_id) -> None:
        self._clock = clock or SystemClock()
        self._new_id = new_id
        self._mutex = threading.RLock()
        self._appended = threading.Condition(self._mutex)
        self._streams: dict[str, list[Record]] = defaultdict(list)
        self._all: list[Record] = []
        self._versions: dict[str, int] = {}
        self._position = 0
        self._locks: dict[str, _Held] = {}
        self._fence = 0
        self._present: dict[str, int] = {}
        """Name of a process → when its announcement expires (microseconds)."""
        self._dirty: dict[str, int] = {}
        """Stream → when it became dirty, or `take_dirty` last returned it (microseconds)."""
        self._work_tokens: dict[str, int] = {}
        self._work_token = 0
        self._due: dict[str, int] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._trimmed: dict[str, int] = {}

    def _now(self) -> int:
        return to_micros(self._clock.now())

    # --- events

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
        if not events:
            return expected_version
        datas = [orjson.loads(orjson.dumps(event.model_dump(mode="json"))) for event in events]
        with self._mutex:
            if lock is not None:
                self.prove(lock)
            version = self._versions.get(stream, 0)
            if version != expected_version:
                raise ConcurrencyConflict(stream, expected_version, version)
            at = from_micros(self._now())
            self._store(
                Record(
                    id=self._new_id(),
                    stream=stream,
                    version=version + number,
                    position=self._position + number,
                    type=event.type,
                    schema_version=event.schema_version,
                    at=at,
                    actor=actor,
                    cause=cause,
                    data=data,
                )
                for number, (event, data) in enumerate(zip(events, datas, strict=True), 1)
            )
            return self._versions[stream]

    def _store(self, records: Iterator[Record]) -> None:
        for record in list(records):
            self._streams[record.stream].append(record)
            self._all.append(record)
            self._versions[record.stream] = record.version
            self._position = record.position
            self._make_dirty(record.stream)
        self._appended.notify_all()

    def read(self, stream: str, after: int = 0) -> list[Record]:
        with self._mutex:
            records = self._streams.get(stream, [])
            return records[bisect_right(records, after, key=lambda record: record.version) :]

    def read_many(self, after: Mapping[str, int]) -> dict[str, list[Record]]:
        with self._mutex:
            return {stream: self.read(stream, version) for stream, version in after.items()}

    def read_all(self, after_position: int = 0, limit: int = 1000) -> list[Record]:
        with self._mutex:
            start = bisect_right(self._all, after_position, key=lambda record: record.position)
            return self._all[start : start + limit]

    def tail(
        self, after_position: int | None = None, block: float = 1.0, until: Callable[[], bool] | None = None
    ) -> Iterator[Record]:
        position = self.head() if after_position is None else after_position
        return self._tail(position, block, until)

    def _tail(self, position: int, block: float, until: Callable[[], bool] | None) -> Iterator[Record]:
        while until is None or not until():
            with self._mutex:
                if self._position <= position:
                    self._appended.wait(block)
                records = self.read_all(position)
            for record in records:
                position = record.position
                yield record

    def head(self) -> int:
        with self._mutex:
            return self._position

    def history(self) -> str:
        return "the only one"

    def version(self, stream: str) -> int:
        with self._mutex:
            return self._versions.get(stream, 0)

    def versions(self, prefix: str = "") -> dict[str, int]:
        with self._mutex:
            return {stream: version for stream, version in self._versions.items() if stream.startswith(prefix)}

    def streams(self, prefix: str = "") -> list[str]:
        return sorted(self.versions(prefix))

    # --- locks

    @contextmanager
    def lock(self, stream: str, ttl: float) -> Iterator[Lock]:
        with self._mutex:
            if self.locked(stream):
                raise LockHeld(f"another worker holds the lock of {stream}")
            self._fence += 1
            lock = MemoryLock(self, stream, self._fence, ttl)
            self._locks[stream] = _Held(lock.token, self._now() + round(ttl * 1e6))
        try:
            yield lock
        finally:
            with self._mutex:
                held = self._locks.get(stream)
                if held is not None and held.token == lock.token:
                    del self._locks[stream]

    def locked(self, stream: str) -> bool:
        with self._mutex:
            held = self._locks.get(stream)
            return held is not None and held.until > self._now()

    def prove(self, lock: Lock, extend_by: float | None = None) -> None:
        """Raise LockLost unless `lock` is held; extend it to `extend_by` seconds from now."""
        with self._mutex:
            held = self._locks.get(lock.stream)
            if held is None or held.token != lock.token or held.until <= self._now():
                raise LockLost(f"the lock of {lock.stream} (fence {lock.fence}) expired, or another worker holds it")
            if extend_by is not None:
                self._locks[lock.stream] = replace(held, until=self._now() + round(extend_by * 1e6))

    # --- presence

    def announce(self, name: str, ttl: float) -> None:
        with self._mutex:
            self._present[name] = self._now() + round(ttl * 1e6)

    def announced(self, name: str) -> bool:
        with self._mutex:
            return self._present.get(name, 0) > self._now()

    # --- outbox and timers

    def _make_dirty(self, stream: str) -> None:
        """Make `stream` dirty, with a new work token, unless it is dirty."""
        if stream not in self._dirty:
            self._dirty[stream] = self._now()
            self._new_token(stream)

    def _new_token(self, stream: str) -> None:
        self._work_token += 1
        self._work_tokens[stream] = self._work_token

    def mark_dirty(self, stream: str) -> None:
        with self._mutex:
            self._dirty.setdefault(stream, self._now())
            self._new_token(stream)

    def work_token(self, stream: str) -> int:
        with self._mutex:
            return self._work_tokens.get(stream, 0)

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
        with self._mutex:
            if lock is not None:
                self.prove(lock)
            if self._versions.get(stream, 0) != version or (work_token not in (None, self.work_token(stream))):
                return False
            if last is not None and [record.id for record in self.read(stream, version - 1)] != [last]:
                return False
            self._dirty.pop(stream, None)
            self._work_tokens.pop(stream, None)
            self._due.pop(stream, None)
            if until is not None:
                self._due[stream] = to_micros(until)
            return True

    def take_dirty(self, older_than: float, limit: int = 1000) -> list[str]:
        with self._mutex:
            now = self._now()
            oldest = now - round(older_than * 1e6)
            taken = [stream for stream in self.dirty() if self._dirty[stream] <= oldest][:limit]
            self._dirty.update(dict.fromkeys(taken, now))
            return taken

    def dirty(self) -> list[str]:
        with self._mutex:
            return sorted(self._dirty, key=lambda stream: (self._dirty[stream], stream))

    def schedule(self, stream: str, at: datetime) -> None:
        with self._mutex:
            self._due[stream] = to_micros(at)

    def unschedule(self, stream: str) -> None:
        with self._mutex:
            self._due.pop(stream, None)

    def take_due(self, now: datetime, limit: int = 1000) -> list[str]:
        with self._mutex:
            taken = [stream for stream, at in self.due() if at <= now][:limit]
            for stream in taken:
                del self._due[stream]
                self.mark_dirty(stream)
            return taken

    def due(self) -> list[tuple[str, datetime]]:
        with self._mutex:
            timers = sorted(self._due.items(), key=lambda timer: (timer[1], timer[0]))
            return [(stream, from_micros(at)) for stream, at in timers]

    # --- snapshots and retention

    def save_snapshot(self, snapshot: Snapshot) -> None:
        with self._mutex:
            stream = snapshot.stream
            kept = self._snapshots.get(stream)
            if kept is not None and kept.fingerprint == snapshot.fingerprint and kept.version > snapshot.version:
                return
            if self._trimmed.get(stream, 0) <= snapshot.version <= self._versions.get(stream, 0):
                self._snapshots[stream] = snapshot

    def load_snapshot(self, stream: str) -> Snapshot | None:
        with self._mutex:
            return self._snapshots.get(stream)

    def drop_snapshots(self) -> int:
        with self._mutex:
            dropped = [stream for stream in self._snapshots if stream not in self._trimmed]
            for stream in dropped:
                del self._snapshots[stream]
            return len(dropped)

    def trimmed(self) -> dict[str, int]:
        with self._mutex:
            return dict(self._trimmed)

    def trim(self, stream: str, through: int) -> int:
        with self._mutex:
            snapshot = self._snapshots.get(stream)
            last = min(snapshot.version if snapshot else 0, self._versions.get(stream, 0) - 1)
            if last < through:
                raise TrimRefused(f"stream {stream} can be trimmed up to version {last}, not up to {through}")
            gone = [record for record in self._streams.get(stream, []) if record.version <= through]
            if gone:
                self._remove(gone)
                self._trimmed[stream] = gone[-1].version
            return len(gone)

    def forget(self, stream: str, version: int) -> int:
        with self._mutex:
            actual = self._versions.get(stream, 0)
            if actual != version or stream in self._dirty or self.locked(stream):
                raise TrimRefused(f"stream {stream} is dirty, locked, or at version {actual} instead of {version}")
            gone = list(self._streams.get(stream, []))
            self._remove(gone)
            for kept in (self._streams, self._versions, self._due, self._snapshots, self._trimmed):
                kept.pop(stream, None)
            return len(gone)

    def _remove(self, gone: Sequence[Record]) -> None:
        positions = {record.position for record in gone}
        for name in {record.stream for record in gone}:
            self._streams[name] = [record for record in self._streams[name] if record.position not in positions]
        self._all = [record for record in self._all if record.position not in positions]

    # --- import

    def restore(self, records: Sequence[Record]) -> None:
        with self._mutex:
            versions, position = dict(self._versions), self._position
            for record in records:
                if record.version != versions.get(record.stream, 0) + 1:
                    at = versions.get(record.stream, 0)
                    raise ImportRefused(f"{record.stream} version {record.version} cannot follow version {at}")
                if record.position <= position:
                    raise ImportRefused(f"{record.stream}: position {record.position} cannot follow {position}")
                versions[record.stream], position = record.version, record.position
            self._store(iter(records))

    def restore_trimmed(self, snapshot: Snapshot, through: int) -> None:
        with self._mutex:
            if snapshot.stream in self._versions:
                raise ImportRefused(f"stream {snapshot.stream} exists; a trimmed stream cannot replace it")
            self._versions[snapshot.stream] = self._trimmed[snapshot.stream] = through
            self._snapshots[snapshot.stream] = snapshot
            self._make_dirty(snapshot.stream)
