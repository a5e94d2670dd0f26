"""The objects, their resourceVersions and the recent history from which watches resume.

The process has one event loop, and every write is a synchronous call that ends before the next one begins. Writes are
therefore atomic without transactions. A write never changes a stored value, it replaces the `Stored`: a paged list or a
watch that still holds the old one keeps a consistent state at no cost. Each write goes to SQLite at once (WAL, no
fsync): the state survives a killed process, but perhaps not a power failure.

`resourceVersion` is one counter for all resources. The store keeps the last `history` events of each resource; a watch
from an older version gets `expired`, as from a compacted etcd. History is only in memory: after a restart, all earlier
versions count as compacted.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from sandbox.kubernetes.status import expired

Object = dict[str, Any]
EventType = Literal["ADDED", "MODIFIED", "DELETED"]

SLOW_WATCHER = 50_000
"""Undelivered events at which the store ends a watch; the client then resumes from its last version."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One version of one object. `object` is shared and must not be changed; `copy()` returns a private copy."""

    resource: str
    """E.g. `deployments.apps`, `pods`."""
    namespace: str
    name: str
    version: int
    object: Object
    raw: bytes

    def copy(self) -> Object:
        fresh: Object = orjson.loads(self.raw)
        return fresh


@dataclass(frozen=True, slots=True)
class Event:
    type: EventType
    version: int
    stored: Stored
    """The new state; for DELETED, the last state with the resourceVersion of the deletion."""
    previous: Stored | None
    """The former state, for watches with a selector that the object starts or ceases to match."""


class Watch:
    """A stream of events: iterate over it, or take the pending events with `batch`. Close it at the end."""

    def __init__(self, store: Store, resources: Sequence[str], backlog: Sequence[Event]) -> None:
        self._store = store
        self._resources = resources
        self._loop = asyncio.get_running_loop()
        self._pending: deque[Event] = deque(backlog)
        self._wake = asyncio.Event()
        self.closed = False
        if backlog:
            self._wake.set()

    def push(self, event: Event) -> None:
        """Add an event. The store calls this from any thread."""
        self._pending.append(event)
        if len(self._pending) > SLOW_WATCHER:
            self.closed = True
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            self._wake.set()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    async def batch(self, timeout: float | None = None) -> list[Event]:
        """Wait for events and return all since the last call; none after `timeout` seconds or when the watch closes."""
        if not self._pending and not self.closed:
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                return []
        taken = list(self._pending)
        self._pending.clear()
        return taken

    async def __aiter__(self) -> AsyncIterator[Event]:
        try:
            while not self.closed:
                for event in await self.batch():
                    yield event
        finally:
            self.close()

    def close(self) -> None:
        self.closed = True
        self._store.unsubscribe(self, self._resources)
        self._wake.set()


