"""The verbs of the API, with their semantics. The HTTP application and the controllers of this process call them.

The interface for controllers (all calls are synchronous, on the event loop's thread, and atomic):

    registry.get("deployments.apps", "default", "web")              -> a private copy; ApiError 404
    registry.list("pods", "default", labels="app=web")              -> private copies, in order
    registry.create("pods", pod, manager="replicaset-controller")   -> stored object; ApiError 409, 422
    registry.update("pods", pod, manager=…)                         -> ApiError 409 when resourceVersion is stale
    registry.update("deployments.apps", d, subresource="status", manager=…)
    registry.delete("pods", "default", "web-1", propagation="Background")
    watch = registry.watch("deployments.apps", "pods")              -> present objects as ADDED, then changes
    async for event in watch: event.type, event.stored.object (shared: do not change), event.stored.copy()

An update that changes nothing writes nothing. Every write has the same steps: decode (prune unknown fields, check
types), restore the fields that the caller may not change, default, record field ownership, validate, store.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from sandbox.kubernetes import apply as ownership
from sandbox.kubernetes import crds, defaults, patches, rules, schema, status, validation
from sandbox.kubernetes.addresses import assign_addresses
from sandbox.kubernetes.advice import advice
from sandbox.kubernetes.kinds import Kind, Kinds
from sandbox.kubernetes.policies import Attempt, Policies
from sandbox.kubernetes.selectors import field_selector, label_selector
from sandbox.kubernetes.status import ApiError, Causes
from sandbox.kubernetes.store import Object, Store, Stored, Watch

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"

_ZERO: Object = {
    "metadata": {},
    "spec": {
        "containers": [],
        "strategy": {},
        "updateStrategy": {},
        "template": {"metadata": {}, "spec": {"containers": []}},
    },
    "status": {},
}
"""The earlier state that a created object is compared with: empty maps and lists of a typed object have no owner."""

_KEEPS_STATUS = {"nodes", crds.RESOURCE, "events"}
_SYSTEM = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink")


def now(seconds_ahead: int = 0) -> str:
    """Return the time in `seconds_ahead` seconds, to the second, as Kubernetes writes it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds_ahead)).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class Request:
    """The options of a write, and the warnings that it causes."""

    manager: str = "unknown"
    dry_run: bool = False
    field_validation: str = "Ignore"
    """How unknown and repeated fields are treated: Ignore, Warn or Strict."""
    repeated: list[str] = field(default_factory=list)
    """A warning for each field that the body has twice."""
    force: bool = False
    """Whether server-side apply takes fields from other managers."""
    warnings: list[str] = field(default_factory=list)
    """Warnings for the client; the registry adds them."""


