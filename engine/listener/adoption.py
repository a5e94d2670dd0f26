"""Adoption of an LGP that another listener wrote: whether the LGP already asks for our current revision. Pure.

The control plane makes a new revision for every change of image or secrets. So an LGP asks for the revision if it has
the revision's image, and names the revision in its environment (LANGSMITH_HOST_REVISION_ID, from which an Agent Server
learns its revision). The listener only adds its labels to such an LGP, until there is a newer revision, or until
another writer changes the spec. The fields that lead to the database's data are kept for good: the Secret with the
password, and the name of the database's objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from engine import names
from engine.digests import canonical
from engine.event import Json, JsonObject
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
"""Field of an LGP's spec that our listener may write (`desired.lgp_manifest`) → the fields below it that our listener
may write; None: all. Every other field (`managedResources`, or a field that this program does not know) belongs to
other writers, who set and remove it."""


def without_others(left: Mapping[str, Json]) -> JsonObject:
    """Return the part of a merge patch that removes fields which our listener may write.

    `left` is a merge patch of an LGP's spec that removes fields.
    """
    kept: JsonObject = {}
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
    """Whether another listener wrote the spec of a live LGP."""
    return not managed_fields.applies(live, names.LISTENER_MANAGER, "spec")


def adopt(live: Manifest, revision: Revision, ports: Ports) -> LgpAdopted:
    """Return the adoption of a live LGP: whether its spec stays, and what of its database is kept."""
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
    """Return the event that an adopted LGP is rewritten, because another writer changed or deleted it."""
    adopted = state.lgp.adopted or AdoptedLgp()
    return LgpAdopted(
        revision_id=adopted.untouched_for,
        lgp=state.lgp.name,
        uid=live["metadata"]["uid"] if live is not None else "",
        differences=("spec",),
        database=adopted.database,
        managers=tuple(managed_fields.other_managers(live, names.LISTENER_MANAGER)) if live is not None else (),
    )


def differences(spec: JsonObject, *, image: str, revision_id: str | None) -> Iterator[str]:
    """Yield the paths of the fields in which an LGP does not ask for the revision."""
    server = spec.get("serverSpec") or {}
    if server.get("image") != image:
        yield "spec.serverSpec.image"
    named = [entry.get("value") for entry in server.get("env") or [] if entry.get("name") == REVISION_VARIABLE]
    if named != [revision_id]:
        yield f"spec.serverSpec.env[{REVISION_VARIABLE}]"


def is_still(live: Manifest, spec_digest: str, ports: Ports) -> bool:
    """Whether the spec of an adopted LGP is unchanged since its adoption."""
    return ports.digest(canonical(live.get("spec") or {})) == spec_digest


def of_deployment(state: DeploymentState, lgps: Iterable[Manifest]) -> Manifest | None:
    """Return the LGP of a deployment among LGPs of its namespace: its name ends in the deployment's id."""
    return next((lgp for lgp in lgps if lgp["metadata"]["name"].endswith(f"-{_hex(state)}")), None)


def full_name(state: DeploymentState) -> str:
    """Return the name of the LGP if nothing is cut from the deployment's name."""
    return f"{state.registration.name}-{_hex(state)}"


def is_called_otherwise(state: DeploymentState) -> bool:
    """Whether another listener may have given the LGP another name: ours cuts what does not fit."""
    return state.lgp.name != full_name(state)


def _hex(state: DeploymentState) -> str:
    return state.id.replace("-", "").lower()
