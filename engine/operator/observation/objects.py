"""The few fields that the observer keeps of a watched object. Pure.

Whole pods are too large to be kept by the thousand, and most of what changes in them (timestamps, restart counts) never
matters. Texts that a container wrote are *raw* here: they may hold secret values, and must be scrubbed
(`scrubbing`) before they leave this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine import names
from engine.digests import digest
from engine.kubernetes.fingerprint import Fingerprint, fingerprint
from engine.operator import manifests
from engine.operator.observation.scrubbing import secret_names
from engine.ports import JsonObject, Manifest, ObjectKey

BENIGN_WAITS = frozenset({"", "ContainerCreating", "PodInitializing"})
"""Reasons of a container that waits although nothing is wrong."""
SAME_REASON = {"ErrImagePull": "ImagePullBackOff", "RegistryUnavailable": "ImagePullBackOff"}
"""Reason → the reason that counts instead: a kubelet alternates between them while the same thing is wrong."""
IMMUTABLE = {"StatefulSet": "f:volumeClaimTemplates"}
"""Kind → field of its spec whose owner does not matter. No client can change the field. But the StatefulSet controller
fills in defaults when it writes a status, and so comes to own it."""
LOG_LINES = 10
"""Last lines of a crashed container's log that are kept."""
LOG_CHARACTERS = 2000
"""Last characters of these lines that are kept."""
MESSAGE_CHARACTERS = 1000
"""Characters of any other message that are kept."""
HASH_LABEL = "pod-template-hash"
REVISION_HASH_LABEL = "controller-revision-hash"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFailure:
    """Why a container does not come up; the texts may hold secret values."""

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
    """Why the scheduler finds no node; empty when it has found one."""
    failure: RawFailure | None
    secrets: frozenset[str]
    """Names of the Secrets whose values the pod sees; empty unless the pod fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedReplicaSet:
    """A ReplicaSet."""

    uid: str
    name: str
    owner: str
    """uid of its controller."""
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


HostPath = tuple[str, str]
"""Host (empty: any) and path of a rule of an Ingress."""
Backend = tuple[str, int | str]
"""Service and port (number or name) that a path leads to."""


def owner_label(manifest: Manifest) -> str | None:
    """Return the value of LGP_LABEL of an object, else the value that its owner reference gives; None for neither."""
    metadata = manifest["metadata"]
    label = (metadata.get("labels") or {}).get(names.LGP_LABEL)
    if label:
        return str(label)
    for owner in metadata.get("ownerReferences") or []:
        if owner.get("kind") == names.LGP_KIND and owner.get("apiVersion", "").startswith("apps.langchain.ai/"):
            return manifests.label_value(owner["name"])
    return None


def own_fingerprint(manifest: Manifest) -> Fingerprint:
    """Return the fingerprint of a live object under the operator's field manager, without the IMMUTABLE field."""
    field = IMMUTABLE.get(manifest.get("kind", ""))
    if field is None:
        return fingerprint(manifest, names.OPERATOR_MANAGER)
    entries = [
        {**entry, "fieldsV1": _without(entry.get("fieldsV1") or {}, field)}
        for entry in manifest["metadata"].get("managedFields") or []
    ]
    metadata = {**manifest["metadata"], "managedFields": entries}
    return fingerprint({**manifest, "metadata": metadata}, names.OPERATOR_MANAGER)


def _without(fields: JsonObject, name: str) -> JsonObject:
    spec = {key: value for key, value in (fields.get("f:spec") or {}).items() if key != name}
    return {**fields, "f:spec": spec}


def observe_workload(manifest: Manifest) -> ObservedWorkload:
    """Return the fields of a Deployment or StatefulSet that are kept."""
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
    """Return the fields of a ReplicaSet that are kept."""
    return ObservedReplicaSet(
        uid=manifest["metadata"]["uid"],
        name=manifest["metadata"]["name"],
        owner=_controller(manifest),
        template=template_digest((manifest.get("spec") or {}).get("template") or {}),
    )


def template_digest(template: JsonObject) -> str:
    """Return the digest of a pod template, the same for a Deployment and its ReplicaSet, which has one label more."""
    metadata = template.get("metadata") or {}
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key != HASH_LABEL}
    return digest([labels, metadata.get("annotations") or {}, template.get("spec") or {}])


def observe_pod(manifest: Manifest) -> ObservedPod:
    """Return the fields of a pod that are kept; a pod that is being deleted counts as free of failures."""
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


def _unschedulable(status: JsonObject) -> str:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return str(condition.get("message", ""))[:MESSAGE_CHARACTERS]
    return ""


def _failures(status: JsonObject) -> Iterator[RawFailure]:
    """Yield the failures of the containers of a pod, init containers first.

    A container that ended with an error counts as crash looping until it is ready, also while it runs again: otherwise
    its failure would come and go with every restart.
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


def observe_paths(ingress: Manifest) -> dict[HostPath, Backend]:
    """Return the paths of an Ingress and where they lead."""
    paths: dict[HostPath, Backend] = {}
    for rule in (ingress.get("spec") or {}).get("rules") or []:
        for path in (rule.get("http") or {}).get("paths") or []:
            service = (path.get("backend") or {}).get("service") or {}
            port = service.get("port") or {}
            backend = (service.get("name", ""), port.get("number") or port.get("name", ""))
            paths[(rule.get("host", ""), path.get("path", ""))] = backend
    return paths
