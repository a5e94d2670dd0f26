"""Taking over an LGP that another listener wrote: whether it already asks for what we would ask for. Pure.

The control plane makes a new revision for every change of image or secrets. So an LGP that names the revision in its
environment (LANGSMITH_HOST_REVISION_ID, which is how an Agent Server comes to know its revision) and has its image asks
for the revision, in the other listener's words. It is left as it is, but for our labels, until there is a newer
revision, or until somebody changes it. Its database's identity is kept for good: the Secret with the password, and
how its objects are called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from engine import names
from engine.digests import canonical
from engine.kubernetes import managed_fields
from engine.listener.events import LgpAdopted
from engine.listener.state import AdoptedLgp, DeploymentState, Revision
from engine.ports import Manifest, Ports

REVISION_VARIABLE = "LANGSMITH_HOST_REVISION_ID"
KEPT = ("secretName", "legacyName")
"""Fields of `spec.database` that lead to the data."""

WRITTEN: Mapping[str, frozenset[str] | None] = {
    "serverSpec": frozenset(
        {
            "image",
            "replicas",
            "resources",
            "queueEnabled",
            "queueResources",
            "env",
            "annotations",
            "serviceAccountName",
            "imagePullSecrets",
            "initContainers",
            "sidecars",
            "volumes",
            "volumeMounts",
        }
    ),
    "database": frozenset({"enabled", "secretName", "legacyName", "resources", "storageSizeGi", "maxConnections"}),
    "redis": frozenset({"enabled", "resources"}),
    "ingress": frozenset({"enabled"}),
    "autoscaling": frozenset({"enabled", "minReplicas", "maxReplicas", "queueMinReplicas", "queueMaxReplicas"}),
    "labels": None,
    "annotations": None,
}
"""Fields of an LGP's spec that our listener may write (`desired.lgp_manifest`), and below each; None: whole. Every
other one, `managedResources` or a field that nobody here knows, is somebody else's to set and to take out."""


def without_others(left: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a merge patch of an LGP's spec that takes fields out what concerns fields that our listener writes."""
    kept: dict[str, Any] = {}
    for name, below in left.items():
        fields = WRITTEN.get(name)
        if name not in WRITTEN:
            continue
        if fields is None or not isinstance(below, Mapping):
            kept[name] = below
        elif written := {field: value for field, value in below.items() if field in fields}:
            kept[name] = written
    return kept


def is_foreign(live: Manifest) -> bool:
    """Whether somebody else wrote the spec of a live LGP."""
    return not managed_fields.applies(live, names.LISTENER_MANAGER, "spec")


def adopt(live: Manifest, revision: Revision, ports: Ports) -> LgpAdopted:
    """Return that the LGP is taken over, and what of it is kept."""
    spec = live.get("spec") or {}
    why = tuple(differences(spec, image=revision.image, revision_id=revision.id))
    database = spec.get("database") or {}
    return LgpAdopted(
        revision_id=revision.id,
        lgp=live["metadata"]["name"],
        uid=live["metadata"]["uid"],
        spec_digest="" if why else ports.digest(canonical(spec)),
        differences=why,
        database={name: database[name] for name in KEPT if database.get("enabled") and name in database},
        managers=tuple(managed_fields.other_managers(live, names.LISTENER_MANAGER)),
    )


def disowned(state: DeploymentState, live: Manifest | None) -> LgpAdopted:
    """Return that an LGP that was taken over as it was is written anew, for somebody changed it, or it is gone."""
    adopted = state.lgp.adopted or AdoptedLgp()
    return LgpAdopted(
        revision_id=adopted.untouched_for,
        lgp=state.lgp.name,
        uid=live["metadata"]["uid"] if live is not None else "",
        differences=("spec",),
        database=adopted.database,
        managers=tuple(managed_fields.other_managers(live, names.LISTENER_MANAGER)) if live is not None else (),
    )


def differences(spec: dict[str, Any], *, image: str, revision_id: str | None) -> Iterator[str]:
    """Yield the fields in which an LGP does not ask for a revision."""
    server = spec.get("serverSpec") or {}
    if server.get("image") != image:
        yield "spec.serverSpec.image"
    named = [entry.get("value") for entry in server.get("env") or [] if entry.get("name") == REVISION_VARIABLE]
    if named != [revision_id]:
        yield f"spec.serverSpec.env[{REVISION_VARIABLE}]"


def is_still(live: Manifest, spec_digest: str, ports: Ports) -> bool:
    """Whether an LGP that was taken over as it was still is."""
    return ports.digest(canonical(live.get("spec") or {})) == spec_digest


def of_deployment(state: DeploymentState, lgps: Iterable[Manifest]) -> Manifest | None:
    """Return the LGP of a deployment among some of its namespace, by the id that its name ends in."""
    return next((lgp for lgp in lgps if lgp["metadata"]["name"].endswith(f"-{_hex(state)}")), None)


def full_name(state: DeploymentState) -> str:
    """Return what the LGP is called where nothing is cut from the deployment's name."""
    return f"{state.registration.name}-{_hex(state)}"


def is_called_otherwise(state: DeploymentState) -> bool:
    """Whether another listener may have given the LGP another name: ours leaves out what does not fit."""
    return state.lgp.name != full_name(state)


def _hex(state: DeploymentState) -> str:
    return state.id.replace("-", "").lower()
