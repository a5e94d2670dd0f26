"""A watch that outlives its connections.

    list → ADDED …, SYNCED → stream from the list's resourceVersion → resume … → (410, or no progress) list again

The server ends every stream after `watch_seconds`. A read that is silent for longer is a dead connection. In both cases
the watch resumes from the last resourceVersion (bookmarks keep it recent), which costs one cheap request. After 410
Gone, or after a few failed resumes in a row, the collection is listed again and compared with the events before: a new
object is ADDED, a changed one MODIFIED, a missing one DELETED; an object of the same name with another uid is DELETED
and ADDED. For an object that was deleted in such a gap, only apiVersion, kind and the last metadata (without
managedFields) are known, so that a watch of ten thousand objects does not keep all of them.

Before the first SYNCED, a refusal (a missing permission, a kind that is not served) is raised, because the set-up is
wrong. After that, a restarting API server gives the same answers, so the watch logs them and retries with backoff.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from threading import Event
from typing import Protocol

import orjson
import structlog

from engine.errors import ClusterError, ClusterUnavailable, ObjectRefused, WatchExpired
from engine.event import JsonObject
from engine.ports import Manifest, WatchEvent
from engine.runtime.backoff import Backoff

log = structlog.get_logger(__name__)

RESUMES_BEFORE_LIST = 3
"""Number of failed resumes in a row after which the collection is listed again."""

CHANGES = frozenset({"ADDED", "MODIFIED", "DELETED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A complete list: every object, with apiVersion and kind, and the resourceVersion where a watch can start."""

    items: list[Manifest]
    resource_version: str


class Source(Protocol):
    """The requests of a watch, for one collection."""

    def list(self) -> Listed: ...

    def stream(self, resource_version: str) -> AbstractContextManager[Iterator[bytes]]:
        """Yield the lines of one watch request from `resource_version`, until the server ends it."""
        ...


class Watch:
    """The state of one watch: the objects that were yielded, and where to resume."""

    def __init__(
        self,
        source: Source,
        name: str,
        *,
        backoff: Backoff | None = None,
        sleep: Callable[[float], object] = time.sleep,
        stopped: Callable[[], bool] = lambda: False,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._source = source
        self._name = name
        self._backoff = backoff or Backoff(base=0.2, cap=3.0)
        self._sleep = sleep
        self._stopped = stopped
        self._chance = chance
        self._known: dict[tuple[str, str], Manifest] = {}
        self._resource_version = ""
        """Empty if the collection must be listed first."""
        self._synced = False
        self._failures = 0

    def events(self) -> Generator[WatchEvent, None, None]:
        """Yield changes until the watch is stopped. Raises ObjectRefused, but only before the first SYNCED."""
        while not self._stopped():
            try:
                if not self._resource_version:
                    yield from self._relist()
                yield from self._follow()
            except WatchExpired:
                self._resource_version = ""
            except ClusterError as error:
                if not self._synced and isinstance(error, ObjectRefused):
                    raise
                if not self._stopped():
                    self._wait(error)

    def _wait(self, error: ClusterError) -> None:
        self._failures += 1
        if self._failures >= RESUMES_BEFORE_LIST:
            self._resource_version = ""
        seconds = self._backoff.delay(self._failures, self._chance(), error.retry_after)
        log.warning("watch interrupted", watch=self._name, failures=self._failures, again_in=seconds, error=str(error))
        self._sleep(seconds)

    def _relist(self) -> Iterator[WatchEvent]:
        listed = self._source.list()
        found = {_name(item): item for item in listed.items}
        for name, last in list(self._known.items()):
            item = found.get(name)
            if item is None or _uid(item) != _uid(last):
                del self._known[name]
                yield WatchEvent(type="DELETED", object=last)
        for name, item in found.items():
            known = self._known.get(name)
            if known is None or _version(known) != _version(item):
                self._known[name] = _remembered(item)
                yield WatchEvent(type="ADDED" if known is None else "MODIFIED", object=item)
        self._resource_version = listed.resource_version
        self._synced = True
        yield WatchEvent(type="SYNCED", object={})

    def _follow(self) -> Iterator[WatchEvent]:
        """Yield the changes of one connection until the server ends it."""
        with self._source.stream(self._resource_version) as lines:
            for line in lines:
                change = _decode(line, self._name)
                kind, changed = change.get("type"), change["object"]
                if kind == "ERROR":
                    _raise_error(changed, self._name)
                self._resource_version = _version(changed) or self._resource_version
                self._failures = 0
                if kind in CHANGES:
                    self._remember(kind, changed)
                    yield WatchEvent(type=kind, object=changed)

    def _remember(self, kind: str, changed: Manifest) -> None:
        if kind == "DELETED":
            self._known.pop(_name(changed), None)
        else:
            self._known[_name(changed)] = _remembered(changed)


def list_and_watch(source: Source, name: str, closed: Event) -> Iterator[WatchEvent]:
    """Yield the changes of `source` until `closed` is set; `name` is for log lines."""
    with closing(Watch(source, name, sleep=closed.wait, stopped=closed.is_set).events()) as events:
        yield from events


def _decode(line: bytes, name: str) -> JsonObject:
    try:
        change = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ClusterUnavailable(f"watch of {name}: broken JSON ({len(line)} bytes): {error}") from error
    if not isinstance(change, dict) or not isinstance(change.get("object"), dict):
        raise ClusterUnavailable(f"watch of {name}: a line without an object")
    return change


def _raise_error(status: Manifest, name: str) -> None:
    code, message = status.get("code"), f"watch of {name}: {status.get('message')}"
    if code == 410 or status.get("reason") in ("Expired", "Gone"):
        raise WatchExpired(message, reason=str(status.get("reason")), status=410)
    raise ClusterUnavailable(message, reason=str(status.get("reason")), status=int(code or 0))


def _metadata(manifest: Manifest) -> JsonObject:
    metadata = manifest.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _name(manifest: Manifest) -> tuple[str, str]:
    metadata = _metadata(manifest)
    return str(metadata.get("namespace", "")), str(metadata.get("name", ""))


def _uid(manifest: Manifest) -> str:
    return str(_metadata(manifest).get("uid", ""))


def _version(manifest: Manifest) -> str:
    return str(_metadata(manifest).get("resourceVersion", ""))


def _remembered(manifest: Manifest) -> Manifest:
    metadata = {key: value for key, value in _metadata(manifest).items() if key != "managedFields"}
    return {"apiVersion": manifest.get("apiVersion"), "kind": manifest.get("kind"), "metadata": metadata}
