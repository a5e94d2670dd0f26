"""The state machine of an LGP, as the operator sees it. Everything that changes it lives in this file.

Theory of operation. The *life* of an LGP moves by the table `TRANSITIONS`: PRESENT once it was observed, DELETING
when it carries a deletionTimestamp (Kubernetes collects its objects, nothing more is applied), GONE when it does not
exist, and PRUNED when nothing of it is left. An LGP that is made again under the same name is PRESENT again, with
another uid, which makes every manifest new, since they name their owner by uid.

Within a life the state is level-based: what is asked for (`lgp`), what went out (`objects`), what the API server did
not take (`rejected`), how the workloads are (`workloads`), and what the LGP's status says (`status`). `decide`
compares; nothing here remembers what to do next.

An act that failed is *held*: a passing failure until the time that its event names, a refusal (no permission, say)
for a time that doubles up to an hour, since a person may mend it without touching the LGP. New input lifts every
hold.

Nothing here knows the configuration. Whether the LGP is rolled out is judged by `status.status`, which does; its
verdict comes back as `LgpStatusApplied.rolled_out`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Any

from engine.event import Event
from engine.kubernetes.repairs import CALM, repair_delay
from engine.operator.events import (
    Adopted,
    AppliedObject,
    AutoscalerObserved,
    AutoscalerStatus,
    AutoscalerUnhealthy,
    DriftDetected,
    LgpObserved,
    LgpRemoved,
    LgpStatusApplied,
    ObjectRejected,
    ObjectsAdopted,
    ObjectsApplied,
    ObjectsPruned,
    RolledOut,
    Stopped,
    Value,
    WorkloadObserved,
    WorkloadStatus,
)
from engine.runtime.machine import State
from engine.runtime.retry import ActDeferred, ActRefused, refused_delay


class Life(StrEnum):
    """Whether there is an LGP to serve."""

    UNKNOWN = "UNKNOWN"
    """Never observed."""
    PRESENT = "PRESENT"
    """It exists; its objects are kept as it asks."""
    DELETING = "DELETING"
    """It is being deleted; its objects are left to Kubernetes."""
    GONE = "GONE"
    """It does not exist; what Kubernetes does not collect must go."""
    PRUNED = "PRUNED"
    """Nothing of it is left."""


TRANSITIONS: dict[tuple[Life, str], Life] = {
    (Life.UNKNOWN, "LgpObserved"): Life.PRESENT,
    (Life.UNKNOWN, "LgpObserved(deleting)"): Life.DELETING,
    (Life.PRESENT, "LgpObserved(deleting)"): Life.DELETING,
    (Life.PRESENT, "LgpRemoved"): Life.GONE,
    (Life.DELETING, "LgpObserved"): Life.PRESENT,
    (Life.DELETING, "LgpRemoved"): Life.GONE,
    (Life.GONE, "ObjectsPruned(everything)"): Life.PRUNED,
    (Life.GONE, "LgpObserved"): Life.PRESENT,
    (Life.GONE, "LgpObserved(deleting)"): Life.DELETING,
    (Life.PRUNED, "LgpObserved"): Life.PRESENT,
    (Life.PRUNED, "LgpObserved(deleting)"): Life.DELETING,
}
"""Every change of life. An event that is not here leaves it alone."""

SUCCESS_OF = {
    "ObjectsAdopted": "ApplyObjects",
    "ObjectsApplied": "ApplyObjects",
    "ObjectRejected": "ApplyObjects",
    "ObjectsPruned": "PruneObjects",
    "AutoscalerUnhealthy": "JudgeAutoscalers",
    "LgpStatusApplied": "ApplyStatus",
}
"""Which act an event shows to have come through, so that its hold ends."""

PERMANENT_STATUS = frozenset({422})
"""HTTP statuses that condemn the object itself: the same manifest is not sent again. Everything else (a quota, a
missing namespace, permission or definition, a policy of an admission webhook) can be mended without touching the
LGP."""


class ObservedLgp(Value):
    """The LGP as it was observed last, without secret values."""

    namespace: str
    name: str
    uid: str
    generation: int
    revision: str
    deployment_id: str
    spec: dict[str, Any]
    digest: str
    unknown: tuple[str, ...] = ()
    """Paths of the fields of the spec that the operator does not know."""
    stopped: Stopped | None = None


class ObjectState(Value):
    """An object that went out."""

    applied: AppliedObject
    at: datetime
    drift: str = ""
    """What is wrong with it now; empty when nothing is."""
    drifted_at: datetime | None = None
    repairs: int = 0
    """Drifts in a row, each soon after our apply."""

    @property
    def repair_at(self) -> datetime:
        """When a drift may be mended: at once, unless somebody keeps undoing it."""
        return self.at if self.drifted_at is None else self.drifted_at + repair_delay(self.repairs)


class Rejection(Value):
    """A manifest that the API server does not take."""

    digest: str
    kind: str
    name: str
    status: int
    reason: str
    message: str
    since: datetime
    at: datetime
    attempts: int

    @property
    def retry_at(self) -> datetime | None:
        """When the same manifest is worth another try; None for never."""
        return None if self.status in PERMANENT_STATUS else self.at + refused_delay(self.attempts)


class WorkloadState(Value):
    """A workload as it was observed last."""

    observed: WorkloadStatus
    failing_since: datetime | None = None
    """When its present failure was first seen, for this template of pods."""


class AutoscalerState(Value):
    """An autoscaler as it was observed last."""

    observed: AutoscalerStatus
    since: datetime | None = None
    """When it stopped working, or was first seen not to work yet; None: it works."""
    worked: bool = False
    """It has worked before."""
    unhealthy: bool = False
    """It has not worked for too long."""


class Hold(Value):
    """An act that failed."""

    until: datetime
    reason: str
    attempts: int
    refused: bool
    since: datetime


class OperatorState(State):
    """What is known of one LGP."""

    life: Life = Life.UNKNOWN
    lgp: ObservedLgp | None = None
    adopted: Adopted | None = None
    """What was there of its objects before this log made any; None: nothing."""
    objects: dict[str, ObjectState] = {}
    """By `str(key)`."""
    rejected: dict[str, Rejection] = {}
    workloads: dict[str, WorkloadState] = {}
    autoscalers: dict[str, AutoscalerState] = {}
    """Those that told something of themselves."""
    status: dict[str, Any] = {}
    """What the LGP's status says by our doing."""
    status_digest: str = ""
    rolled_out: RolledOut | None = None
    held: dict[str, Hold] = {}
    """By act."""
    changed_at: datetime | None = None
    """When the last event happened: the only clock that the LGP's status knows."""

    @property
    def last_reason(self) -> str:
        """Why things are as they are, for a person; empty when all is well."""
        told = {"Degraded": "True", "Autoscaling": "False", "DisruptionBudgets": "False", "IgnoredFields": "True"}
        for kind, status in told.items():
            for condition in self.status.get("conditions", []):
                if (condition["type"], condition["status"]) == (kind, status):
                    return f"{condition['reason']}: {condition['message']}"
        return next((f"{act}: {hold.reason}" for act, hold in self.held.items()), "")


