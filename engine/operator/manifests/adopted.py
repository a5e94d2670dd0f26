"""What stays of objects that were there before this log made any: what leads to them, and what cannot be changed.

A workload's selector is fixed for its life, and a Service that selected other pods would lead nowhere until they are
there. So both keep theirs, and our pods carry the labels that they ask for. A StatefulSet also keeps the claims that
it makes. Whether pods are left as they are is decided in `engine/operator/plan.py`, which compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.operator.events import AdoptedObject
from engine.operator.lgp import Lgp
from engine.ports import Manifest

FIXED = {
    "Deployment": ("selector",),
    "StatefulSet": ("selector", "serviceName", "volumeClaimTemplates", "podManagementPolicy"),
}
"""Kind → fields of its spec that the API server lets nobody change."""


def kept_object(lgp: Lgp, kind: str, name: str) -> AdoptedObject | None:
    """Return what is kept of the object of that name, None for one that we made."""
    return lgp.adopted.objects.get(f"{kind} {lgp.namespace}/{name}")


def keep_selector(lgp: Lgp, manifest: Manifest, name: str = "") -> None:
    """Let a workload or Service select what it did when it was taken over, in place, and its pods carry that.

    `name` is the object's, where its metadata does not say so yet.
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
    """Let the pods of a workload carry what the Service of that name selects since before it was taken over."""
    kept = kept_object(lgp, "Service", service)
    if kept is not None:
        carry(manifest, kept.selector)


def carry(manifest: Manifest, labels: Mapping[str, str]) -> None:
    """Put `labels` onto the pods of a workload, in place."""
    metadata = manifest["spec"]["template"].setdefault("metadata", {})
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels}


def keep_database_image(lgp: Lgp, container: dict[str, Any]) -> None:
    """Let a database that was taken over run its image until the template has another than it had then, in place.

    A data directory is of one major version of Postgres: another image may not start on it.
    """
    database = lgp.adopted.database
    if database is not None and database.template_image == container.get("image"):
        container["image"] = database.image


def without_fixed(manifest: Manifest) -> Manifest:
    """Return the manifest of a workload that was taken over, without what nobody can change."""
    left_out = FIXED.get(manifest["kind"], ())
    return {**manifest, "spec": {key: value for key, value in manifest["spec"].items() if key not in left_out}}


def without_pods(manifest: Manifest) -> Manifest:
    """Return the manifest of a workload without its pod template: whatever runs goes on running."""
    return {**manifest, "spec": {key: value for key, value in manifest["spec"].items() if key != "template"}}
