"""Subresources scale, binding and finalize, and access reviews; in the sandbox every client may do everything."""

from __future__ import annotations

from typing import Any

from sandbox.kubernetes import patches, status
from sandbox.kubernetes.kinds import Kind
from sandbox.kubernetes.registry import Registry, Request, now
from sandbox.kubernetes.selectors import selector_text
from sandbox.kubernetes.store import Object

SUCCESS: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

_ADMIN = {"username": "sandbox-admin", "groups": ["system:masters", "system:authenticated"]}


def _at(obj: Any, path: str) -> Any:
    for name in path.strip(".").split("."):
        obj = obj.get(name) if isinstance(obj, dict) else None
    return obj


def scale_of(kind: Kind, obj: Object) -> Object:
    """Return the `autoscaling/v1` Scale of an object whose kind has a scale subresource."""
    paths = kind.scale or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    metadata = {name: obj["metadata"][name] for name in kept if name in obj["metadata"]}
    found: Object = {"replicas": _at(obj, paths.get("statusReplicasPath", "")) or 0}
    selector = _at(obj, paths["labelSelectorPath"]) if paths.get("labelSelectorPath") else None
    if selector:
        found["selector"] = selector if isinstance(selector, str) else selector_text(selector)
    replicas = _at(obj, paths["specReplicasPath"])
    spec = {} if not replicas else {"replicas": replicas}
    return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": found}


def rescale(
    registry: Registry, kind: Kind, namespace: str, name: str, body: Any, form: str, request: Request
) -> Object:
    """Replace (`form` is `put`) or patch an object's Scale; return it. Raises ApiError 404, 409, 415, 422."""
    obj = registry.get(kind, namespace, name)
    before = scale_of(kind, obj)
    before["spec"].setdefault("replicas", 0)
    if form == "put":
        after = body
    elif form == "json":
        after = patches.json_patch(before, body)
    elif form in ("merge", "strategic", "apply"):
        after = patches.merge_patch(before, body)
    else:
        raise status.unsupported_media_type("", ["application/merge-patch+json", "application/json-patch+json"])
    version = (after.get("metadata") or {}).get("resourceVersion")
    if version not in (None, "", obj["metadata"]["resourceVersion"]):
        raise status.modified(kind.group, kind.plural, name)
    replicas = (after.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or replicas < 0:
        cause = status.wrong("spec.replicas", replicas, "must be greater than or equal to 0")
        raise status.invalid("autoscaling", "Scale", name, [cause])
    *parents, last = (kind.scale or {})["specReplicasPath"].strip(".").split(".")
    target = obj
    for parent in parents:
        target = target.setdefault(parent, {})
    target[last] = replicas
    obj["apiVersion"] = kind.api_version
    return scale_of(kind, registry.update(kind, obj, request=request))


def bind(registry: Registry, namespace: str, name: str, binding: Object) -> Object:
    """Assign a pod to a node. Raises ApiError 404, or 409 when the pod has a node."""
    pod = registry.found("pods", namespace, name)
    if pod.object["spec"].get("nodeName"):
        node = pod.object["spec"]["nodeName"]
        raise status.conflict("", "pods/binding", name, f'pod {name} is already assigned to node "{node}"')
    placed = pod.copy()
    placed["spec"]["nodeName"] = binding["target"]["name"]
    conditions = [at for at in placed["status"].get("conditions") or () if at["type"] != "PodScheduled"]
    scheduled = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": now()}
    placed["status"]["conditions"] = [*conditions, scheduled]
    registry.store.update("pods", placed)
    return {**SUCCESS, "code": 201}


def finalize(registry: Registry, name: str, namespace: Object) -> Object:
    """Set the finalizers in a namespace's spec; a terminating namespace without finalizers is removed."""
    stored = registry.found("namespaces", "", name)
    finalizers = (namespace.get("spec") or {}).get("finalizers") or []
    changed = stored.copy()
    changed["spec"] = {"finalizers": finalizers} if finalizers else {}
    if not finalizers and "deletionTimestamp" in changed["metadata"]:
        registry.finalize_namespace(name)
        return changed
    return registry.store.update("namespaces", changed).copy()


def review(document: Object) -> Object:
    """Answer an access, rules or token review: every authenticated client may do everything."""
    answers: dict[str, Object] = {
        "SelfSubjectRulesReview": {
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": False,
        },
        "TokenReview": {"authenticated": True, "user": _ADMIN},
        "SelfSubjectReview": {"userInfo": _ADMIN},
    }
    return {**document, "status": answers.get(document.get("kind", ""), {"allowed": True})}
