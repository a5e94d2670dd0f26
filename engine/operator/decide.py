"""What to do next for an LGP. Pure: compares what is asked for with what went out, one act at a time.

In order: nothing for an LGP that is unknown or being deleted; for one that is gone, what Kubernetes does not collect;
otherwise autoscalers that are no longer asked for (two of them, or one of them and we, would fight over the replicas),
objects that differ or drifted, other objects that are no longer asked for, autoscalers that have not worked for too
long, then the LGP's status.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from engine.digests import digest
from engine.operator.acts import ApplyObjects, ApplyStatus, JudgeAutoscalers, PruneEverything, PruneObjects
from engine.operator.observation.autoscalers import GRACE
from engine.operator.plan import Plan, PlannedObject
from engine.operator.scaling import is_autoscaler
from engine.operator.state import Life, ObjectState, OperatorState
from engine.operator.status import DEFERRALS_TO_TELL, compute_status
from engine.runtime.machine import Act, Decision, Done, Wait


def decide(state: OperatorState, plan: Plan, now: datetime) -> Decision:
    """Return the next step; `plan` is what `state.lgp` asks for."""
    waits: list[Wait] = []
    for act in _acts(state, plan, now):
        hold = state.held.get(act.name)
        if hold is None or hold.until <= now:
            return act
        waits.append(Wait(hold.until, f"{act.name}: {hold.reason}"))
        if not hold.refused and hold.attempts < DEFERRALS_TO_TELL:
            break  # most likely the API server is away, for the other acts as well
    if state.life is Life.PRESENT:
        waits += _timers(state, plan, now)
    return min(waits, key=lambda wait: wait.until) if waits else Done(IDLE[state.life])


AT_ONCE = datetime.min.replace(tzinfo=UTC)

IDLE = {
    Life.UNKNOWN: "never observed",
    Life.PRESENT: "everything is as asked",
    Life.DELETING: "being deleted: its objects are left to Kubernetes",
    Life.GONE: "being pruned",
    Life.PRUNED: "gone, and nothing of it left",
}


def _acts(state: OperatorState, plan: Plan, now: datetime) -> Iterator[Act]:
    """Yield every act that there is reason for, most pressing first."""
    if state.life is Life.GONE:
        yield PruneEverything()
    if state.life is not Life.PRESENT or state.lgp is None:
        return
    unwanted = tuple(key for key, entry in state.objects.items() if prunable(entry, key, plan))
    retired = tuple(key for key in unwanted if is_autoscaler(state.objects[key].applied.key))
    if retired:
        yield PruneObjects(keys=retired)
    keys = tuple(key for key, wanted in plan.objects.items() if due(state, wanted, now))
    if keys:
        yield ApplyObjects(keys=keys)
    if unwanted:
        yield PruneObjects(keys=unwanted)
    judged = {key: judged_at(state, plan, key) for key in state.autoscalers}
    overdue = tuple(key for key, at in judged.items() if at is not None and at <= now)
    if overdue:
        yield JudgeAutoscalers(keys=overdue)
    status = digest(compute_status(state, plan).status)
    if status != state.status_digest:
        yield ApplyStatus(digest=status)


def due(state: OperatorState, wanted: PlannedObject, now: datetime) -> bool:
    """Whether the object is to be applied now."""
    at = due_at(state, wanted)
    return at is not None and at <= now


def due_at(state: OperatorState, wanted: PlannedObject) -> datetime | None:
    """Return from when the object is to be applied: AT_ONCE for what differs, None for what is as asked."""
    key = str(wanted.key)
    rejection = state.rejected.get(key)
    if rejection is not None and rejection.digest == wanted.digest:
        return rejection.retry_at
    entry = state.objects.get(key)
    if entry is None or entry.applied.digest != wanted.digest:
        return AT_ONCE
    return entry.repair_at if entry.drift else None


def at_rest(state: OperatorState, plan: Plan, key: str) -> bool:
    """Whether the object went out as asked and nothing is known to be wrong with it: only then can it drift."""
    wanted, entry = plan.objects.get(key), state.objects.get(key)
    if wanted is None or entry is None or state.life is not Life.PRESENT:
        return False
    return not entry.drift and key not in state.rejected and entry.applied.digest == wanted.digest


def prunable(entry: ObjectState, key: str, plan: Plan) -> bool:
    """Whether an object that went out is to be deleted while its LGP exists. Databases and their passwords never
    are.
    """
    if plan.problem is not None or key in plan.objects:
        return False
    applied = entry.applied
    of_database = applied.key.kind == "Service" and applied.key.name == plan.database_name
    database = applied.key.kind == "StatefulSet" or of_database
    return not (database or applied.credential)


def judged_at(state: OperatorState, plan: Plan, key: str) -> datetime | None:
    """Return when an autoscaler that does not work is no longer waited for; None: not, or not yet, to be judged.

    While anything rolls out, there may be no pods to have metrics of, nor the table that a trigger reads.
    """
    entry, rolled_out = state.autoscalers[key], state.rolled_out
    if key not in plan.objects or entry.since is None or entry.unhealthy or state.lgp is None:
        return None
    if rolled_out is None or rolled_out.generation != state.lgp.generation:
        return None
    return max(entry.since, datetime.fromisoformat(rolled_out.at)) + GRACE


def _timers(state: OperatorState, plan: Plan, now: datetime) -> Iterator[Wait]:
    for key, wanted in plan.objects.items():
        at = due_at(state, wanted)
        if at is not None and at > now:
            rejection = state.rejected.get(key)
            yield Wait(at, f"{key}: {rejection.message if rejection else 'somebody keeps changing it'}")
    for key, entry in state.autoscalers.items():
        at = judged_at(state, plan, key)
        if at is not None and at > now:
            yield Wait(at, f"{key} does not work yet ({entry.observed.reason})")
