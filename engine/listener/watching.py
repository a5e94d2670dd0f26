"""What happens to a deployment's LGP and Secret in the cluster, as events of the deployment's stream. Pure.

Only what is material becomes an event: a status that says something else than the last one, drift, disappearance.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from engine.drift import difference, fingerprint
from engine.event import Event
from engine.listener import events as e
from engine.listener.state import DeploymentState, Rollout
from engine.names import LISTENER_MANAGER
from engine.ports import Manifest


def observe(state: DeploymentState | None, lgp: Manifest | None) -> list[Event]:
    """Return the events that an LGP as it is now (None: it does not exist) adds to what `state` knows.

    A deployment that the log does not know is not ours, or not yet: nothing to say.
    """
    if state is None or not state.id or state.deleted:
        return []
    if lgp is None:
        known_gone = state.lgp_gone or (state.applied is None and state.deletion_started is None) or state.drifted
        return [] if known_gone else [e.LgpGone()]
    found: list[Event] = []
    being_deleted = "deletionTimestamp" in lgp.get("metadata", {}) or bool(state.deletion_reason)
    if state.applied is not None and not state.drifted and not being_deleted:
        changed = difference(state.applied.fingerprint, fingerprint(lgp, LISTENER_MANAGER))
        if changed is not None:
            found.append(e.DriftDetected(object=f"LGP {state.namespace}/{state.lgp}", change=changed))
    observed = rollout(lgp)
    if observed is not None and _said(observed) != state.rollout:
        found.append(observed)
    return found


def observe_secret(state: DeploymentState | None, name: str, secret: Manifest | None) -> list[Event]:
    """Return DriftDetected when the current revision's Secret, `name`, disappeared."""
    if state is None or state.revision is None or state.deletion_reason or state.secret_drifted:
        return []
    if secret is not None or state.revision.secret != name:
        return []
    return [e.DriftDetected(object=f"Secret {state.namespace}/{name}", change="it was deleted")]


def _said(event: e.RolloutObserved) -> Rollout:
    return Rollout(
        generation=event.generation,
        available=event.available,
        progressing=event.progressing,
        failing_since=event.failing_since,
        reason=event.reason,
        message=event.message,
        ready=event.ready,
        replicas=event.replicas,
    )


def rollout(lgp: Manifest) -> e.RolloutObserved | None:
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
    return e.RolloutObserved(
        generation=status.get("observedGeneration", 0),
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
    )


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
    return datetime.fromisoformat(value) if value else None
