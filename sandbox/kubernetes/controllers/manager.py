"""The loop that all controllers share.

Writes and reconciliations run on one event loop, and the store calls its observers before a write returns. The index
below is therefore always current: a controller that has just created three Pods finds three Pods, and needs neither
expectations nor locks. The queue holds an object only once, even after many changes.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol

from sandbox.kubernetes.registry import Registry
from sandbox.kubernetes.status import ApiError
from sandbox.kubernetes.store import Event, Object, Stored

log = logging.getLogger(__name__)

Key = tuple[str, str, str]
"""Resource, namespace, name."""

FIRST_RETRY, LAST_RETRY = 0.2, 30.0
"""Seconds before a failed reconciliation is repeated: the first delay, which doubles, and the longest."""


class Controller(Protocol):
    """Reconciles the objects of one resource."""

    resource: str

    def reconcile(self, stored: Stored) -> float | None:
        """Make one step towards the spec; return the seconds after which to reconcile again, or None.

        The manager calls this after a change of the object or of an object that it controls, and again with back-off
        after an ApiError.
        """


class Manager:
    """Calls the controllers for the events of the store."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._controllers: dict[str, Controller] = {}
        self._controlled: dict[str, dict[Key, Stored]] = defaultdict(dict)
        self._orphans: dict[tuple[str, str], dict[Key, Stored]] = defaultdict(dict)
        self._queue: dict[Key, None] = {}
        self._timers: list[tuple[float, Key]] = []
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()

    def add(self, controller: Controller) -> None:
        self._controllers[controller.resource] = controller

    def controlled(self, owner: Object, resource: str) -> list[Stored]:
        """Return the objects of a resource whose controller is `owner`, ordered by name."""
        found = self._controlled.get(owner["metadata"]["uid"], {})
        return [stored for key, stored in sorted(found.items()) if key[0] == resource]

    def orphans(self, resource: str, namespace: str) -> list[Stored]:
        """Return the objects of a resource that have no controller."""
        return list(self._orphans.get((resource, namespace), {}).values())

    async def run(self) -> None:
        """Reconcile all objects once, and then after every change, until cancelled."""
        store = self.registry.store
        for stored in store.everything():
            self._index(stored)
            self._enqueue((stored.resource, stored.namespace, stored.name))
        store.observers.append(self.observe)
        try:
            while True:
                await self._wait()
                while self._queue:
                    key = next(iter(self._queue))
                    del self._queue[key]
                    self._reconcile(key)
                    await asyncio.sleep(0)  # lets the server handle requests in between
        finally:
            store.observers.remove(self.observe)

    def observe(self, event: Event) -> None:
        """Update index and queue; the store calls this with every write."""
        if event.previous is not None:
            self._forget(event.previous)
        if event.type != "DELETED":
            self._index(event.stored)
        stored = event.stored
        self._enqueue((stored.resource, stored.namespace, stored.name))
        for version in (stored, event.previous):
            if version is not None and (owner := controller_of(version.object)):
                self._enqueue_owner(owner, version.namespace)

    def _index(self, stored: Stored) -> None:
        self._place(stored)[stored.resource, stored.namespace, stored.name] = stored

    def _forget(self, stored: Stored) -> None:
        self._place(stored).pop((stored.resource, stored.namespace, stored.name), None)

    def _place(self, stored: Stored) -> dict[Key, Stored]:
        owner = controller_of(stored.object)
        return self._controlled[owner["uid"]] if owner else self._orphans[stored.resource, stored.namespace]

    def _enqueue_owner(self, reference: Object, namespace: str) -> None:
        kind = self.registry.kinds.named(reference.get("apiVersion", ""), reference.get("kind", ""))
        if kind is not None:
            self._enqueue((kind.resource, namespace, reference.get("name", "")))

    def _enqueue(self, key: Key) -> None:
        if key[0] in self._controllers:
            self._queue[key] = None
            self._wake.set()

    async def _wait(self) -> None:
        """Wait until an object is queued or a timer is due."""
        timeout = self._timers[0][0] - time.monotonic() if self._timers else None
        if not self._queue and (timeout is None or timeout > 0):
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                pass
        while self._timers and self._timers[0][0] <= time.monotonic():
            self._queue[heapq.heappop(self._timers)[1]] = None

    def _reconcile(self, key: Key) -> None:
        stored = self.registry.store.get(*key)
        if stored is None:
            self._failures.pop(key, None)
            return
        try:
            again = self._controllers[key[0]].reconcile(stored)
            self._failures.pop(key, None)
        except ApiError as error:
            again = self._backoff(key)
            log.warning("%s: %s; again in %.1f s", "/".join(key), error, again)
        except Exception:
            again = self._backoff(key)
            log.exception("%s; again in %.1f s", "/".join(key), again)
        if again is not None:
            heapq.heappush(self._timers, (time.monotonic() + again, key))

    def _backoff(self, key: Key) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        return min(LAST_RETRY, FIRST_RETRY * 2.0 ** (failures - 1))


def controller_of(obj: Object) -> Object | None:
    """Return the owner reference with `controller: true`, None when there is none."""
    references: Iterable[Object] = obj["metadata"].get("ownerReferences") or ()
    return next((reference for reference in references if reference.get("controller")), None)


def controller_reference(owner: Object) -> Object:
    """Return the owner reference of an object that `owner` controls."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def adopt(manager: Manager, owner: Object, resource: str, field_manager: str) -> None:
    """Make `owner` the controller of the objects that match its selector and have no controller (orphans)."""
    from sandbox.kubernetes.controllers.pods import selects

    for stored in manager.orphans(resource, owner["metadata"]["namespace"]):
        metadata = stored.object["metadata"]
        if "deletionTimestamp" in metadata or not selects(owner["spec"]["selector"], metadata.get("labels") or {}):
            continue
        adopted = stored.copy()
        adopted["metadata"].setdefault("ownerReferences", []).append(controller_reference(owner))
        manager.registry.update(resource, adopted, manager=field_manager)
