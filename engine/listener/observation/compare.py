"""What happens to a deployment's LGP and Secret in the cluster, as events of the deployment's stream. Pure.

Three kinds of change become events: a status that differs from the last one, drift, and disappearance. Drift, for the
listener, is

- an LGP whose fields of ours, or whose spec, another client changed, or that has a namesake in its place;
- the Secret of the current revision that does not exist any more;
- an LGP or Secret of ours that exists although its deployment was deleted.
"""

from __future__ import annotations

from datetime import UTC, datetime

from engine.event import Event
from engine.kubernetes.fingerprint import difference, fingerprint
from engine.listener.desired import secret_key
from engine.listener.events import DriftDetected, LgpGone, RolloutObserved
from engine.listener.state import DeploymentState, Rollout
from engine.names import DEPLOYMENT_LABEL, LISTENER_LABEL, LISTENER_MANAGER
from engine.ports import JsonObject, Manifest, lgp_key


def observe_lgp(state: DeploymentState | None, lgp: Manifest | None) -> list[Event]:
    """Return the events that an LGP as it is now (None: it does not exist) adds to what `state` knows.

    A deployment that the log does not know is not ours, or not yet, so it has no events.
    """
    if state is None or not state.id:
        return []
    if state.deleted:
        return _remains(state, lgp)
    if lgp is None:
        return [] if _is_known_gone(state) else [LgpGone()]
    found: list[Event] = []
    being_deleted = "deletionTimestamp" in lgp.get("metadata", {}) or state.deletion is not None
    applied = state.lgp.applied
    if applied is not None and not state.lgp.drifted and not being_deleted:
        changed = difference(applied.fingerprint, fingerprint(lgp, LISTENER_MANAGER))
        if changed is not None:
            found.append(DriftDetected(key=lgp_key(state.namespace, state.lgp.name), change=changed))
    observed = rollout(lgp)
    if observed is not None and Rollout.of(observed) != state.rollout:
        found.append(observed)
    return found


def _is_known_gone(state: DeploymentState) -> bool:
    """Whether the log knows that the LGP does not exist, or that the listener has not made it yet."""
    if state.deletion is not None and (state.deletion.started is not None or state.deletion.lgp_gone):
        return state.deletion.lgp_gone
    return state.lgp.applied is None or state.lgp.drifted


def _remains(state: DeploymentState, lgp: Manifest | None) -> list[Event]:
    """Return DriftDetected when a deleted deployment still has an LGP of ours."""
    if lgp is None or state.lgp.drifted or not is_remainder(state, lgp):
        return []
    return [DriftDetected(key=lgp_key(state.namespace, state.lgp.name), change=OUTLIVED)]


def is_remainder(state: DeploymentState, manifest: Manifest) -> bool:
    """Whether an object belongs to a deployment that was deleted: a worker that had lost its lock made it too late."""
    metadata = manifest["metadata"]
    labels = metadata.get("labels") or {}
    listener = labels.get(LISTENER_LABEL)
    ours = labels.get(DEPLOYMENT_LABEL) == state.id and listener == (state.registration.listener_id or listener)
    return ours and "deletionTimestamp" not in metadata


OUTLIVED = "it exists although its deployment was deleted"


def observe_secret(state: DeploymentState | None, name: str, secret: Manifest | None) -> list[Event]:
    """Return DriftDetected when the current revision's Secret disappeared, or any Secret outlived its deployment.

    `name` is the name of the Secret; `secret` is the Secret as it is now, None when it does not exist.
    """
    if state is None or state.secrets.drifted:
        return []
    if state.deleted and secret is not None and is_remainder(state, secret):
        return [DriftDetected(key=secret_key(state, name), change=OUTLIVED)]
    if state.revision is None or state.deletion is not None:
        return []
    if secret is not None or state.revision.secret != name:
        return []
    return [DriftDetected(key=secret_key(state, name), change="it was deleted")]


def rollout(lgp: Manifest) -> RolloutObserved | None:
    """Return what the status of an LGP says, or None when no operator has written a status yet.

    Conditions count where there are any, else the replica counts, so that the status of another operator serves too.
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


def _warning(autoscaling: JsonObject) -> str:
    """Return reason and message of the condition Autoscaling when it is False and not pending; otherwise empty."""
    if autoscaling.get("status") != "False" or autoscaling.get("reason") == "Pending":
        return ""
    return f"{autoscaling.get('reason', '')}: {autoscaling.get('message', '')}"


def _generation(lgp: Manifest, conditions: dict[str, JsonObject]) -> int:
    """Return the generation that the status is about.

    When the operator does not say, the status counts as one of the present generation, unless it is older than our
    spec.
    """
    observed = lgp["status"].get("observedGeneration") or conditions.get("Available", {}).get("observedGeneration")
    if observed:
        return int(observed)
    metadata = lgp["metadata"]
    present = int(metadata.get("generation", 0))
    entries = metadata.get("managedFields", [])
    status_times = [entry.get("time", "") for entry in entries if "f:status" in entry.get("fieldsV1", {})]
    spec_times = [entry.get("time", "") for entry in entries if entry.get("manager") == LISTENER_MANAGER]
    is_older = bool(status_times and spec_times) and max(status_times) < max(spec_times)
    return present - 1 if is_older else present


def _available(conditions: dict[str, JsonObject], counts: JsonObject) -> bool:
    """Whether the spec that the status is about is rolled out completely."""
    if "Available" in conditions:
        available_condition: str = conditions["Available"].get("status", "")
        return available_condition == "True"
    replicas: int = counts.get("replicas", 0)
    updated: int = counts.get("updatedReplicas", 0)
    available: int = counts.get("availableReplicas", 0)
    return replicas > 0 and replicas == updated == available


def _time(value: str | None) -> datetime | None:
    """Return the time of a condition in UTC, None when there is none or it cannot be read."""
    try:
        time = datetime.fromisoformat(value) if value else None
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time
