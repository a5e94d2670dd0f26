"""The verbs of the API, with their semantics: what HTTP calls and what the controllers inside the process call.

The interface for controllers (all synchronous, on the event loop's thread; each call is atomic):

    registry.get("deployments.apps", "default", "web")              -> a private copy; ApiError 404
    registry.list("pods", "default", labels="app=web")              -> private copies, in order
    registry.create("pods", pod, manager="replicaset-controller")   -> stored object; ApiError 409, 422
    registry.update("pods", pod, manager=…)                         -> ApiError 409 when resourceVersion is stale
    registry.update("deployments.apps", d, subresource="status", manager=…)
    registry.delete("pods", "default", "web-1", propagation="Background")
    watch = registry.watch("deployments.apps", "pods")              -> present objects as ADDED, then changes
    async for event in watch: event.type, event.stored.object (shared: do not change), event.stored.copy()

An update that changes nothing writes nothing.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from sandbox.kubernetes import status
from sandbox.kubernetes.store import Object, Store, Stored, Watch


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Registry:
    """First cut: storage semantics only."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def _found(self, resource: str, namespace: str, name: str) -> Stored:
        stored = self.store.get(resource, namespace, name)
        if stored is None:
            plural, _, group = resource.partition(".")
            raise status.not_found(group, plural, name)
        return stored

    def get(self, resource: str, namespace: str, name: str) -> Object:
        return self._found(resource, namespace, name).copy()

    def list(self, resource: str, namespace: str = "", labels: str = "", fields: str = "") -> list[Object]:
        return [stored.copy() for stored in self.store.list(resource, namespace)]

    def create(self, resource: str, obj: Object, *, manager: str = "unknown", dry_run: bool = False) -> Object:
        metadata = obj["metadata"]
        if "name" not in metadata:
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        if self.store.get(resource, metadata.get("namespace", ""), metadata["name"]):
            plural, _, group = resource.partition(".")
            raise status.already_exists(group, plural, metadata["name"])
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = now()
        metadata["generation"] = 1
        return self.store.create(resource, obj).copy()

    def update(
        self, resource: str, obj: Object, *, subresource: str = "", manager: str = "unknown", dry_run: bool = False
    ) -> Object:
        metadata = obj["metadata"]
        old = self._found(resource, metadata.get("namespace", ""), metadata["name"])
        if metadata.get("resourceVersion") not in (None, str(old.version)):
            plural, _, group = resource.partition(".")
            raise status.modified(group, plural, metadata["name"])
        if obj == old.object:
            return old.copy()
        return self.store.update(resource, obj).copy()

    def delete(
        self,
        resource: str,
        namespace: str,
        name: str,
        *,
        propagation: str = "",
        grace: int | None = None,
        uid: str = "",
        version: str = "",
        dry_run: bool = False,
    ) -> Object:
        self._found(resource, namespace, name)
        return self.store.delete(resource, namespace, name).copy()

    def watch(self, *resources: str, since: int | None = None) -> Watch:
        return self.store.watch(*resources, since=since)
