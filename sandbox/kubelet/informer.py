"""A local, current copy of all objects of one kind: it lists once, then watches.

It survives ended watches, refused connections, restarts of the API server, 410 Gone, and kinds whose CRD is installed
later. It compares each new list with the copy, so that its listeners miss no change and get no change twice.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from sandbox.kubelet.api import Api, ApiError

log = logging.getLogger(__name__)

Object = dict[str, Any]
# (before, after): before is None for a new object, after is None for a deleted one.
Listener = Callable[[Object | None, Object | None], None]

FIRST_DELAY, LAST_DELAY = 0.1, 2.0
# Seconds between two checks whether an absent kind has been installed.
ABSENT_DELAY = 3.0
PAGE = 500


class Informer:
    """The copy and its listeners. The event loop calls the listeners, which must not block."""

    def __init__(self, api: Api, path: str, *, optional: bool = False) -> None:
        """`optional`: the kind may be missing in the cluster; the copy is empty as long as it is."""
        self.path = path
        self.synced = asyncio.Event()
        self._api = api
        self._optional = optional
        self._objects: dict[tuple[str, str], Object] = {}
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Call `listener` for every change from now on."""
        self._listeners.append(listener)

    def get(self, namespace: str, name: str) -> Object | None:
        """Return the copy of an object, None when there is none."""
        return self._objects.get((namespace, name))

    def __iter__(self) -> Iterator[Object]:
        return iter(list(self._objects.values()))

    async def run(self) -> None:
        """Keep the copy current until cancelled."""
        delay = FIRST_DELAY
        while True:
            try:
                version = await self._list()
                self.synced.set()
                delay = FIRST_DELAY
                while True:
                    version = await self._follow(version)
            except ApiError as error:
                if error.code == 404 and self._optional:
                    self._replace({})
                    self.synced.set()
                    await asyncio.sleep(ABSENT_DELAY)
                    continue
                if error.code == 410:
                    log.info("%s: watch is too old, listing again", self.path)
                else:
                    log.warning("%s: %s", self.path, error)
            except (httpx.TransportError, httpx.StreamError, json.JSONDecodeError) as error:
                log.info("%s: connection lost (%s), listing again", self.path, type(error).__name__)
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_DELAY)

    async def _list(self) -> str:
        found: dict[tuple[str, str], Object] = {}
        more = ""
        while True:
            page = await self._api.get(self.path, limit=PAGE, **({"continue": more} if more else {}))
            found |= {_key(item): item for item in page.get("items") or ()}
            more = page["metadata"].get("continue") or ""
            if not more:
                self._replace(found)
                version: str = page["metadata"]["resourceVersion"]
                return version

    async def _follow(self, version: str) -> str:
        async for event in self._api.watch(self.path, version):
            item = event["object"]
            version = item["metadata"]["resourceVersion"]
            if event["type"] == "BOOKMARK":
                continue
            self._store(_key(item), None if event["type"] == "DELETED" else item)
        return version

    def _replace(self, found: dict[tuple[str, str], Object]) -> None:
        for key in [key for key in self._objects if key not in found]:
            self._store(key, None)
        for key, item in found.items():
            known = self._objects.get(key)
            if known is None or _version(known) != _version(item):
                self._store(key, item)

    def _store(self, key: tuple[str, str], item: Object | None) -> None:
        before = self._objects.pop(key, None)
        if item is not None:
            self._objects[key] = item
        if before is not None and item is not None and _uid(before) != _uid(item):
            # The object was deleted and created again between two lists: report two changes, not one.
            self._notify(before, None)
            before = None
        if before is not None or item is not None:
            self._notify(before, item)

    def _notify(self, before: Object | None, after: Object | None) -> None:
        for listener in self._listeners:
            try:
                listener(before, after)
            except Exception:
                log.exception("%s: a listener failed", self.path)


def _key(item: Object) -> tuple[str, str]:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _version(item: Object) -> Any:
    return item["metadata"]["resourceVersion"]


def _uid(item: Object) -> Any:
    return item["metadata"].get("uid")
