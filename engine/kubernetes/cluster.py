"""The Kubernetes API as the engine's `Cluster` port.

Theory of operation. Every object is raw JSON. Its URL is made from apiVersion, kind, namespace and name (`kinds`).
Requests go over one connection pool (`http`). Nothing is cached except the plurals of unknown kinds.

An apply is a read, a check and a write: GET the object; call `before_write`, which verifies that the stream's lock is
still held; then send a forced server-side apply with the uid and the resourceVersion of the object that was read. If
another client wrote in between, the API server answers 409, and the read, the check and the write are repeated. A
worker that was suspended past its lock's TTL fails the check. An object that did not exist at the read is applied
without a resourceVersion. If another client created the object in between, the API server answers 200, and `Applied`
has `created=False, changed=True`.

"Not found" is an answer, not an error, for `get`, `patch`, `delete` and `delete_all`, also if the kind is not served
(its definition was deleted, and the objects with it). For `list`, `apply` and `watch`, a kind that is not served is
ObjectRefused.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import EllipsisType

from kubernetes import client

from engine.errors import ClusterUnavailable, ObjectConflict, ObjectRefused, WatchExpired
from engine.event import JsonObject
from engine.kubernetes.http import APPLY_TYPE, MERGE_TYPE, Answer, KubernetesHttp, load_configuration
from engine.kubernetes.kinds import Paths, group_of, version_path
from engine.kubernetes.watch import Listed, list_and_watch
from engine.ports import Applied, Manifest, ObjectKey, WatchEvent

APPLY_TRIES = 5
"""Tries of one apply. After that the conflict is raised, and the loop retries later."""
LIST_TRIES = 3
"""Tries of one list; a try ends when the continue token expires."""
PAGE_SIZE = 500
"""Objects per page of a list."""
BINDING = ("uid", "resourceVersion")
"""Metadata that makes a write conditional."""


def key_of(manifest: Manifest) -> ObjectKey:
    """Return the key of an object. Raises ObjectRefused if the manifest lacks a part of the key."""
    try:
        metadata = manifest["metadata"]
        return ObjectKey(
            api_version=manifest["apiVersion"],
            kind=manifest["kind"],
            namespace=metadata.get("namespace", ""),
            name=metadata["name"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ObjectRefused(f"an object needs apiVersion, kind and metadata.name; missing: {error}") from error


class KubernetesCluster:
    """`ports.Cluster` over HTTP. Threads can share it."""

    def __init__(
        self,
        configuration: client.Configuration,
        *,
        connect_seconds: float = 5.0,
        read_seconds: float = 30.0,
        watch_seconds: float = 60.0,
        pool_size: int = 64,
        page_size: int = PAGE_SIZE,
    ) -> None:
        """`watch_seconds` bounds one watch connection, and so how long a dead connection can go unnoticed."""
        self._http = KubernetesHttp(
            configuration, connect_seconds=connect_seconds, read_seconds=read_seconds, pool_size=pool_size
        )
        self._paths = Paths(self._discover)
        self._watch_seconds = watch_seconds
        self._page_size = page_size

    @classmethod
    def load(
        cls,
        kubeconfig: Path | None = None,
        context: str | None = None,
        *,
        connect_seconds: float = 5.0,
        read_seconds: float = 30.0,
        watch_seconds: float = 60.0,
        pool_size: int = 64,
        page_size: int = PAGE_SIZE,
    ) -> KubernetesCluster:
        """Return the client for the configuration that `http.load_configuration` finds.

        Raises SettingsError.
        """
        return cls(
            load_configuration(kubeconfig, context),
            connect_seconds=connect_seconds,
            read_seconds=read_seconds,
            watch_seconds=watch_seconds,
            pool_size=pool_size,
            page_size=page_size,
        )

    @property
    def host(self) -> str:
        """The URL of the API server."""
        return self._http.host

    def close(self) -> None:
        """Close the connections. Every watch ends, also those in other threads."""
        self._http.close()

    # --- reading

    def get(self, key: ObjectKey) -> Manifest | None:
        path = self._path(key)
        if path is None:
            return None
        answer = self._http.call("GET", path)
        return answer.body if self._found(answer, f"read {key}") else None

    def list(self, api_version: str, kind: str, namespace: str, *, labels: str = "") -> list[Manifest]:
        return self._list(api_version, kind, namespace, labels).items

    def watch(self, api_version: str, kind: str, namespace: str, *, labels: str = "") -> Iterator[WatchEvent]:
        source = _Collection(self, api_version, kind, namespace, labels)
        return list_and_watch(source, f"{kind} in {namespace or 'all namespaces'}", self._http.closed)

    def version(self) -> str:
        answer = self._http.call("GET", "/version")
        if answer.status >= 400:
            self._http.refuse(answer, "read the API server's version")
        return str(answer.body.get("gitVersion") or "")

    def served(self, api_version: str, kind: str) -> bool:
        return kind in self._discover(api_version)

    def allowed(
        self, verb: str, api_version: str, kind: str, namespace: str, *, subresource: str = "", name: str = ""
    ) -> bool:
        wanted = {
            "verb": verb,
            "group": group_of(api_version),
            "resource": self._paths.plural(api_version, kind) or kind.lower() + "s",
            "subresource": subresource,
            "namespace": namespace,
            "name": name,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": wanted},
        }
        answer = self._http.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=review)
        if answer.status >= 400:
            self._http.refuse(answer, f"ask for the permission to {verb} {kind}")
        return bool(answer.body.get("status", {}).get("allowed", False))

    # --- writing

    def apply(
        self,
        manifest: Manifest,
        *,
        manager: str,
        before_write: Callable[[], None] | None = None,
        seen: Manifest | EllipsisType | None = ...,
    ) -> Applied:
        key = key_of(manifest)
        path = self._served_path(key.api_version, key.kind, key.namespace, key.name)
        for attempt in range(1, APPLY_TRIES + 1):
            if attempt > 1 or isinstance(seen, EllipsisType):
                read = self._http.call("GET", path)
                before = read.body if self._exists(read, key) else {}
            else:
                before = seen or {}
            if before_write is not None:
                before_write()
            answer = self._http.call("PATCH", path, _forced(manager), _at(manifest, before), APPLY_TYPE)
            if answer.status != 409:
                return self._applied(answer, key, _resource_version(before))
            if attempt == APPLY_TRIES:
                raise ObjectConflict(
                    f"apply {key}: another client changed it in each of {APPLY_TRIES} tries: {answer.message}",
                    reason=answer.reason,
                    status=409,
                )
        raise AssertionError("unreachable")

    def apply_status(
        self, manifest: Manifest, *, manager: str, before_write: Callable[[], None] | None = None
    ) -> Applied:
        """Apply the status subresource without a read.

        `changed` compares with `metadata.resourceVersion` of `manifest` where it has one (which also makes the write
        conditional, raising ObjectConflict); without one it is True.
        """
        key = key_of(manifest)
        path = self._served_path(key.api_version, key.kind, key.namespace, key.name, "status")
        if before_write is not None:
            before_write()
        answer = self._http.call("PATCH", path, _forced(manager), manifest, APPLY_TYPE)
        return self._applied(answer, key, _resource_version(manifest))

    def create(self, manifest: Manifest) -> bool:
        key = key_of(manifest)
        answer = self._http.call("POST", self._served_path(key.api_version, key.kind, key.namespace), body=manifest)
        if answer.status == 409 and answer.reason == "AlreadyExists":
            return False
        if answer.status >= 400:
            self._http.refuse(answer, f"create {key}")
        return True

    def patch(
        self, key: ObjectKey, patch: Manifest, *, before_write: Callable[[], None] | None = None
    ) -> Manifest | None:
        path = self._path(key)
        if path is None:
            return None
        if before_write is not None:
            before_write()
        answer = self._http.call("PATCH", path, body=patch, content_type=MERGE_TYPE)
        return answer.body if self._found(answer, f"patch {key}") else None

    def delete(self, key: ObjectKey, *, propagation: str = "Background", uid: str | None = None) -> bool:
        """Delete the object. With `uid`, an object of that name with another uid counts as not found."""
        path = self._path(key)
        if path is None:
            return False
        options: JsonObject = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        answer = self._http.call("DELETE", path, body=options)
        if answer.status == 409 and uid is not None and "uid" in answer.message.lower():
            return False
        return self._found(answer, f"delete {key}")

    def delete_all(self, api_version: str, kind: str, namespace: str, *, labels: str) -> int:
        """Delete every object that matches, one by one, so that each is counted and deleted by its uid.

        Raises ObjectRefused without a label selector: that call would empty the namespace.
        """
        if not labels:
            raise ObjectRefused(f"delete all {kind} in {namespace}: refused without a label selector")
        if self._paths.plural(api_version, kind) is None or not self.served(api_version, kind):
            return 0
        gone = 0
        for item in self.list(api_version, kind, namespace, labels=labels):
            metadata = item["metadata"]
            key = ObjectKey(
                api_version=api_version, kind=kind, namespace=metadata.get("namespace", ""), name=metadata["name"]
            )
            gone += self.delete(key, uid=metadata["uid"])
        return gone

    # --- parts

    def _discover(self, api_version: str) -> dict[str, str]:
        """Return kind → plural of all kinds in `api_version`; empty if the API server does not serve that version."""
        answer = self._http.call("GET", version_path(api_version))
        if self._http.kind_missing(answer):
            return {}
        if answer.status >= 400:
            self._http.refuse(answer, f"discover {api_version}")
        return {entry["kind"]: entry["name"] for entry in answer.body.get("resources", []) if "/" not in entry["name"]}

    def _path(self, key: ObjectKey) -> str | None:
        return self._paths.of(key.api_version, key.kind, key.namespace, key.name)

    def _served_path(self, api_version: str, kind: str, namespace: str, name: str = "", subresource: str = "") -> str:
        path = self._paths.of(api_version, kind, namespace, name, subresource)
        if path is None:
            raise ObjectRefused(
                f"{kind} {namespace}/{name}: the API server does not serve {kind} in {api_version}: install its "
                "CustomResourceDefinition",
                reason="NotFound",
                status=404,
            )
        return path

    def _exists(self, answer: Answer, key: ObjectKey) -> bool:
        """Whether the object exists; raises ObjectRefused if its kind is not served."""
        if answer.status == 404 and self._http.kind_missing(answer):
            self._http.refuse(answer, f"read {key}")
        return self._found(answer, f"read {key}")

    def _found(self, answer: Answer, what: str) -> bool:
        if answer.status == 404:
            self._http.kind_missing(answer)  # raises while the API server cannot know yet
            return False
        if answer.status >= 400:
            self._http.refuse(answer, what)
        return True

    def _applied(self, answer: Answer, key: ObjectKey, before: str) -> Applied:
        if answer.status >= 400:
            if self._http.kind_missing(answer):
                pass  # `refuse` names the missing kind
            self._http.refuse(answer, f"apply {key}")
        created = answer.status == 201
        changed = created or _resource_version(answer.body) != before
        return Applied(manifest=answer.body, created=created, changed=changed)

    def _list(self, api_version: str, kind: str, namespace: str, labels: str) -> Listed:
        for attempt in range(1, LIST_TRIES + 1):
            try:
                return self._all_pages(api_version, kind, namespace, labels)
            except WatchExpired as error:
                if attempt == LIST_TRIES:
                    raise ClusterUnavailable(
                        f"list {kind} in {namespace}: the continue token expired {LIST_TRIES} times: {error}"
                    ) from error
        raise AssertionError("unreachable")

    def _all_pages(self, api_version: str, kind: str, namespace: str, labels: str) -> Listed:
        """Return all pages of one consistent list. Raises WatchExpired if the continue token expires meanwhile."""
        path = self._served_path(api_version, kind, namespace)
        query: dict[str, str | int] = {"limit": self._page_size}
        if labels:
            query["labelSelector"] = labels
        items: list[Manifest] = []
        while True:
            what = f"list {kind} in {namespace or 'all namespaces'}"
            answer = self._http.call("GET", path, query)
            if answer.status >= 400:
                self._http.kind_missing(answer)
                self._http.refuse(answer, what)
            page, metadata = answer.body.get("items"), answer.body.get("metadata")
            if not isinstance(metadata, dict) or not isinstance(page, list | None):
                raise ClusterUnavailable(f"{what}: {self.host} did not answer with a list")
            for item in page or ():
                item.setdefault("apiVersion", api_version)  # lists of built-in kinds leave both out
                item.setdefault("kind", kind)
                items.append(item)
            token = metadata.get("continue")
            if not token:
                return Listed(items=items, resource_version=str(metadata.get("resourceVersion", "")))
            query = {**query, "continue": token}


class _Collection:
    """One watched collection: a `watch.Source`."""

    def __init__(self, cluster: KubernetesCluster, api_version: str, kind: str, namespace: str, labels: str) -> None:
        self._cluster = cluster
        self._where = (api_version, kind, namespace)
        self._labels = labels

    def list(self) -> Listed:
        return self._cluster._list(*self._where, self._labels)

    def stream(self, resource_version: str) -> AbstractContextManager[Iterator[bytes]]:
        seconds = self._cluster._watch_seconds
        # Watches end at different times, so that they do not all reconnect at once.
        bound = max(1, round(seconds * random.uniform(0.7, 1.0)))
        query: dict[str, str | int] = {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": bound,
        }
        if self._labels:
            query["labelSelector"] = self._labels
        path = self._cluster._served_path(*self._where)
        return self._cluster._http.stream(path, query, silence=bound + max(2.0, seconds * 0.1))


def _forced(manager: str) -> Mapping[str, str | int]:
    return {"fieldManager": manager, "force": "true"}


def _resource_version(manifest: Manifest) -> str:
    return str(manifest.get("metadata", {}).get("resourceVersion", ""))


def _at(manifest: Manifest, before: Manifest) -> Manifest:
    """Return `manifest` with the uid and resourceVersion of `before`, the object that was read (empty: there was none).

    The uid is for an object that was deleted meanwhile: an apply with only a resourceVersion would create it again.
    """
    metadata = {key: value for key, value in manifest["metadata"].items() if key not in BINDING}
    for key in BINDING if before else ():
        metadata[key] = before["metadata"][key]
    return {**manifest, "metadata": metadata}
