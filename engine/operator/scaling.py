"""Which writer sets the number of replicas of a Deployment, and how the number changes hands. Pure.

Without autoscaling `spec.replicas` is ours: the field is part of our manifest, and another number is drift, whoever
wrote the number and through which subresource.

With autoscaling our manifest has no `spec.replicas`, so that no apply of ours touches the number. Dropping the field
needs care. The API server removes a field that no manager owns any more, and sets the default, one replica. So before
the operator applies such a manifest, it takes its ownership of the field out of `metadata.managedFields`, by a write
that changes nothing else: the number then stays until the autoscaler changes it.

A Deployment that does not exist yet starts with the minimum of its autoscaler, so that it has that size also where no
autoscaler works. So does a Deployment that the operator had scaled to zero, because an autoscaler would leave it at
zero. When autoscaling is switched off, the number is in the manifest again, and a forced apply takes the field back.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.kubernetes.managed_fields import Fields
from engine.ports import Manifest, ObjectKey

KIND_NOT_SERVED = "KindNotServed"
"""Reason of a rejection: the API server does not know the kind."""

KEDA_MISSING = (
    "install KEDA, or use HorizontalPodAutoscalers: set operator.kedaEnabled: false (AGENTPLANE_KEDA_ENABLED), or "
    "spec.autoscaling.autoscalerType: HPA in this LGP"
)
"""The fix when the API server does not serve ScaledObjects. HorizontalPodAutoscalers are part of Kubernetes."""

FEWEST = {"HorizontalPodAutoscaler": "minReplicas", "ScaledObject": "minReplicaCount"}
"""Kind of autoscaler → field of the autoscaler's spec with the minimum number of replicas."""


def is_autoscaler(key: ObjectKey) -> bool:
    """Return whether an object is an autoscaler."""
    return key.kind in FEWEST


def is_of_keda(key: ObjectKey) -> bool:
    """Return whether an object is of a kind that only clusters with KEDA serve."""
    return key.kind == "ScaledObject"


def not_served(key: ObjectKey) -> str:
    """Return the message of the rejection of a ScaledObject because the API server does not serve its kind."""
    return (
        f"{key} cannot be created, because this cluster does not serve {key.kind} {key.api_version}: {KEDA_MISSING}; "
        "until then the number of replicas stays as it is"
    )


def leaves_replicas_to_autoscaler(manifest: Manifest) -> bool:
    """Return whether a planned manifest leaves the number of replicas to an autoscaler."""
    return manifest["kind"] == "Deployment" and "replicas" not in manifest["spec"]


def first_replicas(deployment: str, manifests: Iterable[Manifest]) -> int:
    """Return how many replicas the Deployment named `deployment` starts with, if its autoscaler is among `manifests`.

    At least one, so that a pod runs also where no autoscaler works.
    """
    for manifest in manifests:
        field = FEWEST.get(manifest["kind"])
        if field is not None and manifest["spec"]["scaleTargetRef"]["name"] == deployment:
            return max(1, int(manifest["spec"][field]))
    return 1


def is_scaled_to_zero_by(live: Manifest, manager: str) -> bool:
    """Return whether `manager`, and no autoscaler, scaled a live Deployment to zero."""
    return live["spec"].get("replicas") == 0 and without_replicas(live, manager) is not None


def without_replicas(live: Manifest, manager: str) -> list[Fields] | None:
    """Return the `managedFields` of a live Deployment after `manager` no longer owns `spec.replicas` as an applier.

    None when `manager` does not own the field that way.
    """
    entries: list[Fields] = live["metadata"].get("managedFields") or []
    owning = [entry for entry in entries if _owns_replicas(entry, manager)]
    return [_drop_replicas(entry) if entry in owning else entry for entry in entries] if owning else None


def _owns_replicas(entry: Fields, manager: str) -> bool:
    if (entry.get("manager"), entry.get("operation")) != (manager, "Apply"):
        return False
    return "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})


def _drop_replicas(entry: Fields) -> Fields:
    fields = entry["fieldsV1"]
    spec = {name: below for name, below in fields["f:spec"].items() if name != "f:replicas"}
    return {**entry, "fieldsV1": {**fields, "f:spec": spec}}