def evolve(state: OperatorState, event: Event, at: datetime) -> OperatorState:
    """Fold one event that happened `at` (UTC)."""
    state = _move(state, event)
    state = _release(state, event)
    handler = HANDLERS.get(event.type)
    if handler is not None:
        state = handler(state, event, at)
    return state.model_copy(update={"changed_at": at})


def _move(state: OperatorState, event: Event) -> OperatorState:
    """Apply the transition table."""
    what = event.type
    match event:
        case LgpObserved(deleting=True):
            what = "LgpObserved(deleting)"
        case ObjectsPruned(everything=True):
            what = "ObjectsPruned(everything)"
    life = TRANSITIONS.get((state.life, what))
    return state if life is None else state.model_copy(update={"life": life})


def _release(state: OperatorState, event: Event) -> OperatorState:
    """End the hold of the act that came through; new input ends every hold."""
    if not state.held:
        return state
    if isinstance(event, LgpObserved | LgpRemoved):
        return state.model_copy(update={"held": {}})
    act = SUCCESS_OF.get(event.type)
    if act not in state.held:
        return state
    return state.model_copy(update={"held": {name: hold for name, hold in state.held.items() if name != act}})


def _observed(state: OperatorState, event: LgpObserved, at: datetime) -> OperatorState:
    view = ObservedLgp(**event.model_dump(exclude={"deleting"}))
    if state.lgp is not None and state.lgp.uid != event.uid:
        # Another LGP under the same name. Objects of the first may still be there, and are taken over.
        state = OperatorState(life=state.life, adopted=state.adopted, objects=state.objects)
    return state.model_copy(update={"lgp": view})


def _removed(state: OperatorState, event: LgpRemoved, at: datetime) -> OperatorState:
    return state.model_copy(update={"status": {}, "status_digest": "", "rolled_out": None, "rejected": {}})


def _adopted(state: OperatorState, event: ObjectsAdopted, at: datetime) -> OperatorState:
    return state.model_copy(update={"adopted": event.adopted})


def _without_adopted(state: OperatorState, key: str) -> OperatorState:
    """Return the state without what was kept of an object that does not exist any more; its names stay."""
    if state.adopted is None or key not in state.adopted.objects:
        return state
    objects = {name: kept for name, kept in state.adopted.objects.items() if name != key}
    return state.model_copy(update={"adopted": state.adopted.model_copy(update={"objects": objects})})


def _applied(state: OperatorState, event: ObjectsApplied, at: datetime) -> OperatorState:
    objects = dict(state.objects)
    for applied in event.objects:
        before = objects.get(str(applied.key))
        objects[str(applied.key)] = ObjectState(applied=applied, at=at, repairs=before.repairs if before else 0)
    rejected = {key: rejection for key, rejection in state.rejected.items() if key not in _keys(event.objects)}
    return state.model_copy(update={"objects": objects, "rejected": rejected})


def _keys(objects: tuple[AppliedObject, ...]) -> set[str]:
    return {str(applied.key) for applied in objects}


