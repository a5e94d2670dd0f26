"""What is kept in memory of a watched object: the few fields that observations are made of. Pure.

A watch of thousands of pods cannot keep them whole, and most of what changes in them (leases, timestamps, restart
counts) never matters. Texts that a container wrote are *raw* here: they may hold secret values, and must be
scrubbed before they leave this process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine import names
from engine.digests import digest
from engine.kubernetes.fingerprint import Fingerprint, fingerprint
from engine.operator import manifests
from engine.operator.observation.scrubbing import secret_names
from engine.ports import Manifest, ObjectKey

BENIGN_WAITS = frozenset({"", "ContainerCreating", "PodInitializing"})
"""Reasons for which a container waits while all is well."""
SAME_REASON = {"ErrImagePull": "ImagePullBackOff", "RegistryUnavailable": "ImagePullBackOff"}
"""Reasons between which a kubelet goes back and forth while one and the same thing is wrong."""
IMMUTABLE = {"StatefulSet": "f:volumeClaimTemplates"}
"""Kind → field of its spec whose owner tells nothing: the API server lets nobody change it, but the StatefulSet
controller, writing a status, fills it with defaults and so comes to own it."""
LOG_LINES = 10
LOG_CHARACTERS = 2000
MESSAGE_CHARACTERS = 1000
HASH_LABEL = "pod-template-hash"
REVISION_HASH_LABEL = "controller-revision-hash"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFailure:
    """Why a container does not come up, in words that may hold secret values."""

    container: str
    reason: str
    message: str
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedPod:
    """A pod."""

    uid: str
    name: str
    owner: str
    """uid of its controller."""
    revision: str
    """Update revision, for a pod of a StatefulSet."""
    unschedulable: str
    failure: RawFailure | None
    secrets: frozenset[str]
    """Names of the Secrets whose values it sees; only filled where it fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedReplicaSet:
    """A ReplicaSet."""

    uid: str
    name: str
    owner: str
    template: str
    """Digest of the pods' template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedWorkload:
    """A Deployment or StatefulSet."""

    key: ObjectKey
    uid: str
    generation: int
    observed_generation: int
    desired: int
    replicas: int
    ready: int
    updated: int
    available: int
    template: str
    """Digest of the pods' template."""
    update_revision: str
    deadline_exceeded: str
    cannot_create: str
    """Why the controller cannot make pods (a quota, say); empty when it can."""


Entry = tuple[str, str]
"""Host and path of a rule of an Ingress."""
Backend = tuple[str, int | str]
"""Service and port (number or name) that it leads to."""


def owner_label(manifest: Manifest) -> str | None:
    """Return the label value of the LGP that an object belongs to: by its label, else by its owner reference."""
    metadata = manifest["metadata"]
    label = (metadata.get("labels") or {}).get(names.LGP_LABEL)
    if label:
        return str(label)
    for owner in metadata.get("ownerReferences") or []:
        if owner.get("kind") == names.LGP_KIND and owner.get("apiVersion", "").startswith("apps.langchain.ai/"):
            return manifests.label_value(owner["name"])
    return None


def own_fingerprint(manifest: Manifest) -> Fingerprint:
    """Return the fingerprint of a live object under the operator's field manager, without IMMUTABLE fields."""
    field = IMMUTABLE.get(manifest.get("kind", ""))
    if field is None:
        return fingerprint(manifest, names.OPERATOR_MANAGER)
    entries = [
        {**entry, "fieldsV1": _without(entry.get("fieldsV1") or {}, field)}
        for entry in manifest["metadata"].get("managedFields") or []
    ]
    metadata = {**manifest["metadata"], "managedFields": entries}
    return fingerprint({**manifest, "metadata": metadata}, names.OPERATOR_MANAGER)


