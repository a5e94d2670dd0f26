"""Garbage collection: dependents without owners, owners that wait for dependents, contents of namespaces and CRDs.

The store calls the collector for every change. The collector keeps an index of dependents by owner and a queue of
objects to check. A check is level-based: it compares an object with the objects that exist now, and is idempotent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict

from sandbox.kubernetes import crds
from sandbox.kubernetes.registry import FOREGROUND, ORPHAN, Registry
from sandbox.kubernetes.status import ApiError
from sandbox.kubernetes.store import Event, Object, Stored

log = logging.getLogger(__name__)

Key = tuple[str, str, str]
"""Resource, namespace, name."""

MANAGER = "garbage-collector"


class Collector:
    """The garbage collector. Run `run()` as a task; the store calls `observe`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._uids: dict[str, Key] = {}
        self._dependents: dict[str, set[Key]] = defaultdict(set)
        self._queue: dict[Key, None] = {}
        self._wake = asyncio.Event()
        for stored in registry.store.everything():
            self._index(stored)
        self._queue.update(dict.fromkeys(self._uids.values()))
        self._wake.set()
        registry.store.observers.append(self.observe)

    def observe(self, event: Event) -> None:
        stored = event.stored
        key = (stored.resource, stored.namespace, stored.name)
        uid = stored.object["metadata"]["uid"]
        if event.type == "DELETED":
            if self._uids.get(uid) == key:
                del self._uids[uid]
            for owner in _owner_uids(stored.object):
                self._dependents[owner].discard(key)
                self._enqueue(self._uids.get(owner))
            for dependent in self._dependents.pop(uid, ()):
                self._enqueue(dependent)
            self._enqueue_container(stored)
            return
        if event.previous is not None:
            for owner in set(_owner_uids(event.previous.object)) - set(_owner_uids(stored.object)):
                self._dependents[owner].discard(key)
                self._enqueue(self._uids.get(owner))
        self._index(stored)
        metadata = stored.object["metadata"]
        if "ownerReferences" in metadata or "deletionTimestamp" in metadata:
            self._enqueue(key)

    def _index(self, stored: Stored) -> None:
        key = (stored.resource, stored.namespace, stored.name)
        self._uids[stored.object["metadata"]["uid"]] = key
        for owner in _owner_uids(stored.object):
            self._dependents[owner].add(key)

    def _enqueue(self, key: Key | None) -> None:
        if key is not None:
            self._queue[key] = None
            self._wake.set()

    def _enqueue_container(self, deleted: Stored) -> None:
        """Queue the namespace and the CRD of a deleted object: they may wait for its deletion."""
        if deleted.namespace:
            self._enqueue(("namespaces", "", deleted.namespace))
        if "." in deleted.resource:
            self._enqueue((crds.RESOURCE, "", deleted.resource))

    async def run(self) -> None:
        """Check queued objects until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                key = next(iter(self._queue))
                del self._queue[key]
                try:
                    self._collect(key)
                except ApiError as error:
                    log.warning("collecting %s: %s", "/".join(key), error)
                except Exception:
                    log.exception("collecting %s", "/".join(key))
                await asyncio.sleep(0)

    # one check

    def _collect(self, key: Key) -> None:
        stored = self._registry.store.get(*key)
        if stored is None:
            return
        metadata = stored.object["metadata"]
        deleting = "deletionTimestamp" in metadata
        finalizers = metadata.get("finalizers") or ()
        if deleting and ORPHAN in finalizers:
            self._release_dependents(stored)
        elif deleting and FOREGROUND in finalizers:
            self._delete_dependents(stored)
        if deleting and stored.resource == "namespaces":
            self._empty_namespace(stored)
        elif deleting and stored.resource == crds.RESOURCE:
            self._empty_definition(stored)
        if "ownerReferences" in metadata:
            self._check_owners(stored)

    def _existing(self, reference: Object, dependent: Stored) -> Stored | None:
        """Return the owner, if it exists with this uid and name, in the dependent's namespace or cluster-scoped."""
        key = self._uids.get(reference.get("uid", ""))
        if key is None or key[2] != reference.get("name") or key[1] not in ("", dependent.namespace):
            return None
        return self._registry.store.get(*key)

    def _check_owners(self, stored: Stored) -> None:
        references = stored.object["metadata"]["ownerReferences"]
        owners = [(reference, self._existing(reference, stored)) for reference in references]
        solid = [at for at, owner in owners if owner is not None and not _waits(owner)]
        waiting = [at for at, owner in owners if owner is not None and _waits(owner)]
        absent = [at for at, owner in owners if owner is None]
        if solid:
            if absent or waiting:
                self._keep_owners(stored, [at for at in references if at in solid])
        elif "deletionTimestamp" not in stored.object["metadata"]:
            owned = bool(self._dependents.get(stored.object["metadata"]["uid"]))
            self._delete(stored, "Foreground" if waiting and owned else "")

    def _keep_owners(self, stored: Stored, references: list[Object]) -> None:
        changed = stored.copy()
        changed["metadata"]["ownerReferences"] = references
        if not references:
            del changed["metadata"]["ownerReferences"]
        self._registry.update(stored.resource, changed, manager=MANAGER)

    def _delete(self, stored: Stored, propagation: str = "") -> None:
        uid = stored.object["metadata"]["uid"]
        self._registry.delete(stored.resource, stored.namespace, stored.name, propagation=propagation, uid=uid)

    def _dependents_of(self, stored: Stored) -> list[Stored]:
        keys = sorted(self._dependents.get(stored.object["metadata"]["uid"], ()))
        return [found for key in keys if (found := self._registry.store.get(*key)) is not None]

    def _release_dependents(self, stored: Stored) -> None:
        uid = stored.object["metadata"]["uid"]
        for dependent in self._dependents_of(stored):
            references = dependent.object["metadata"].get("ownerReferences") or ()
            self._keep_owners(dependent, [at for at in references if at.get("uid") != uid])
        self._drop_finalizer(stored, ORPHAN)

    def _delete_dependents(self, stored: Stored) -> None:
        uid = stored.object["metadata"]["uid"]
        dependents = self._dependents_of(stored)
        blocking = [
            dependent
            for dependent in dependents
            for at in dependent.object["metadata"].get("ownerReferences") or ()
            if at.get("uid") == uid and at.get("blockOwnerDeletion")
        ]
        if not blocking:
            self._drop_finalizer(stored, FOREGROUND)
        for dependent in dependents:
            self._enqueue((dependent.resource, dependent.namespace, dependent.name))

    def _drop_finalizer(self, stored: Stored, name: str) -> None:
        fresh = self._registry.store.get(stored.resource, stored.namespace, stored.name)
        if fresh is None:
            return
        changed = fresh.copy()
        changed["metadata"]["finalizers"] = [at for at in changed["metadata"].get("finalizers") or () if at != name]
        self._registry.update(stored.resource, changed, manager=MANAGER)

    def _empty_namespace(self, namespace: Stored) -> None:
        left = 0
        for kind in self._registry.kinds.resources():
            if not kind.namespaced:
                continue
            for stored in self._registry.store.list(kind.resource, namespace.name):
                if "deletionTimestamp" not in stored.object["metadata"]:
                    self._delete(stored)
                left += self._registry.store.get(stored.resource, stored.namespace, stored.name) is not None
        if not left and not namespace.object["metadata"].get("finalizers"):
            self._registry.finalize_namespace(namespace.name)

    def _empty_definition(self, definition: Stored) -> None:
        left = 0
        for stored in self._registry.store.list(definition.name):
            if "deletionTimestamp" not in stored.object["metadata"]:
                self._delete(stored)
            left += self._registry.store.get(stored.resource, stored.namespace, stored.name) is not None
        if not left and crds.CLEANUP in (definition.object["metadata"].get("finalizers") or ()):
            self._drop_finalizer(definition, crds.CLEANUP)


def _owner_uids(obj: Object) -> list[str]:
    return [at.get("uid", "") for at in obj["metadata"].get("ownerReferences") or ()]


def _waits(owner: Stored) -> bool:
    """Whether an owner is being deleted in the foreground and waits for its dependents."""
    metadata = owner.object["metadata"]
    return "deletionTimestamp" in metadata and FOREGROUND in (metadata.get("finalizers") or ())