class Registry:
    """The objects of all served kinds."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.kinds = Kinds()
        self._policies = Policies(self)
        for stored in store.list(crds.RESOURCE):
            self.kinds.add(*crds.kinds_of(stored.object))
        for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
            if store.get("namespaces", "", name) is None:
                self.create("namespaces", {"metadata": {"name": name}}, manager="kube-apiserver")

    def kind(self, resource: str | Kind) -> Kind:
        return resource if isinstance(resource, Kind) else self.kinds.stored(resource)

    # reading

    def found(self, resource: str | Kind, namespace: str, name: str) -> Stored:
        """Return the stored object, which is shared. Raises ApiError 404."""
        kind = self.kind(resource)
        stored = self.store.get(kind.resource, namespace, name)
        if stored is None:
            raise status.not_found(kind.group, kind.plural, name)
        return stored

    def get(self, resource: str | Kind, namespace: str, name: str) -> Object:
        """Return a private copy of an object. Raises ApiError 404."""
        return self.found(resource, namespace, name).copy()

    def select(self, resource: str | Kind, namespace: str = "", labels: str = "", fields: str = "") -> list[Stored]:
        """Return the stored objects that match (shared), ordered by namespace and name."""
        name = self.kind(resource).resource
        selected = self.store.list(name, namespace)
        if labels or fields:
            matches = matcher(name, labels, fields)
            selected = [stored for stored in selected if matches(stored.object)]
        return selected

    def list(self, resource: str | Kind, namespace: str = "", labels: str = "", fields: str = "") -> list[Object]:
        """Return private copies of the objects that match, ordered by namespace and name."""
        return [stored.copy() for stored in self.select(resource, namespace, labels, fields)]

    def watch(self, *resources: str, since: int | None = None) -> Watch:
        return self.store.watch(*resources, since=since)

    # create

    def create(
        self, resource: str | Kind, obj: Object, *, manager: str = "unknown", request: Request | None = None
    ) -> Object:
        """Create an object and return it. Raises ApiError 404 (namespace), 403 (terminating), 409, 400, 422."""
        kind, request = self.kind(resource), request or Request(manager)
        self._decode(kind, obj, request)
        return self._create(kind, obj, request, applied=False)

    def _create(self, kind: Kind, obj: Object, request: Request, applied: bool) -> Object:
        metadata = obj["metadata"]
        if metadata.get("resourceVersion"):
            raise ApiError(500, "", "resourceVersion should not be set on objects to be created")
        self._check_namespace(kind, metadata)
        if not metadata.get("name"):
            if not metadata.get("generateName"):
                cause = status.required("metadata.name", "name or generateName is required")
                raise status.invalid(kind.group, kind.kind, "", [cause])
            metadata["name"] = metadata["generateName"][:58] + "".join(
                random.choices("bcdfghjklmnpqrstvwxz2456789", k=5)
            )
        for name in _SYSTEM:
            metadata.pop(name, None)
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = now()
        if kind.counts_generation:
            metadata["generation"] = 1
        if kind.status and kind.resource not in _KEEPS_STATUS:
            obj.pop("status", None)
        self._default(kind, obj)
        if not applied:
            zero = {"metadata": {}} if kind.custom else _ZERO
            self._own(kind, zero, obj, request, "")
        self._finish(kind, None, obj, request)
        if self.store.get(kind.resource, metadata.get("namespace", ""), metadata["name"]) is not None:
            raise status.already_exists(kind.group, kind.plural, metadata["name"])
        self._admit("CREATE", kind, obj, None, request)
        if request.dry_run:
            return obj
        created = self.store.create(kind.resource, obj)
        self._definition_changed(kind, created)
        return created.copy()

    def _admit(
        self,
        operation: str,
        kind: Kind,
        new: Object | None,
        old: Object | None,
        request: Request,
        subresource: str = "",
    ) -> None:
        """Evaluate the admission policies. Raises ApiError 403, 422 when a policy denies the request."""
        metadata = (new or old or {})["metadata"]
        namespace = self.store.get("namespaces", "", metadata["namespace"]) if kind.namespaced else None
        attempt = Attempt(
            operation=operation,
            group=kind.group,
            version=kind.version,
            plural=kind.plural,
            kind=kind.kind,
            schema=kind.schema,
            name=metadata["name"],
            namespace=namespace.object if namespace else None,
            new=new,
            old=old,
            subresource=subresource,
            dry_run=request.dry_run,
        )
        self._policies.admit(attempt, request.warnings)

    def _check_namespace(self, kind: Kind, metadata: Object) -> None:
        if not kind.namespaced:
            metadata.pop("namespace", None)
            return
        name = metadata.setdefault("namespace", "default")
        namespace = self.store.get("namespaces", "", name)
        if namespace is None:
            raise status.not_found("", "namespaces", name)
        if "deletionTimestamp" in namespace.object["metadata"]:
            why = f"unable to create new content in namespace {name} because it is being terminated"
            cause = ("NamespaceTerminating", f"namespace {name} is being terminated", "metadata.namespace")
            raise status.forbidden(kind.group, kind.plural, metadata.get("name", ""), why, [cause])

    # update

    def update(
        self,
        resource: str | Kind,
        obj: Object,
        *,
        subresource: str = "",
        manager: str = "unknown",
        request: Request | None = None,
    ) -> Object:
        """Replace an object, or its status. Raises ApiError 404, 409, 400, 422."""
        kind, request = self.kind(resource), request or Request(manager)
        metadata = obj.get("metadata") or {}
        old = self.found(kind, metadata.get("namespace", "") if kind.namespaced else "", metadata.get("name", ""))
        self._decode(kind, obj, request)
        return self._update(kind, old, obj, subresource, request, applied=False, replace=True)

    def _update(
        self,
        kind: Kind,
        old: Stored,
        obj: Object,
        subresource: str,
        request: Request,
        applied: bool,
        replace: bool = False,
    ) -> Object:
        before, metadata = old.object, obj["metadata"]
        self._check_identity(kind, old, metadata, replace and kind.custom)
        for name in (*_SYSTEM, "name", "namespace", "resourceVersion"):
            metadata.pop(name, None)
            if name in before["metadata"]:
                metadata[name] = before["metadata"][name]
        obj = self._isolate(kind, before, obj, subresource)
        self._default(kind, obj)
        if not applied:
            self._own(kind, before, obj, request, subresource)
        self._finish(kind, before, obj, request, subresource)
        if subresource != "status" and _generation_changed(kind, before, obj):
            obj["metadata"]["generation"] = before["metadata"].get("generation", 0) + 1
        if obj == before or (applied and _only_stamped(before, obj)):
            return old.copy()
        self._admit("UPDATE", kind, obj, before, request, subresource)
        if request.dry_run:
            return obj
        if is_removable(obj["metadata"]):
            return self._remove(kind, old, obj)
        updated = self.store.update(kind.resource, obj)
        self._definition_changed(kind, updated)
        return updated.copy()

    def _check_identity(self, kind: Kind, old: Stored, metadata: Object, version_needed: bool) -> None:
        uid, version = metadata.get("uid"), metadata.get("resourceVersion")
        if version and version != str(old.version):
            raise status.modified(kind.group, kind.plural, old.name)
        if uid and uid != old.object["metadata"]["uid"]:
            known = old.object["metadata"]["uid"]
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {known}"
            raise status.conflict(kind.group, kind.plural, old.name, why)
        if version_needed and not version:
            cause = (
                "FieldValueInvalid",
                "Invalid value: 0x0: must be specified for an update",
                "metadata.resourceVersion",
            )
            raise status.invalid(kind.group, kind.kind, old.name, [cause])
        if "deletionTimestamp" in old.object["metadata"]:
            known_finalizers = old.object["metadata"].get("finalizers") or ()
            added = [name for name in metadata.get("finalizers") or () if name not in known_finalizers]
            if added:
                detail = "no new finalizers can be added if the object is being deleted, found new finalizers "
                cause = status.disallowed(
                    "metadata.finalizers", detail + f"[]string{{{', '.join(map(status.show, added))}}}"
                )
                raise status.invalid(kind.group, kind.kind, old.name, [cause])

    def _isolate(self, kind: Kind, before: Object, obj: Object, subresource: str) -> Object:
        """Return `obj` without changes outside the written part: only the status, or everything but the status."""
        if subresource == "status":
            isolated: Object = orjson.loads(orjson.dumps(before))
            isolated.pop("status", None)
            if "status" in obj:
                isolated["status"] = obj["status"]
            for name in ("managedFields", *(() if kind.custom else ("annotations", "labels"))):
                isolated["metadata"].pop(name, None)
                if name in obj["metadata"]:
                    isolated["metadata"][name] = obj["metadata"][name]
            return isolated
        if kind.status:
            obj.pop("status", None)
            if "status" in before:
                obj["status"] = orjson.loads(orjson.dumps(before["status"]))
        if kind.resource == "services" and obj["spec"].get("type") != "ExternalName":
            for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                if not obj["spec"].get(name) and name in before["spec"]:
                    obj["spec"][name] = before["spec"][name]
        if kind.resource == "namespaces" and "spec" in before:
            obj["spec"] = before["spec"]
        return obj

    # patch

    def patch(
        self,
        resource: str | Kind,
        namespace: str,
        name: str,
        patch: Any,
        form: str,
        *,
        subresource: str = "",
        manager: str = "unknown",
        request: Request | None = None,
    ) -> tuple[Object, bool]:
        """Apply a patch of the form `json`, `merge`, `strategic` or `apply`; return the object and whether it is new.

        Raises ApiError 404, 409 (stale version, or fields of other managers), 400, 415, 422.
        """
        kind, request = self.kind(resource), request or Request(manager)
        namespace = namespace if kind.namespaced else ""
        if form == "apply":
            return self._apply(kind, namespace, name, patch, subresource, request)
        old = self.found(kind, namespace, name)
        live = old.copy()
        live["apiVersion"] = kind.api_version
        changed = _patched(kind, live, patch, form)
        if not isinstance(changed, dict) or not isinstance(changed.get("metadata", {}), dict):
            raise status.bad_request("the patch does not leave an object")
        metadata = changed.setdefault("metadata", {})
        for field_name, given in (("name", name), ("namespace", namespace)):
            if given and metadata.get(field_name) not in (None, given):
                words = f"the {field_name} of the object ({metadata[field_name]}) does not match the {field_name}"
                raise status.bad_request(f"{words} on the URL ({given})")
        try:
            self._decode(kind, changed, request, lenient=True)
        except ApiError as error:
            if error.code != 400:
                raise
            shown = f"{status.show(orjson.dumps(patch).decode())}: " if isinstance(error, status.NotStrict) else ""
            words = error.words if isinstance(error, status.NotStrict) else error.message
            cause = ("FieldValueInvalid", f"Invalid value: {shown}{words}", "patch")
            raise status.invalid("", "", "", [cause]) from error
        return self._update(kind, old, changed, subresource, request, applied=False), False

    def _apply(
        self, kind: Kind, namespace: str, name: str, config: Any, subresource: str, request: Request
    ) -> tuple[Object, bool]:
        config = self._configuration(kind, namespace, name, config)
        old = self.store.get(kind.resource, namespace, name)
        if old is None and subresource:
            raise status.not_found(kind.group, kind.plural, name)
        if kind.status and subresource != "status":
            config.pop("status", None)
        elif subresource == "status":
            config = {
                key: value for key, value in config.items() if key in ("apiVersion", "kind", "metadata", "status")
            }
        live: Object = old.copy() if old else {"metadata": {}}
        version, uid = config["metadata"].pop("resourceVersion", None), config["metadata"].pop("uid", None)
        if old is None and uid:
            why = f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            raise status.conflict(kind.group, kind.plural, name, why)
        stale = version and version != live["metadata"].get("resourceVersion")  # a real server checks this first
        if old is not None and uid and uid != live["metadata"]["uid"] and not stale:
            raise status.invalid(kind.group, kind.kind, name, [status.wrong("metadata.uid", uid, "field is immutable")])
        manager = ownership.Manager(request.manager, "Apply", kind.api_version, subresource)
        merged = ownership.apply(kind.schema, live, config, manager, request.force, now())
        merged["apiVersion"] = kind.stored_api_version
        self._decode(kind, merged, request, lenient=True, checked=True)
        if old is None:
            merged["metadata"].update(name=name, **({"namespace": namespace} if namespace else {}))
            return self._create(kind, merged, request, applied=True), True
        merged["metadata"].update({key: value for key, value in (("resourceVersion", version), ("uid", uid)) if value})
        return self._update(kind, old, merged, subresource, request, applied=True), False

    def _configuration(self, kind: Kind, namespace: str, name: str, config: Any) -> Object:
        """Return a checked, private copy of an apply configuration, without nulls and with canonical quantities."""
        if not isinstance(config, dict) or not isinstance(config.get("metadata", {}), dict):
            raise status.bad_request("the body of an apply request must be one object")
        where = f"{namespace}/{name}; {kind.group}/{kind.version}, Kind={kind.kind}"
        given = (config.get("apiVersion"), config.get("kind"))
        if given != (kind.api_version, kind.kind):
            raise status.bad_request(f"apply configuration {given} does not match the request ({where})")
        metadata = config.get("metadata") or {}
        if metadata.get("managedFields"):
            raise status.bad_request("metadata.managedFields must be nil")
        if metadata.get("name") not in (None, name):
            words = f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
            raise status.bad_request(words)
        if kind.namespaced and metadata.get("namespace") not in (None, "", namespace):
            raise status.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        checked: Object = {**_without_nulls(config), "metadata": _without_nulls(metadata)}
        faults = [f"{path}: field not declared in schema" for path in ownership.undeclared(kind.schema, checked)]
        if not faults and not kind.custom:  # a custom resource is validated after the merge, with 422
            causes: Causes = []
            schema.validate(kind.schema, checked, "", causes)
            faults = [f".{path}: {words}" for reason, words, path in causes if reason == "FieldValueTypeInvalid"][:1]
        if faults:
            where = f"{metadata.get('namespace', '')}/{name}; {kind.group}/{kind.version}, Kind={kind.kind}"
            what = faults[0] if len(faults) == 1 else "\n  ".join(["errors:", *faults])
            raise ApiError(500, "", f"failed to create typed patch object ({where}): {what}")
        schema.prune(kind.schema, checked, [])
        if not kind.custom:
            self._check_texts(kind, checked)
            defaults.canonicalise(kind.schema, checked)
        return checked

    # steps of every write

    def _decode(self, kind: Kind, obj: Object, request: Request, lenient: bool = False, checked: bool = False) -> None:
        """Check identity and types, prune unknown fields, in place. Raises ApiError 400, or 422 for custom resources.

        `lenient` skips the check of apiVersion and kind; `checked` skips the check of types, which a merged apply
        configuration has passed.
        """
        if kind.custom and not lenient and not (obj.get("apiVersion") and obj.get("kind")):
            raise status.bad_request("Object 'Kind' or 'apiVersion' is missing in the body of the request")
        for name, expected in (("apiVersion", kind.api_version), ("kind", kind.kind)):
            if not lenient and obj.get(name) not in (None, "", expected):
                raise status.bad_request(
                    f"the {name} in the data ({obj[name]}) does not match the expected {name} ({expected})"
                )
        obj["apiVersion"], obj["kind"] = kind.stored_api_version, kind.kind
        metadata = obj.get("metadata")
        obj["metadata"] = metadata = {} if metadata is None else metadata
        managed = metadata.pop("managedFields", None) if isinstance(metadata, dict) else None
        unknown: list[str] = []
        schema.prune(kind.schema, obj, unknown)
        faults = [*request.repeated, *(f'unknown field "{path}"' for path in unknown)]
        if faults and request.field_validation == "Strict":
            lines = [fault for fault in faults if fault.startswith("line ")]
            joined = ["\n  ".join(["yaml: unmarshal errors:", *lines])] if lines else []
            raise status.NotStrict(_cannot_decode(kind, ""), [*joined, *faults[len(lines) :]])
        if request.field_validation == "Warn":
            request.warnings += faults
        if kind.custom:
            schema.drop_empty(kind.schema.properties["metadata"], metadata)
        else:
            if not checked:
                self._check_types(kind, obj)
                defaults.canonicalise(kind.schema, obj)
            schema.drop_empty(kind.schema, obj)
        if isinstance(managed, list) and managed:
            metadata["managedFields"] = managed

    def _check_types(self, kind: Kind, obj: Object) -> None:
        causes: Causes = []
        schema.validate(kind.schema, obj, "", causes)
        broken = next((cause for cause in causes if cause[0] == "FieldValueTypeInvalid"), None)
        if broken:
            raise status.bad_request(_cannot_decode(kind, f"json: cannot unmarshal: {broken[2]}: {broken[1]}"))
        self._check_texts(kind, obj)

    def _check_texts(self, kind: Kind, obj: Object) -> None:
        """Raise ApiError 400 for malformed quantities and base64: Go decodes them while it decodes the body."""
        if bad := validation.check_quantities(kind.schema, obj, ""):
            raise status.bad_request(_cannot_decode(kind, f"quantities must match the regular expression: {bad}"))
        if kind.resource == "secrets" and (offset := validation.illegal_base64(obj)) is not None:
            raise status.bad_request(_cannot_decode(kind, f"illegal base64 data at input byte {offset}"))

    def _default(self, kind: Kind, obj: Object) -> None:
        if not kind.custom and defaults.needs_spec(kind.resource) and not isinstance(obj.get("spec"), dict):
            obj["spec"] = {}
        schema.fill(kind.schema, obj)
        defaults.compute(kind.resource, obj)
        if kind.status and not kind.custom:
            obj.setdefault("status", {})

    def _own(self, kind: Kind, before: Object, obj: Object, request: Request, subresource: str) -> None:
        manager = ownership.Manager(request.manager, "Update", kind.api_version, subresource)
        hidden = "f:status" if kind.status and not subresource else ""
        ownership.record_update(kind.schema, before, obj, manager, now(), hidden)

    def _finish(self, kind: Kind, before: Object | None, obj: Object, request: Request, subresource: str = "") -> None:
        """Assign the fields that only the server assigns, then validate. Raises ApiError 422."""
        if kind.resource == "services":
            assign_addresses(self.store.list("services"), obj)
        causes: Causes = []
        if kind.custom:
            self._check_custom(kind, before, obj, request, subresource, causes)
        else:
            self._check_built_in(kind, before, obj, subresource, causes)
        if causes:
            raise status.invalid(kind.group, kind.kind, obj["metadata"]["name"], causes)
        if not subresource:
            request.warnings += advice(kind.resource, obj, before, kind.custom)
        if kind.resource == crds.RESOURCE:
            if before is None:
                obj["metadata"].setdefault("finalizers", []).append(crds.CLEANUP)
            obj["status"] = crds.established(obj, now())

    def _check_custom(
        self, kind: Kind, before: Object | None, obj: Object, request: Request, subresource: str, causes: Causes
    ) -> None:
        """Check the schema (for a status update: of the status only) and the CEL rules (always of the whole object)."""
        earlier = rules.NO_BEFORE if before is None else before
        if subresource != "status":
            schema.validate(kind.schema, obj, "", causes, earlier)
        elif "status" in obj and "status" in kind.schema.properties:
            was = rules.NO_BEFORE if before is None else before.get("status", rules.NO_BEFORE)
            schema.validate(kind.schema.properties["status"], obj["status"], "status", causes, was)
        validation.check_metadata(kind.resource, obj["metadata"], causes, custom=True)
        rules.check_rules(kind.schema, obj, before, causes, request.warnings)

    def _check_built_in(self, kind: Kind, before: Object | None, obj: Object, subresource: str, causes: Causes) -> None:
        schema.validate(kind.schema, obj, "", causes)
        validation.check_metadata(kind.resource, obj["metadata"], causes)
        if any(reason == "FieldValueTypeInvalid" for reason, _, _ in causes):
            return
        known = {cause[2] for cause in causes}
        found: Causes = []
        validation.check_built_in(kind.resource, obj, found)
        if before is not None and "deletionTimestamp" not in before["metadata"]:
            validation.check_change(kind.resource, before, obj, found)
        if before is not None and subresource == "status":
            validation.check_status(kind.resource, before, obj, found)
        causes += [cause for cause in found if cause[2] not in known]

    def _definition_changed(self, kind: Kind, stored: Stored) -> None:
        if kind.resource == crds.RESOURCE:
            if stored.name not in {known.resource for known in self.kinds.resources()}:
                self.store.compact(stored.name)
            self.kinds.remove(stored.name)
            self.kinds.add(*crds.kinds_of(stored.object))

    # delete

    def delete(
        self,
        resource: str | Kind,
        namespace: str,
        name: str,
        *,
        propagation: str = "",
        grace: int | None = None,
        uid: str = "",
        version: str = "",
        dry_run: bool = False,
    ) -> Object:
        """Delete an object, or set its deletionTimestamp if finalizers or a pod's grace period keep it.

        `propagation` is Background (default), Foreground or Orphan; `grace` is in seconds; `uid` and `version` are
        preconditions. Returns the last state. Raises ApiError 404, 409.
        """
        kind = self.kind(resource)
        old = self.found(kind, namespace, name)
        metadata = old.object["metadata"]
        for what, given, known in (("UID", uid, metadata["uid"]), ("ResourceVersion", version, str(old.version))):
            if given and given != known:
                why = f"Precondition failed: {what} in precondition: {given}, {what} in object meta: {known}"
                raise status.conflict(kind.group, kind.plural, name, why)
        self._admit("DELETE", kind, None, old.object, Request(dry_run=dry_run))
        obj = old.copy()
        if propagation:
            _set_propagation(obj["metadata"], propagation)
        seconds = _grace_period(kind, obj, grace)
        if "deletionTimestamp" in metadata:
            seconds = min(seconds, metadata.get("deletionGracePeriodSeconds", 0))
        else:
            obj["metadata"]["deletionTimestamp"] = now(seconds)
            if kind.counts_generation:
                obj["metadata"]["generation"] = metadata.get("generation", 0) + 1
        if seconds != metadata.get("deletionGracePeriodSeconds"):
            obj["metadata"]["deletionGracePeriodSeconds"] = seconds
        if kind.resource == "namespaces":
            obj["status"] = {**obj.get("status", {}), "phase": "Terminating"}
        if dry_run:
            return obj
        if is_removable(obj["metadata"]) and not (kind.resource == "namespaces" and obj["spec"].get("finalizers")):
            return self._remove(kind, old, old.copy())
        return old.copy() if obj == old.object else self.store.update(kind.resource, obj).copy()

    def _remove(self, kind: Kind, old: Stored, last: Object) -> Object:
        deleted = self.store.delete(kind.resource, old.namespace, old.name, last)
        if kind.resource == crds.RESOURCE:
            self.kinds.remove(old.name)
        return deleted.copy()

    def finalize_namespace(self, name: str) -> None:
        """Remove a terminating namespace that has no content any more."""
        stored = self.store.get("namespaces", "", name)
        if stored is not None:
            self._remove(self.kind("namespaces"), stored, stored.copy())


def matcher(resource: str, labels: str, fields: str) -> Callable[[Object], bool]:
    """Return a predicate that combines a label and a field selector. Raises ApiError 400."""
    by_label, by_field = label_selector(labels), field_selector(resource, fields)
    return lambda obj: by_label(obj["metadata"].get("labels") or {}) and by_field(obj)


def _only_stamped(before: Object, obj: Object) -> bool:
    """Whether the objects differ only in the times of managedFields, for example because defaults are equal."""

    def timeless(one: Object) -> Object:
        entries = [{**entry, "time": ""} for entry in one["metadata"].get("managedFields") or ()]
        return {**one, "metadata": {**one["metadata"], "managedFields": entries}}

    return timeless(before) == timeless(obj)


def _patched(kind: Kind, live: Object, patch: Any, form: str) -> Any:
    if form == "json":
        return patches.json_patch(live, patch)
    if not isinstance(patch, dict):
        raise status.bad_request("a patch of this type must be a JSON object")
    if form == "merge":
        return patches.merge_patch(live, patch)
    if kind.custom:
        accepted = ("application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml")
        raise status.unsupported_media_type("application/strategic-merge-patch+json", accepted)
    return patches.strategic_merge_patch(kind.schema, live, patch)


def _cannot_decode(kind: Kind, why: str) -> str:
    return f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {why}'


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(found) for name, found in value.items() if found is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _generation_changed(kind: Kind, before: Object, obj: Object) -> bool:
    if not kind.counts_generation:
        return False
    if not kind.custom:
        annotated = kind.resource == "deployments.apps"
        return before.get("spec") != obj.get("spec") or (
            annotated and before["metadata"].get("annotations") != obj["metadata"].get("annotations")
        )
    ignored = {"metadata", "apiVersion", "kind"} | ({"status"} if kind.status else set())
    return any(before.get(name) != obj.get(name) for name in (before.keys() | obj.keys()) - ignored)


def is_removable(metadata: Object) -> bool:
    """Whether a deletion was requested, and neither finalizers nor a grace period keep the object."""
    return (
        "deletionTimestamp" in metadata
        and not metadata.get("finalizers")
        and not metadata.get("deletionGracePeriodSeconds")
    )


def _set_propagation(metadata: Object, propagation: str) -> None:
    finalizers = {"Foreground": [FOREGROUND], "Orphan": [ORPHAN], "Background": []}
    if propagation not in finalizers:
        words = f'Unsupported value: "{propagation}": supported values: "Background", "Foreground", "Orphan"'
        raise status.invalid("", "DeleteOptions", "", [("FieldValueNotSupported", words, "propagationPolicy")])
    kept: Sequence[str] = [name for name in metadata.get("finalizers") or () if name not in (FOREGROUND, ORPHAN)]
    metadata["finalizers"] = [*kept, *finalizers[propagation]]
    if not metadata["finalizers"]:
        del metadata["finalizers"]


def _grace_period(kind: Kind, obj: Object, requested: int | None) -> int:
    """Return the seconds that a kubelet has to stop a pod; 0 for other objects, which are deleted at once."""
    if kind.resource != "pods" or not obj["spec"].get("nodeName"):
        return 0
    if obj.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    seconds: int = obj["spec"].get("terminationGracePeriodSeconds", 30) if requested is None else requested
    return seconds