def _rejected(state: OperatorState, event: ObjectRejected, at: datetime) -> OperatorState:
    before = state.rejected.get(str(event.key))
    again = before is not None and before.digest == event.digest
    rejection = Rejection(
        digest=event.digest,
        kind=event.key.kind,
        name=event.key.name,
        status=event.status,
        reason=event.reason,
        message=event.message,
        since=before.since if before and again else at,
        at=at,
        attempts=before.attempts + 1 if before and again else 1,
    )
    return state.model_copy(update={"rejected": {**state.rejected, str(event.key): rejection}})


def _pruned(state: OperatorState, event: ObjectsPruned, at: datetime) -> OperatorState:
    if event.everything:
        return OperatorState(life=state.life, lgp=state.lgp)

    def kept(entries: dict[str, Any]) -> dict[str, Any]:
        return {key: entry for key, entry in entries.items() if key not in event.objects}

    return state.model_copy(
        update={
            "objects": kept(state.objects),
            "workloads": kept(state.workloads),
            "autoscalers": kept(state.autoscalers),
            "rejected": kept(state.rejected),
        }
    )


def _drifted(state: OperatorState, event: DriftDetected, at: datetime) -> OperatorState:
    key = str(event.key)
    before = state.objects.get(key)
    if key in state.rejected:
        # What kept it out may be over.
        rejected = {name: rejection for name, rejection in state.rejected.items() if name != key}
        state = state.model_copy(update={"rejected": rejected})
    if event.change == "deleted":
        state = _without_adopted(state, key)
    if before is None:
        return state
    soon = at - before.at < CALM
    drifted = before.model_copy(
        update={
            "drift": f"{event.change}: {event.detail}",
            "drifted_at": at,
            "repairs": before.repairs + 1 if soon else 1,
        }
    )
    return state.model_copy(update={"objects": {**state.objects, key: drifted}})


def _workload(state: OperatorState, event: WorkloadObserved, at: datetime) -> OperatorState:
    key = str(event.workload.key)
    since = None
    if (failure := event.workload.failure) is not None:
        before = state.workloads.get(key)
        known = before.observed.failure if before else None
        same = known is not None and before is not None and before.observed.template == event.workload.template
        same = same and known is not None and known.reason == failure.reason
        since = before.failing_since if before is not None and same else at
    observed = WorkloadState(observed=event.workload, failing_since=since)
    return state.model_copy(update={"workloads": {**state.workloads, key: observed}})


def _autoscaler(state: OperatorState, event: AutoscalerObserved, at: datetime) -> OperatorState:
    seen = event.autoscaler
    before = state.autoscalers.get(str(seen.key))
    if before is not None and before.observed.uid != seen.uid:
        before = None
    works = not seen.reason
    now = AutoscalerState(
        observed=seen,
        since=None if works else (before.since if before is not None else None) or at,
        worked=works or (before is not None and before.worked),
        unhealthy=not works and before is not None and before.unhealthy,
    )
    return state.model_copy(update={"autoscalers": {**state.autoscalers, str(seen.key): now}})


def _unhealthy(state: OperatorState, event: AutoscalerUnhealthy, at: datetime) -> OperatorState:
    before = state.autoscalers.get(str(event.key))
    if before is None or before.since is None:
        return state  # it works again
    now = before.model_copy(update={"unhealthy": True})
    return state.model_copy(update={"autoscalers": {**state.autoscalers, str(event.key): now}})


def _status_applied(state: OperatorState, event: LgpStatusApplied, at: datetime) -> OperatorState:
    return state.model_copy(
        update={"status": event.status, "status_digest": event.digest, "rolled_out": event.rolled_out}
    )


def _deferred(state: OperatorState, event: ActDeferred, at: datetime) -> OperatorState:
    return _hold(state, event.act, event.reason, at, until=event.retry_at, refused=False)


def _refused(state: OperatorState, event: ActRefused, at: datetime) -> OperatorState:
    before = state.held.get(event.act)
    attempts = before.attempts + 1 if before is not None and before.refused else 1
    return _hold(state, event.act, event.reason, at, until=at + refused_delay(attempts), refused=True)


def _hold(
    state: OperatorState, act: str, reason: str, at: datetime, *, until: datetime, refused: bool
) -> OperatorState:
    before = state.held.get(act)
    same = before is not None and before.refused is refused
    hold = Hold(
        until=until,
        reason=reason,
        attempts=before.attempts + 1 if before is not None and same else 1,
        refused=refused,
        since=before.since if before is not None and same else at,
    )
    return state.model_copy(update={"held": {**state.held, act: hold}})


Handler = Callable[[OperatorState, Any, datetime], OperatorState]

HANDLERS: dict[str, Handler] = {
    "LgpObserved": _observed,
    "LgpRemoved": _removed,
    "ObjectsAdopted": _adopted,
    "ObjectsApplied": _applied,
    "ObjectRejected": _rejected,
    "ObjectsPruned": _pruned,
    "DriftDetected": _drifted,
    "WorkloadObserved": _workload,
    "AutoscalerObserved": _autoscaler,
    "AutoscalerUnhealthy": _unhealthy,
    "LgpStatusApplied": _status_applied,
    "ActDeferred": _deferred,
    "ActRefused": _refused,
}
