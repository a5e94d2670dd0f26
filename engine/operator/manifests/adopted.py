"""What adopted objects keep: their selectors, and the fields that the API server lets no client change.

Adopted objects existed before this log made any. A workload's selector is fixed for its life. A Service with a new
selector would lead nowhere until pods match the selector. So both keep their selectors, and our pods carry the labels
that the selectors ask for. A StatefulSet also keeps its volume claim templates. Whether an adopted workload keeps its
pods is decided in `engine/operator/plan.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.operator.events import AdoptedObject
from engine.operator.lgp import Lgp
from engine.ports import JsonObject, Manifest

FIXED = {
    "Deployment": ("selector",),
    "StatefulSet": ("selector", "serviceName", "volumeClaimTemplates", "podManagementPolicy"),
}
"""Kind → fields of its spec that the API server lets no client change."""


def kept_object(lgp: Lgp, kind: str, name: str) -> AdoptedObject | None:
    """Return what the adopted object of that kind and name keeps; None for an object that was not adopted."""
    return lgp.adopted.objects.get(f"{kind} {lgp.namespace}/{name}")


def keep_selector(lgp: Lgp, manifest: Manifest, name: str = "") -> None:
    """Give an adopted workload or Service the selector that it had, in place, and a workload's pods the labels for it.

    `name` is the object's name, for a manifest whose metadata does not have it yet.
    """
    kept = kept_object(lgp, manifest["kind"], name or manifest["metadata"]["name"])
    if kept is None or not kept.selector:
        return
    if manifest["kind"] == "Service":
        manifest["spec"]["selector"] = dict(kept.selector)
        return
    manifest["spec"]["selector"] = {"matchLabels": dict(kept.selector)}
    carry(manifest, kept.selector)


def keep_selected(lgp: Lgp, manifest: Manifest, service: str) -> None:
    """Give the pods of a workload the labels that the adopted Service `service` selects, in place."""
    kept = kept_object(lgp, "Service", service)
    if kept is not None:
        carry(manifest, kept.selector)


def carry(manifest: Manifest, labels: Mapping[str, str]) -> None:
    """Add `labels` to the pod template of a workload, in place."""
    metadata = manifest["spec"]["template"].setdefault("metadata", {})
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels}


def keep_database_image(lgp: Lgp, container: JsonObject) -> None:
    """Keep the image of an adopted database, in place, until the template's image changes.

    A data directory belongs to one major version of Postgres; another image may not start on it.
    """
    database = lgp.adopted.database
    if database is not None and database.template_image == container.get("image"):
        container["image"] = database.image


def without_fixed(manifest: Manifest) -> Manifest:
    """Return the manifest of an adopted workload without its FIXED fields."""
    left_out = FIXED.get(manifest["kind"], ())
    return {**manifest, "spec": {key: value for key, value in manifest["spec"].items() if key not in left_out}}


def without_pods(manifest: Manifest) -> Manifest:
    """Return the manifest of a workload without its pod template, so that its pods stay as they are."""
    return {**manifest, "spec": {key: value for key, value in manifest["spec"].items() if key != "template"}}
