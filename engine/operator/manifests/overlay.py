"""Laying an LGP over a base object: the LGP wins in what it says, the template in all the rest.

Labels are the exception. A label that a selector uses keeps the template's value, and labels of our own keep ours:
otherwise one line in an LGP could tear a Service from its pods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from engine import names
from engine.operator.config import OperatorConfig
from engine.operator.lgp import Lgp, Resources
from engine.operator.manifests import canonical
from engine.operator.manifests.naming import label_value, service_account_name
from engine.ports import Manifest

Json = Any


def own_labels(lgp: Lgp) -> dict[str, str]:
    """Return the labels by which every object of `lgp` is found."""
    return {names.MANAGED_BY_LABEL: names.MANAGED_BY, names.LGP_LABEL: label_value(lgp.name)}


def owner(lgp: Lgp) -> dict[str, Json]:
    """Return the owner reference by which Kubernetes collects an object once the LGP is gone."""
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
    base: Mapping[str, Json] | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Json]:
    """Return the metadata of an object called `name` beside `lgp`, over that of its template."""
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


def workload(
    lgp: Lgp,
    manifest: Manifest,
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    selected_by: Iterable[str] = (),
) -> None:
    """Lay over a Deployment or StatefulSet what every resource of `lgp` carries, in place.

    `labels` and `annotations` are more than the LGP's own. `selected_by` names labels that selectors elsewhere use.
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
    _last_words(template["spec"])
    canonical.pod_spec(template["spec"])


def history(config: OperatorConfig, deployment: Manifest) -> None:
    """Limit how many empty ReplicaSets a Deployment keeps, in place. A template's own limit stands; null is none."""
    if config.revision_history_limit is not None and deployment["spec"].get("revisionHistoryLimit") is None:
        deployment["spec"]["revisionHistoryLimit"] = config.revision_history_limit


def resources(base: dict[str, Json] | None, asked: Resources) -> dict[str, Json] | None:
    """Return compute resources: what `asked` says about cpu (or memory, …) replaces all that `base` says about it.

    Request and limit go together, so that a template's limit never ends up below an LGP's request.
    """
    named = {*asked.requests, *asked.limits}
    merged: dict[str, Json] = dict(base or {})
    for side, amounts in (("requests", asked.requests), ("limits", asked.limits)):
        kept = {name: amount for name, amount in (merged.get(side) or {}).items() if name not in named}
        if both := {**kept, **amounts}:
            merged[side] = both
        else:
            merged.pop(side, None)
    if asked.claims:
        merged["claims"] = asked.claims
    return merged or None


def set_resources(container: dict[str, Json], asked: Resources) -> None:
    """Lay `asked` over the resources of `container`, in place."""
    if merged := resources(container.get("resources"), asked):
        container["resources"] = merged


def joined(base: Iterable[Json] | None, added: Iterable[Json], key: str) -> list[Json]:
    """Return both lists as one; an added item replaces the base's of the same `key`, at the base's place."""
    items = {item.get(key): item for item in base or ()}
    items.update({item.get(key): item for item in added})
    return list(items.values())


def _placement(lgp: Lgp, pod: dict[str, Json]) -> None:
    spec = lgp.spec
    if spec.node_selector:
        pod["nodeSelector"] = {**(pod.get("nodeSelector") or {}), **spec.node_selector}
    if spec.tolerations:
        base = pod.get("tolerations") or []
        pod["tolerations"] = [*base, *(one for one in spec.tolerations if one not in base)]
    if spec.affinity:
        pod["affinity"] = {**(pod.get("affinity") or {}), **spec.affinity}


def _account(lgp: Lgp, pod: dict[str, Json]) -> None:
    """Let the pods of an LGP that asks for an account of its own use that one, whatever else names one."""
    if lgp.spec.managed_resources.service_account is not None:
        pod.pop("serviceAccount", None)  # the older name of the same field, which a template may have
        pod["serviceAccountName"] = service_account_name(lgp)


def _last_words(pod: dict[str, Json]) -> None:
    """Let the last log lines of a crash reach the pod's status, where the operator reads them."""
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        container.setdefault("terminationMessagePolicy", "FallbackToLogsOnError")
