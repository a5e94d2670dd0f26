"""Merges an LGP into a base object from a template: fields that the LGP sets win, the template gives all others.

Labels are the exception. A label that a selector uses keeps the template's value, and our own labels keep our values:
otherwise one line in an LGP could separate a Service from its pods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from engine import names
from engine.operator.config import OperatorConfig
from engine.operator.lgp import Lgp, Resources
from engine.operator.manifests import canonical
from engine.operator.manifests.naming import label_value, service_account_name
from engine.ports import JsonObject, Manifest


def own_labels(lgp: Lgp) -> dict[str, str]:
    """Return the labels that every object of `lgp` carries, and by which it is found."""
    return {names.MANAGED_BY_LABEL: names.MANAGED_BY, names.LGP_LABEL: label_value(lgp.name)}


def owner(lgp: Lgp) -> JsonObject:
    """Return the owner reference to `lgp`: Kubernetes deletes the object once the LGP is gone."""
    return {
        "apiVersion": names.LGP_API_VERSION,
        "kind": names.LGP_KIND,
        "name": lgp.name,
        "uid": lgp.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def metadata(
    lgp: Lgp,
    name: str,
    base: JsonObject | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> JsonObject:
    """Return the metadata of the object `name` of `lgp`, merged with the metadata of its template (`base`)."""
    base = base or {}
    marked = {**(base.get("labels") or {}), **lgp.spec.labels, **(labels or {}), **own_labels(lgp)}
    noted = {**(base.get("annotations") or {}), **lgp.spec.annotations, **(annotations or {})}
    return {
        **base,
        "name": name,
        "namespace": lgp.namespace,
        "labels": marked,
        **({"annotations": noted} if noted else {}),
        "ownerReferences": [owner(lgp)],
    }


def merge_workload(
    lgp: Lgp,
    manifest: Manifest,
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    selected_by: Iterable[str] = (),
) -> None:
    """Merge what every workload of `lgp` carries into a Deployment or StatefulSet, in place.

    `labels` and `annotations` are added to the LGP's own. `selected_by` are the keys of labels that selectors of other
    objects use.
    """
    spec = manifest["spec"]
    manifest["metadata"] = metadata(lgp, name, manifest.get("metadata"), labels=labels, annotations=annotations)
    template = spec["template"]
    base = template.get("metadata") or {}
    fixed = {*spec["selector"]["matchLabels"], *selected_by}
    kept = {key: value for key, value in (base.get("labels") or {}).items() if key in fixed}
    noted = {**(base.get("annotations") or {}), **lgp.spec.annotations, **(annotations or {})}
    template["metadata"] = {
        **base,
        "labels": {**(base.get("labels") or {}), **lgp.spec.labels, **(labels or {}), **own_labels(lgp), **kept},
        **({"annotations": noted} if noted else {}),
    }
    _placement(lgp, template["spec"])
    _account(lgp, template["spec"])
    _keep_crash_logs(template["spec"])
    canonical.pod_spec(template["spec"])


def limit_history(config: OperatorConfig, deployment: Manifest) -> None:
    """Limit how many empty ReplicaSets a Deployment keeps, in place, unless its template sets a limit (not null)."""
    if config.revision_history_limit is not None and deployment["spec"].get("revisionHistoryLimit") is None:
        deployment["spec"]["revisionHistoryLimit"] = config.revision_history_limit


def merged_resources(base: JsonObject | None, asked: Resources) -> JsonObject | None:
    """Return compute resources, None for none: an amount of cpu (memory, …) in `asked` replaces request and limit of
    cpu (memory, …) in `base`.

    Request and limit are replaced together, so that a template's limit is never below an LGP's request.
    """
    named = {*asked.requests, *asked.limits}
    merged: JsonObject = dict(base or {})
    for side, amounts in (("requests", asked.requests), ("limits", asked.limits)):
        kept = {name: amount for name, amount in (merged.get(side) or {}).items() if name not in named}
        if both := {**kept, **amounts}:
            merged[side] = both
        else:
            merged.pop(side, None)
    if asked.claims:
        merged["claims"] = asked.claims
    return merged or None


def merge_resources_into(container: JsonObject, asked: Resources) -> None:
    """Merge `asked` into the resources of `container`, in place."""
    if merged := merged_resources(container.get("resources"), asked):
        container["resources"] = merged


def merge_lists(base: Iterable[JsonObject] | None, added: Iterable[JsonObject], key: str) -> list[JsonObject]:
    """Return both lists as one; an added item takes the place of the base's item with the same value of `key`."""
    items = {item.get(key): item for item in base or ()}
    items.update({item.get(key): item for item in added})
    return list(items.values())


def _placement(lgp: Lgp, pod: JsonObject) -> None:
    spec = lgp.spec
    if spec.node_selector:
        pod["nodeSelector"] = {**(pod.get("nodeSelector") or {}), **spec.node_selector}
    if spec.tolerations:
        base = pod.get("tolerations") or []
        pod["tolerations"] = [*base, *(one for one in spec.tolerations if one not in base)]
    if spec.affinity:
        pod["affinity"] = {**(pod.get("affinity") or {}), **spec.affinity}


def _account(lgp: Lgp, pod: JsonObject) -> None:
    """Have the pods use the managed ServiceAccount when the LGP asks for one; it overrides every other name."""
    if lgp.spec.managed_resources.service_account is not None:
        pod.pop("serviceAccount", None)  # the older name of the same field, which a template may have
        pod["serviceAccountName"] = service_account_name(lgp)


def _keep_crash_logs(pod: JsonObject) -> None:
    """Have the kubelet copy the last log lines of a crash into the pod's status, where the operator reads them."""
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        container.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")
