"""Decides what the operator does next for an LGP. Pure: compares the plan with the state, chooses one act at a time.

The acts, most pressing first. For an unknown LGP, or one that is being deleted: none. For an LGP that does not exist:
delete what Kubernetes does not collect. Otherwise:

1. delete autoscalers that the LGP no longer asks for (two autoscalers, or an autoscaler and the operator, would fight
   over the number of replicas);
2. apply objects that differ from the plan or drifted;
3. delete other objects that the LGP no longer asks for;
4. mark autoscalers that have not worked for longer than the grace time;
5. write the LGP's status.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from engine.digests import digest
from engine.operator.acts import (
    ApplyObjects,
    ApplyStatus,
    MarkAutoscalersUnhealthy,
    PruneEverything,
    PruneObjects,
)
from engine.operator.observation.autoscalers import GRACE
from engine.operator.plan import Plan, PlannedObject
from engine.operator.scaling import is_autoscaler
from engine.operator.state import Life, ObjectState, OperatorState
from engine.operator.status import REPORTED_ATTEMPTS, compute_status
from engine.runtime.machine import Act, Decision, Done, Wait


def decide(state: OperatorState, plan: Plan, now: datetime) -> Decision:
    """Return the next step; `plan` is what `state.lgp` asks for, `now` is UTC."""
    waits: list[Wait] = []
    for act in _candidates(state, plan, now):
        deferral = state.deferrals.holding(act, now)
        if deferral is None:
            return act
        waits.append(Wait(deferral.until, f"{act.name}: {deferral.reason}"))
        if not deferral.refused and deferral.attempts < REPORTED_ATTEMPTS:
            break  # most likely the API server does not answer, and would not answer the other acts either
    if state.life is Life.PRESENT:
        waits += _timers(state, plan, now)
    return min(waits, key=lambda wait: wait.until) if waits else Done(IDLE[state.life])


AT_ONCE = datetime.min.replace(tzinfo=UTC)

IDLE = {
    Life.UNKNOWN: "never observed",
    Life.PRESENT: "everything is as asked",
    Life.DELETING: "Kubernetes is deleting the LGP and its objects",
    Life.GONE: "being pruned",
    Life.PRUNED: "the LGP does not exist, and none of its objects is left",
}
"""Why there is nothing to do in each life."""


def _candidates(state: OperatorState, plan: Plan, now: datetime) -> Iterator[Act]:
    """Yield every act that there is a reason for, most pressing first, whether or not the act is deferred."""
    if state.life is Life.GONE:
        yield PruneEverything()
    if state.life is not Life.PRESENT or state.lgp is None:
        return
    unwanted = tuple(key for key, entry in state.objects.items() if prunable(entry, key, plan))
    unwanted_autoscalers = tuple(key for key in unwanted if is_autoscaler(state.objects[key].applied.key))
    if unwanted_autoscalers:
        yield PruneObjects(keys=unwanted_autoscalers)
    keys = tuple(key for key, planned in plan.objects.items() if due(state, planned, now))
    if keys:
        yield ApplyObjects(keys=keys)
    if unwanted:
        yield PruneObjects(keys=unwanted)
    overdue = tuple(key for key in state.autoscalers if _is_past(unhealthy_at(state, plan, key), now))
    if overdue:
        yield MarkAutoscalersUnhealthy(keys=overdue)
    status = digest(compute_status(state, plan).status)
    if status != state.status_digest:
        yield ApplyStatus(digest=status)


def _is_past(at: datetime | None, now: datetime) -> bool:
    return at is not None and at <= now


def due(state: OperatorState, planned: PlannedObject, now: datetime) -> bool:
    """Return whether the operator applies the object now."""
    return _is_past(due_at(state, planned), now)


def due_at(state: OperatorState, planned: PlannedObject) -> datetime | None:
    """Return from when on the operator applies the object: AT_ONCE if it differs from the plan, None if not at all."""
    key = str(planned.key)
    rejection = state.rejected.get(key)
    if rejection is not None and rejection.digest == planned.digest:
        return rejection.retry_at
    entry = state.objects.get(key)
    if entry is None or entry.applied.digest != planned.digest:
        return AT_ONCE
    return entry.repair_at if entry.drift else None


def at_rest(state: OperatorState, plan: Plan, key: str) -> bool:
    """Return whether the object was applied as planned and has no known defect: only such an object can drift."""
    planned, entry = plan.objects.get(key), state.objects.get(key)
    if planned is None or entry is None or state.life is not Life.PRESENT:
        return False
    return not entry.drift and key not in state.rejected and entry.applied.digest == planned.digest


def prunable(entry: ObjectState, key: str, plan: Plan) -> bool:
    """Return whether the operator deletes an applied object while its LGP exists. Databases and their passwords stay
    until the LGP is deleted.
    """
    if plan.problem is not None or key in plan.objects:
        return False
    applied = entry.applied
    of_database = applied.key.kind == "Service" and applied.key.name == plan.database_name
    database = applied.key.kind == "StatefulSet" or of_database
    return not (database or applied.credential)


def unhealthy_at(state: OperatorState, plan: Plan, key: str) -> datetime | None:
    """Return when the grace time of an autoscaler that does not work ends; None while no grace time runs.

    None while anything rolls out: there may be no pods with metrics, and no table that a trigger reads.
    """
    entry, rolled_out = state.autoscalers[key], state.rolled_out
    if key not in plan.objects or entry.since is None or entry.unhealthy or state.lgp is None:
        return None
    if rolled_out is None or rolled_out.generation != state.lgp.generation:
        return None
    return max(entry.since, datetime.fromisoformat(rolled_out.at)) + GRACE


def _timers(state: OperatorState, plan: Plan, now: datetime) -> Iterator[Wait]:
    for key, planned in plan.objects.items():
        at = due_at(state, planned)
        if at is not None and at > now:
            rejection = state.rejected.get(key)
            yield Wait(at, f"{key}: {rejection.message if rejection else 'another writer keeps changing the object'}")
    for key, entry in state.autoscalers.items():
        at = unhealthy_at(state, plan, key)
        if at is not None and at > now:
            yield Wait(at, f"{key} does not work yet ({entry.observed.reason})")
