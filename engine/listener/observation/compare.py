"""What happens to a deployment's LGP and Secret in the cluster, as events of the deployment's stream. Pure.

Only what is material becomes an event: a status that says something else than the last one, drift, disappearance.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from engine.event import Event
from engine.kubernetes.fingerprint import difference, fingerprint
from engine.listener.events import DriftDetected, LgpGone, RolloutObserved
from engine.listener.state import DeploymentState, Rollout
from engine.names import DEPLOYMENT_LABEL, LISTENER_LABEL, LISTENER_MANAGER
from engine.ports import Manifest


def observe(state: DeploymentState | None, lgp: Manifest | None) -> list[Event]:
    """Return the events that an LGP as it is now (None: it does not exist) adds to what `state` knows.

    A deployment that the log does not know is not ours, or not yet: nothing to say.
    """
    if state is None or not state.id:
        return []
    if state.deleted:
        return _remains(state, lgp)
    if lgp is None:
        going = state.deletion_started is not None
        known_gone = state.lgp_gone if going else state.lgp_gone or state.applied is None or state.drifted
        return [] if known_gone else [LgpGone()]
    found: list[Event] = []
    being_deleted = "deletionTimestamp" in lgp.get("metadata", {}) or bool(state.deletion_reason)
    if state.applied is not None and not state.drifted and not being_deleted:
        changed = difference(state.applied.fingerprint, fingerprint(lgp, LISTENER_MANAGER))
        if changed is not None:
            found.append(DriftDetected(object=f"LGP {state.namespace}/{state.lgp}", change=changed))
    observed = rollout(lgp)
    if observed is not None and _said(observed) != state.rollout:
        found.append(observed)
    return found


def _remains(state: DeploymentState, lgp: Manifest | None) -> list[Event]:
    """Return DriftDetected when a deployment that was deleted has an LGP of ours all the same."""
    if lgp is None or state.drifted or not is_remainder(state, lgp):
        return []
    return [DriftDetected(object=f"LGP {state.namespace}/{state.lgp}", change=OUTLIVED)]


def is_remainder(state: DeploymentState, manifest: Manifest) -> bool:
    """Whether an object is what a worker that slept through its lock made for a deployment that was deleted since."""
    metadata = manifest["metadata"]
    labels = metadata.get("labels") or {}
    listener = labels.get(LISTENER_LABEL)
    ours = labels.get(DEPLOYMENT_LABEL) == state.id and listener == (state.listener_id or listener)
    return ours and "deletionTimestamp" not in metadata


OUTLIVED = "it is there after its deletion"


def observe_secret(state: DeploymentState | None, name: str, secret: Manifest | None) -> list[Event]:
    """Return DriftDetected when the current revision's Secret disappeared, or any outlived its deployment.

    `name` is the Secret's, and `secret` what there is of it.
    """
    if state is None or state.secret_drifted:
        return []
    if state.deleted and secret is not None and is_remainder(state, secret):
        return [DriftDetected(object=f"Secret {state.namespace}/{name}", change=OUTLIVED)]
    if state.revision is None or state.deletion_reason:
        return []
    if secret is not None or state.revision.secret != name:
        return []
    return [DriftDetected(object=f"Secret {state.namespace}/{name}", change="it was deleted")]


def _said(event: RolloutObserved) -> Rollout:
    return Rollout(
        generation=event.generation,
        available=event.available,
        progressing=event.progressing,
        failing_since=event.failing_since,
        reason=event.reason,
        message=event.message,
        ready=event.ready,
        replicas=event.replicas,
        warning=event.warning,
    )


def rollout(lgp: Manifest) -> RolloutObserved | None:
    """Return what the status of an LGP says, or None when no operator has written one yet.

    Reads conditions where there are any, and else the replica counts, so that another operator's status serves too.
    """
    status = lgp.get("status") or {}
    if not status:
        return None
    conditions = {c.get("type"): c for c in status.get("conditions", [])}
    counts = status.get("deploymentStatus") or {}
    degraded = conditions.get("Degraded", {})
    failing = degraded.get("status") == "True"
    available = _available(conditions, counts)
    return RolloutObserved(
        generation=_generation(lgp, conditions),
        available=available,
        progressing=conditions.get("Progressing", {}).get("status") == "True",
        database_ready=conditions["DatabaseReady"].get("status") == "True"
        if "DatabaseReady" in conditions
        else available,
        failing_since=_time(degraded.get("lastTransitionTime")) if failing else None,
        reason=degraded.get("reason", "") if failing else "",
        message=degraded.get("message", "") if failing else "",
        replicas=counts.get("replicas", 0),
        ready=counts.get("readyReplicas", 0),
        updated_revision=counts.get("updateRevision", ""),
        warning=_warning(conditions.get("Autoscaling", {})),
    )


def _warning(autoscaling: dict[str, Any]) -> str:
    """Return what the condition says where the autoscaler that is asked for cannot be made."""
    if autoscaling.get("status") != "False" or autoscaling.get("reason") == "Pending":
        return ""
    return f"{autoscaling.get('reason', '')}: {autoscaling.get('message', '')}"


def _generation(lgp: Manifest, conditions: dict[str, Any]) -> int:
    """Return the generation that the status speaks of.

    An operator that does not say so is taken to speak of the present one, unless its status is older than our spec.
    """
    said = lgp["status"].get("observedGeneration") or conditions.get("Available", {}).get("observedGeneration")
    if said:
        return int(said)
    metadata = lgp["metadata"]
    present = int(metadata.get("generation", 0))
    entries = metadata.get("managedFields", [])
    told = [entry.get("time", "") for entry in entries if "f:status" in entry.get("fieldsV1", {})]
    asked = [entry.get("time", "") for entry in entries if entry.get("manager") == LISTENER_MANAGER]
    return present - 1 if told and asked and max(told) < max(asked) else present


def _available(conditions: dict[str, Any], counts: dict[str, Any]) -> bool:
    """Whether the spec that the status speaks of is rolled out completely."""
    if "Available" in conditions:
        said: str = conditions["Available"].get("status", "")
        return said == "True"
    replicas: int = counts.get("replicas", 0)
    updated: int = counts.get("updatedReplicas", 0)
    available: int = counts.get("availableReplicas", 0)
    return replicas > 0 and replicas == updated == available


def _time(value: str | None) -> datetime | None:
    """Return a time that somebody else wrote, None when there is none to be read."""
    try:
        time = datetime.fromisoformat(value) if value else None
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time