class Store:
    """Raw objects: `get`, `list`, `create`, `update`, `delete`, `watch`. `registry` has the semantics of the API."""

    def __init__(self, path: Path | str = ":memory:", history: int = 4000) -> None:
        self._lock = threading.RLock()
        self._objects: dict[str, dict[tuple[str, str], Stored]] = defaultdict(dict)
        self._history: dict[str, deque[Event]] = defaultdict(lambda: deque(maxlen=history))
        self._compacted: dict[str, int] = {}
        self._watches: dict[str, set[Watch]] = defaultdict(set)
        self.observers: list[Callable[[Event], None]] = []
        """Functions that are called with every event during the write; they must defer their work."""
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.executescript(
            """PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
            CREATE TABLE IF NOT EXISTS objects (resource TEXT, namespace TEXT, name TEXT, version INTEGER, raw BLOB,
              PRIMARY KEY (resource, namespace, name)) WITHOUT ROWID;
            CREATE TABLE IF NOT EXISTS counter (id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER);
            INSERT OR IGNORE INTO counter VALUES (1, 1);"""
        )
        (self.version,) = self._database.execute("SELECT version FROM counter").fetchone()
        self._floor: int = self.version
        rows = self._database.execute("SELECT resource, namespace, name, version, raw FROM objects")
        for resource, namespace, name, version, raw in rows:
            stored = Stored(resource, namespace, name, version, orjson.loads(raw), raw)
            self._objects[resource][namespace, name] = stored

    # reading

    def get(self, resource: str, namespace: str, name: str) -> Stored | None:
        return self._objects[resource].get((namespace, name))

    def list(self, resource: str, namespace: str = "") -> list[Stored]:
        """Return the objects of a resource ordered by namespace and name; an empty namespace means all namespaces."""
        with self._lock:
            found = self._objects[resource]
            keys = sorted(key for key in found if not namespace or key[0] == namespace)
            return [found[key] for key in keys]

    def list_at(self, version: int, resource: str, namespace: str = "") -> Sequence[Stored]:
        """Return the result of `list` at an earlier version. Raises ApiError 410 for a version before the history."""
        with self._lock:
            found = dict(self._objects[resource])
            for event in reversed(self._since(resource, version)):
                key = (event.stored.namespace, event.stored.name)
                if event.previous is None:
                    found.pop(key, None)
                else:
                    found[key] = event.previous
            return [found[key] for key in sorted(found) if not namespace or key[0] == namespace]

    def everything(self) -> Iterator[Stored]:
        with self._lock:
            return iter([stored for found in self._objects.values() for stored in found.values()])

    # writing

    def create(self, resource: str, obj: Object) -> Stored:
        """Store a new object; its resourceVersion is set here. The caller has checked that there is none yet."""
        return self._put("ADDED", resource, obj)

    def update(self, resource: str, obj: Object) -> Stored:
        return self._put("MODIFIED", resource, obj)

    def delete(self, resource: str, namespace: str, name: str, last_state: Object | None = None) -> Stored:
        """Remove an object; watchers see `last_state` (by default the stored one). Raises KeyError."""
        with self._lock:
            previous = self._objects[resource].pop((namespace, name))
            last = self._next(resource, last_state or previous.copy())
            self._persist("DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?", last, 3)
            self._publish(Event("DELETED", last.version, last, previous))
            return last

    def _put(self, kind: EventType, resource: str, obj: Object) -> Stored:
        with self._lock:
            stored = self._next(resource, obj)
            key = (stored.namespace, stored.name)
            previous = self._objects[resource].get(key)
            self._objects[resource][key] = stored
            self._persist("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", stored, 5)
            self._publish(Event(kind, stored.version, stored, previous))
            return stored

    def _next(self, resource: str, obj: Object) -> Stored:
        self.version += 1
        metadata = obj["metadata"]
        metadata["resourceVersion"] = str(self.version)
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        return Stored(resource, namespace, name, self.version, obj, orjson.dumps(obj))

    def _persist(self, statement: str, stored: Stored, columns: int) -> None:
        row = (stored.resource, stored.namespace, stored.name, stored.version, stored.raw)[:columns]
        database = self._database
        database.execute("BEGIN")
        database.execute(statement, row)
        database.execute("UPDATE counter SET version = ?", (stored.version,))
        database.execute("COMMIT")

    # watching

    def watch(self, *resources: str, since: int | None = None) -> Watch:
        """Return a watch of events after version `since`; without `since`, the existing objects come first, as ADDED.

        Raises ApiError 410 when `since` is before the history. Needs a running event loop.
        """
        with self._lock:
            backlog: list[Event] = []
            for resource in resources:
                if since is None:
                    backlog += [Event("ADDED", at.version, at, None) for at in self.list(resource)]
                else:
                    backlog += self._since(resource, since)
            if since is not None:
                backlog.sort(key=lambda event: event.version)
            watch = Watch(self, resources, backlog)
            for resource in resources:
                self._watches[resource].add(watch)
            return watch

    def _since(self, resource: str, version: int) -> Sequence[Event]:
        compacted = self._compacted.get(resource, self._floor)
        if version < compacted:
            raise expired(f"too old resource version: {version} ({compacted})")
        history = self._history[resource]
        return list(history)[bisect_right(history, version, key=lambda event: event.version) :]

    def _publish(self, event: Event) -> None:
        history = self._history[event.stored.resource]
        if len(history) == history.maxlen:
            self._compacted[event.stored.resource] = history[0].version
        history.append(event)
        for watch in self._watches[event.stored.resource]:
            watch.push(event)
        for observer in self.observers:
            observer(event)

    def compact(self, *resources: str) -> None:
        """Drop the history of these resources, or of all: watches from earlier versions then get 410."""
        with self._lock:
            for resource in resources or list(self._history):
                self._history[resource].clear()
                self._compacted[resource] = self.version
            if not resources:
                self._floor = self.version

    def unsubscribe(self, watch: Watch, resources: Sequence[str]) -> None:
        with self._lock:
            for resource in resources:
                self._watches[resource].discard(watch)

    def close(self) -> None:
        with self._lock:
            for watches in list(self._watches.values()):
                for watch in list(watches):
                    watch.close()
            self._database.close()
