"""Who decides on the number of replicas of a Deployment, and how the decision changes hands. Pure.

Without autoscaling `spec.replicas` is ours: it is part of the manifest, and another number is drift, whoever wrote it
and through which subresource.

With autoscaling the manifest has no `spec.replicas`, so no apply of ours touches it. Giving it up needs care: the API
server takes a field that nobody owns any longer out of the object, and fills in the default, which is one replica.
So before such a manifest is applied, our claim is taken out of `metadata.managedFields`, by a write that changes
nothing else: then the number stays as it is until the autoscaler changes it. A Deployment that does not exist yet is
made with the fewest replicas that the autoscaler may choose, so that it is of that size also where no autoscaler
comes; so is one that we had scaled to nothing, at which an autoscaler would leave it. Switching autoscaling off puts
the number into the manifest again, and a forced apply takes it back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.ports import Manifest, ObjectKey

KIND_NOT_SERVED = "KindNotServed"
"""Reason of a rejection: the API server does not know the kind."""

KEDA_MISSING = (
    "install KEDA, or have HorizontalPodAutoscalers made: operator.kedaEnabled: false "
    "(AGENTPLANE_KEDA_ENABLED), or spec.autoscaling.autoscalerType: HPA of this LGP"
)
"""What to do where the API server does not serve ScaledObjects. HorizontalPodAutoscalers are part of Kubernetes."""

FEWEST = {"HorizontalPodAutoscaler": "minReplicas", "ScaledObject": "minReplicaCount"}
"""Kind of autoscaler → field of its spec with the fewest replicas."""


def is_autoscaler(key: ObjectKey) -> bool:
    """Whether an object decides on replicas."""
    return key.kind in FEWEST


def is_of_keda(key: ObjectKey) -> bool:
    """Whether an object is of a kind that only clusters with KEDA serve."""
    return key.kind == "ScaledObject"


def not_served(key: ObjectKey) -> str:
    """Return what to say of a ScaledObject where the API server does not serve its kind."""
    return (
        f"{key} cannot be made, for this cluster does not serve {key.kind} {key.api_version}: {KEDA_MISSING}; "
        "until then the number of replicas stays as it is"
    )


def is_left_to_an_autoscaler(manifest: Manifest) -> bool:
    """Whether a manifest to apply leaves the number of replicas to somebody else."""
    return manifest["kind"] == "Deployment" and "replicas" not in manifest["spec"]


def first_replicas(deployment: str, manifests: Iterable[Manifest]) -> int:
    """Return how many replicas a Deployment starts with, whose autoscaler is among `manifests`: at least one, so that
    something runs where no autoscaler comes.
    """
    for manifest in manifests:
        field = FEWEST.get(manifest["kind"])
        if field is not None and manifest["spec"]["scaleTargetRef"]["name"] == deployment:
            return max(1, int(manifest["spec"][field]))
    return 1


def is_at_nothing_by(live: Manifest, manager: str) -> bool:
    """Whether `manager`, and no autoscaler, scaled a live Deployment to no replicas."""
    return live["spec"].get("replicas") == 0 and without_claim(live, manager) is not None


def without_claim(live: Manifest, manager: str) -> list[dict[str, Any]] | None:
    """Return the `managedFields` of a live Deployment with `manager` no longer the applier of `spec.replicas`.

    None where it is not.
    """
    entries: list[dict[str, Any]] = live["metadata"].get("managedFields") or []
    claims = [entry for entry in entries if _claims(entry, manager)]
    return [_given_up(entry) if entry in claims else entry for entry in entries] if claims else None


def _claims(entry: dict[str, Any], manager: str) -> bool:
    if (entry.get("manager"), entry.get("operation")) != (manager, "Apply"):
        return False
    return "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})


def _given_up(entry: dict[str, Any]) -> dict[str, Any]:
    fields = entry["fieldsV1"]
    spec = {name: below for name, below in fields["f:spec"].items() if name != "f:replicas"}
    return {**entry, "fieldsV1": {**fields, "f:spec": spec}}
