"""The Kubernetes API in memory, for unit tests of both components.

`FakeCluster` keeps what the components rely on: uid, generation (the number of changes of the spec), resourceVersion
with its conflicts, label selectors, a status that applies do not change, and one entry of `managedFields` per applier.
An apply replaces the object. Unlike an API server, it keeps no fields of other managers except the data of a Secret or
ConfigMap, and it leaves the entries of other managers in `managedFields` as they are.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from types import EllipsisType

from engine.errors import ClusterUnavailable, ObjectConflict, ObjectRefused
from engine.event import JsonObject
from engine.kubernetes.cluster import APPLY_TRIES
from engine.ports import Applied, Manifest, ObjectKey, WatchEvent

WRITES = ("apply", "apply_status", "create", "patch", "delete")


class FakeCluster:
    """`ports.Cluster` in memory."""

    def __init__(self) -> None:
        self.objects: dict[ObjectKey, Manifest] = {}
        self.calls: list[tuple[str, str]] = []
        """Verb and key of every call that the API server answered."""
        self.unserved: set[str] = set()
        """Kinds whose definitions are not installed."""
        self._numbers = itertools.count(1)

        # what a test makes fail
        self.down = False
        """Whether no call gets an answer."""
        self.write_error: Exception | None = None
        """Raised by every write."""
        self.rejects: Callable[[ObjectKey], Exception | None] = lambda key: None
        """Returns the error that an apply or create raises, or None."""
        self.forbids: Callable[[ObjectKey], Exception | None] = lambda key: None
        """Returns the error that any other call raises, or None."""

        # what a test does in the middle of a call
        self.moment: Callable[[], None] = lambda: None
        """Called before every call, and after every write."""
        self.on_write: Callable[[], None] = lambda: None
        """Called between `before_write` and the write of an apply."""
        self.on_delete: Callable[[ObjectKey], None] = lambda key: None
        """Called before an object is deleted."""

    # --- the port: reading

    def get(self, key: ObjectKey) -> Manifest | None:
        self._called("get", key)
        return copy.deepcopy(self.objects.get(key))

    def list(self, api_version: str, kind: str, namespace: str, *, labels: str = "") -> list[Manifest]:
        where = (api_version, kind, namespace)
        self._called("list", ObjectKey(api_version=api_version, kind=kind, namespace=namespace, name=""))
        found = [o for k, o in self.objects.items() if (k.api_version, k.kind, k.namespace) == where]
        return copy.deepcopy([one for one in found if matches(one, labels)])

    def watch(self, api_version: str, kind: str, namespace: str, *, labels: str = "") -> Iterator[WatchEvent]:
        """Yield the objects and SYNCED, without the changes after that."""
        for found in self.list(api_version, kind, namespace, labels=labels):
            yield WatchEvent(type="ADDED", object=found)
        yield WatchEvent(type="SYNCED", object={})

    def version(self) -> str:
        return "v1.34.0"

    def served(self, api_version: str, kind: str) -> bool:
        return kind not in self.unserved

    def allowed(
        self, verb: str, api_version: str, kind: str, namespace: str, *, subresource: str = "", name: str = ""
    ) -> bool:
        return True

    # --- the port: writing

    def apply(
        self,
        manifest: Manifest,
        *,
        manager: str,
        before_write: Callable[[], None] | None = None,
        seen: Manifest | EllipsisType | None = ...,
    ) -> Applied:
        key = ObjectKey.of(manifest)
        for attempt in range(APPLY_TRIES):
            self._called("apply", key)
            read = self.objects.get(key) if attempt or isinstance(seen, EllipsisType) else seen
            if before_write is not None:
                before_write()
            self.on_write()
            live = self.objects.get(key)
            if read is None or (live is not None and _binding(live) == _binding(read)):
                stored = self._apply(manifest, live, manager)
                self.moment()
                return Applied(manifest=stored, created=live is None, changed=True)
        raise ObjectConflict(f"apply {key}: another client changed it in each of {APPLY_TRIES} tries", status=409)

    def _apply(self, manifest: Manifest, live: Manifest | None, manager: str) -> Manifest:
        entries = live["metadata"].get("managedFields", []) if live else []
        own = {"manager": manager, "operation": "Apply", "fieldsV1": _fields(manifest)}
        data: Manifest = {part: live[part] for part in ("data", "stringData") if live and part in live}
        return self.put(
            {**data, **copy.deepcopy(manifest)}, managed=[own, *(e for e in entries if e["manager"] != manager)]
        )

    def apply_status(
        self, manifest: Manifest, *, manager: str, before_write: Callable[[], None] | None = None
    ) -> Applied:
        key = ObjectKey.of(manifest)
        self._called("apply_status", key)
        if before_write is not None:
            before_write()
        if key not in self.objects:
            raise ObjectRefused(f"{key} not found", reason="NotFound", status=404)
        self.objects[key]["status"] = copy.deepcopy(manifest["status"])
        self.moment()
        return Applied(manifest=copy.deepcopy(self.objects[key]), created=False, changed=True)

    def create(self, manifest: Manifest) -> bool:
        key = ObjectKey.of(manifest)
        self._called("create", key)
        if key in self.objects:
            return False
        self.put(copy.deepcopy(manifest))
        self.moment()
        return True

    def patch(
        self, key: ObjectKey, patch: Manifest, *, before_write: Callable[[], None] | None = None
    ) -> Manifest | None:
        self._called("patch", key)
        if before_write is not None:
            before_write()
        live = self.objects.get(key)
        if live is None:
            return None
        version = patch.get("metadata", {}).get("resourceVersion")
        if version not in (None, live["metadata"]["resourceVersion"]):
            raise ObjectConflict(f"patch {key}: the object has changed since version {version}", status=409)
        stored = self.put(_merged(live, patch))
        self.moment()
        return stored

    def delete(self, key: ObjectKey, *, propagation: str = "Background", uid: str | None = None) -> bool:
        self._called("delete", key)
        live = self.objects.get(key)
        if live is None or uid not in (None, live["metadata"]["uid"]):
            return False
        self.on_delete(key)
        self.objects.pop(key, None)
        self.moment()
        return True

    def delete_all(self, api_version: str, kind: str, namespace: str, *, labels: str) -> int:
        return sum(self.delete(ObjectKey.of(found)) for found in self.list(api_version, kind, namespace, labels=labels))

    def _called(self, verb: str, key: ObjectKey) -> None:
        self.moment()
        if self.down:
            raise ClusterUnavailable("the API server does not answer")
        self.calls.append((verb, str(key)))
        error = self.rejects(key) if verb in ("apply", "create") else self.forbids(key)
        if error is None and verb in ("apply", "create") and key.kind in self.unserved:
            error = ObjectRefused("the server could not find the resource", reason="NotFound", status=404)
        if error is None and verb in WRITES:
            error = self.write_error
        if error is not None:
            raise error

    # --- what tests do and ask

    @property
    def writes(self) -> Sequence[tuple[str, str]]:
        """Verb and key of every call that writes."""
        return [call for call in self.calls if call[0] in WRITES]

    def put(self, manifest: Manifest, managed: Sequence[Manifest] | None = None) -> Manifest:
        """Store an object as an API server does, with `managed` as its field managers, and return it as stored."""
        key = ObjectKey.of(manifest)
        before = self.objects.get(key)
        metadata = {**manifest["metadata"], "resourceVersion": str(next(self._numbers))}
        metadata["uid"] = before["metadata"]["uid"] if before else f"uid-{next(self._numbers)}"
        changed = before is None or before.get("spec") != manifest.get("spec")
        metadata["generation"] = (before["metadata"]["generation"] if before else 0) + changed
        if managed is not None:
            metadata["managedFields"] = managed
        status = {"status": before["status"]} if before and "status" in before else {}
        self.objects[key] = {**manifest, **status, "metadata": metadata}
        return copy.deepcopy(self.objects[key])

    def edit(self, key: ObjectKey) -> None:
        """Change a field of ours as `kubectl edit` does: the field manager of kubectl then owns the field."""
        self.objects[key]["spec"] = {**self.objects[key].get("spec", {}), "edited": next(self._numbers)}
        self.objects[key]["metadata"]["managedFields"] = [{"manager": "kubectl-edit", "operation": "Update"}]


def matches(manifest: Manifest, selector: str) -> bool:
    """Whether the labels of an object match a selector of equalities and names of labels."""
    labels = manifest["metadata"].get("labels") or {}
    pairs = [part.partition("=") for part in selector.split(",") if part]
    return all(labels.get(key) == value if equals else key in labels for key, equals, value in pairs)


def _binding(manifest: Manifest) -> tuple[str, str]:
    return manifest["metadata"]["uid"], manifest["metadata"]["resourceVersion"]


def _fields(manifest: Manifest) -> JsonObject:
    """Return the fields of an applied manifest as `fieldsV1`; a list counts as one field."""
    no_fields = ("apiVersion", "kind", "metadata", "status")
    return _tree({part: value for part, value in manifest.items() if part not in no_fields})


def _tree(fields: JsonObject) -> JsonObject:
    return {f"f:{name}": _tree(value) if isinstance(value, dict) else {} for name, value in fields.items()}


def _merged(target: JsonObject, patch: JsonObject) -> JsonObject:
    """Return `target` after a JSON merge patch (RFC 7386)."""
    merged = {name: copy.deepcopy(value) for name, value in target.items() if name not in patch}
    for name, value in patch.items():
        if isinstance(value, dict):
            below = target.get(name)
            merged[name] = _merged(below if isinstance(below, dict) else {}, value)
        elif value is not None:
            merged[name] = copy.deepcopy(value)
    return merged