def _without(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    spec = {key: value for key, value in (fields.get("f:spec") or {}).items() if key != name}
    return {**fields, "f:spec": spec}


def observe_workload(manifest: Manifest) -> ObservedWorkload:
    """Return what matters of a Deployment or StatefulSet."""
    spec, status, metadata = manifest.get("spec") or {}, manifest.get("status") or {}, manifest["metadata"]
    conditions = {c.get("type"): c for c in status.get("conditions") or []}
    progressing, failing = conditions.get("Progressing") or {}, conditions.get("ReplicaFailure") or {}
    exceeded = progressing.get("reason") == "ProgressDeadlineExceeded" and progressing.get("status") == "False"
    return ObservedWorkload(
        key=ObjectKey.of(manifest),
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        observed_generation=status.get("observedGeneration", 0),
        desired=spec.get("replicas", 1),
        replicas=status.get("replicas", 0),
        ready=status.get("readyReplicas", 0),
        updated=status.get("updatedReplicas", 0),
        available=status.get("availableReplicas", 0),
        template=template_digest(spec.get("template") or {}),
        update_revision=status.get("updateRevision", ""),
        deadline_exceeded=progressing.get("message", "progress deadline exceeded") if exceeded else "",
        cannot_create=failing.get("message", "") if failing.get("status") == "True" else "",
    )


def observe_replica_set(manifest: Manifest) -> ObservedReplicaSet:
    """Return what matters of a ReplicaSet."""
    return ObservedReplicaSet(
        uid=manifest["metadata"]["uid"],
        name=manifest["metadata"]["name"],
        owner=_controller(manifest),
        template=template_digest((manifest.get("spec") or {}).get("template") or {}),
    )


def template_digest(template: Mapping[str, Any]) -> str:
    """Digest a pod template so that a Deployment's equals its ReplicaSet's, which has one label more."""
    metadata = template.get("metadata") or {}
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key != HASH_LABEL}
    return digest([labels, metadata.get("annotations") or {}, template.get("spec") or {}])


def observe_pod(manifest: Manifest) -> ObservedPod:
    """Return what matters of a pod; one that is being deleted has nothing wrong with it."""
    metadata, status = manifest["metadata"], manifest.get("status") or {}
    failure = None if "deletionTimestamp" in metadata else next(_failures(status), None)
    return ObservedPod(
        uid=metadata["uid"],
        name=metadata["name"],
        owner=_controller(manifest),
        revision=(metadata.get("labels") or {}).get(REVISION_HASH_LABEL, ""),
        unschedulable=_unschedulable(status),
        failure=failure,
        secrets=frozenset(secret_names(manifest.get("spec") or {})) if failure is not None else frozenset(),
    )


def _controller(manifest: Manifest) -> str:
    owners = manifest["metadata"].get("ownerReferences") or []
    return next((owner["uid"] for owner in owners if owner.get("controller")), "")


def _unschedulable(status: Manifest) -> str:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return str(condition.get("message", ""))[:MESSAGE_CHARACTERS]
    return ""


def _failures(status: Manifest) -> Iterator[RawFailure]:
    """Yield what is wrong with the containers of a pod, init containers first.

    A container that ended badly counts as crash looping until it is ready, also while it runs again: otherwise it
    would be fine and failing by turns.
    """
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        if container.get("ready"):
            continue
        state, last = container.get("state") or {}, container.get("lastState") or {}
        ended = state.get("terminated") or last.get("terminated") or {}
        crashed = ended.get("exitCode", 0) != 0
        waiting = state.get("waiting") or {}
        reason = SAME_REASON.get(waiting.get("reason", ""), waiting.get("reason", ""))
        if crashed and reason in {*BENIGN_WAITS, "CrashLoopBackOff"}:
            how = f"exit code {ended['exitCode']}" + (f", {ended['reason']}" if ended.get("reason") else "")
            log = _last_lines(ended.get("message") or "")
            yield RawFailure(
                container=container["name"], reason="CrashLoopBackOff", message=f"it ended with {how}", log=log
            )
        elif reason not in BENIGN_WAITS:
            message = str(waiting.get("message") or waiting["reason"])[:MESSAGE_CHARACTERS]
            yield RawFailure(container=container["name"], reason=reason, message=message, log="")


def _last_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-LOG_LINES:])[-LOG_CHARACTERS:]


def observe_routes(ingress: Manifest) -> dict[Entry, Backend]:
    """Return where the rules of an Ingress lead."""
    routes: dict[Entry, Backend] = {}
    for rule in (ingress.get("spec") or {}).get("rules") or []:
        for path in (rule.get("http") or {}).get("paths") or []:
            service = (path.get("backend") or {}).get("service") or {}
            port = service.get("port") or {}
            backend = (service.get("name", ""), port.get("number") or port.get("name", ""))
            routes[(rule.get("host", ""), path.get("path", ""))] = backend
    return routes
