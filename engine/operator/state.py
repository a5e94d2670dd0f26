"""The state machine of an LGP in the operator. Every change of the state is made in this file.

Theory of operation. The *life* of an LGP changes only by the table `TRANSITIONS`: PRESENT after the LGP was observed,
DELETING while the LGP carries a deletionTimestamp (Kubernetes deletes the LGP's objects, the operator applies nothing),
GONE when the LGP does not exist, and PRUNED when none of its objects is left. An LGP that is created again under the
same name is PRESENT again. Its uid is another one, and since manifests name their owner by uid, every manifest changes.

Within a life the state is level-based: what the LGP asks for (`lgp`), what the operator applied (`objects`), what the
API server rejected (`rejected`), how the workloads are (`workloads`), and what the LGP's status says (`status`).
`decide` compares these fields; no field says what to do next.

An act that failed is deferred (engine/runtime/deferral.py). A new or changed LGP ends every deferral.

Nothing here knows the configuration. `compute_status` (engine/operator/status.py), which knows the configuration,
computes whether the LGP is rolled out; `LgpStatusApplied.rolled_out` brings the result into the state.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from engine.event import Event
from engine.kubernetes.repairs import CALM, repair_delay
from engine.operator.acts import ApplyObjects, ApplyStatus, MarkAutoscalersUnhealthy, PruneObjects
from engine.operator.events import (
    Adopted,
    AppliedObject,
    AutoscalerObserved,
    AutoscalerStatus,
    AutoscalerUnhealthy,
    DriftDetected,
    LgpObserved,
    LgpRemoved,
    LgpStatus,
    LgpStatusApplied,
    ObjectRejected,
    ObjectsAdopted,
    ObjectsApplied,
    ObjectsPruned,
    RolledOut,
    Stopped,
    WorkloadObserved,
    WorkloadStatus,
)
from engine.runtime.backoff import ActDeferred, ActRefused, refused_delay
from engine.runtime.deferral import NONE, Deferrals, Ends
from engine.runtime.dispatch import Handlers, Transitions, When, on
from engine.runtime.values import Value, replace


class Life(StrEnum):
    """Whether the LGP exists."""

    UNKNOWN = "UNKNOWN"
    """Never observed."""
    PRESENT = "PRESENT"
    """The LGP exists; the operator keeps its objects as the LGP asks."""
    DELETING = "DELETING"
    """Kubernetes is deleting the LGP and its objects; the operator applies nothing."""
    GONE = "GONE"
    """The LGP does not exist; the operator deletes the objects that Kubernetes does not collect."""
    PRUNED = "PRUNED"
    """Neither the LGP nor any object of the LGP is left."""


DELETION_OBSERVED = When(LgpObserved, "deleting", lambda event: event.deleting)
EVERYTHING_PRUNED = When(ObjectsPruned, "everything", lambda event: event.everything)

TRANSITIONS: Transitions[Life] = Transitions(
    {
        (Life.UNKNOWN, LgpObserved): Life.PRESENT,
        (Life.UNKNOWN, DELETION_OBSERVED): Life.DELETING,
        (Life.PRESENT, DELETION_OBSERVED): Life.DELETING,
        (Life.PRESENT, LgpRemoved): Life.GONE,
        (Life.DELETING, LgpObserved): Life.PRESENT,
        (Life.DELETING, LgpRemoved): Life.GONE,
        (Life.GONE, EVERYTHING_PRUNED): Life.PRUNED,
        (Life.GONE, LgpObserved): Life.PRESENT,
        (Life.GONE, DELETION_OBSERVED): Life.DELETING,
        (Life.PRUNED, LgpObserved): Life.PRESENT,
        (Life.PRUNED, DELETION_OBSERVED): Life.DELETING,
    }
)
"""Every change of life. An event without a row leaves the life as it is."""

ENDS: Ends = {
    ObjectsAdopted: ApplyObjects,
    ObjectsApplied: ApplyObjects,
    ObjectRejected: ApplyObjects,
    ObjectsPruned: PruneObjects,
    AutoscalerUnhealthy: MarkAutoscalersUnhealthy,
    LgpStatusApplied: ApplyStatus,
}
"""Class of events → the act whose deferral such an event ends, because the event shows that the act came through."""

PERMANENT_STATUS = frozenset({422})
"""HTTP statuses after which the operator never sends the same manifest again: the manifest itself is invalid. Every
other rejection (a quota, a missing namespace, permission or definition, a policy of an admission webhook) can be fixed
without a change of the LGP, so the operator tries again."""


@dataclass(frozen=True, kw_only=True)
class ObservedLgp(Value):
    """The LGP as last observed, without secret values. `LgpObserved` explains the fields."""

    namespace: str
    name: str
    uid: str
    generation: int
    revision: str
    deployment_id: str
    spec: dict[str, Any]
    digest: str
    unknown_fields: tuple[str, ...] = ()
    stopped: Stopped | None = None


@dataclass(frozen=True, kw_only=True)
class ObjectState(Value):
    """An object that the operator applied."""

    applied: AppliedObject
    at: datetime
    """When the operator applied the object last (UTC)."""
    drift: str = ""
    """How the live object differs from the applied one; empty without drift."""
    drifted_at: datetime | None = None
    repairs: int = 0
    """Drifts in a row, each soon after an apply of ours."""

    @property
    def repair_at(self) -> datetime:
        """When the operator repairs the drift: at once, unless another writer keeps undoing the repair."""
        return self.at if self.drifted_at is None else self.drifted_at + repair_delay(self.repairs)


@dataclass(frozen=True, kw_only=True)
class Rejection(Value):
    """A manifest that the API server, or a check of ours, rejected."""

    digest: str
    kind: str
    name: str
    status: int
    """HTTP status."""
    reason: str
    message: str
    since: datetime
    """When the manifest was rejected first (UTC)."""
    at: datetime
    """When the manifest was rejected last (UTC)."""
    attempts: int

    @property
    def retry_at(self) -> datetime | None:
        """When the operator sends the same manifest again; None for never."""
        return None if self.status in PERMANENT_STATUS else self.at + refused_delay(self.attempts)


@dataclass(frozen=True, kw_only=True)
class WorkloadState(Value):
    """A workload as last observed."""

    observed: WorkloadStatus
    failing_since: datetime | None = None
    """When the present failure of this pod template was observed first (UTC)."""


@dataclass(frozen=True, kw_only=True)
class AutoscalerState(Value):
    """An autoscaler as last observed."""

    observed: AutoscalerStatus
    since: datetime | None = None
    """When the autoscaler stopped working, or was first observed not to work yet (UTC); None while it works."""
    worked: bool = False
    """The autoscaler has worked at some time."""
    unhealthy: bool = False
    """The autoscaler has not worked for longer than the grace time."""


@dataclass(frozen=True, kw_only=True)
class OperatorState(Value):
    """What the operator knows of one LGP."""

    life: Life = Life.UNKNOWN
    lgp: ObservedLgp | None = None
    adopted: Adopted | None = None
    """The objects of the LGP that existed before this log; None when there were none to adopt."""
    objects: dict[str, ObjectState] = field(default_factory=dict)
    """`str(key)` → an object that the operator applied. The following tables have the same keys."""
    rejected: dict[str, Rejection] = field(default_factory=dict)
    workloads: dict[str, WorkloadState] = field(default_factory=dict)
    autoscalers: dict[str, AutoscalerState] = field(default_factory=dict)
    """The autoscalers that have reported their health."""
    status: LgpStatus = field(default_factory=dict)
    """The status of the LGP as the operator wrote it last."""
    status_digest: str = ""
    rolled_out: RolledOut | None = None
    deferrals: Deferrals = NONE
    changed_at: datetime | None = None
    """When the last event happened (UTC): the only clock that the LGP's status uses."""

    @property
    def last_reason(self) -> str:
        """Why the LGP is not as asked, for a person; empty when nothing is wrong."""
        wrong = {"Degraded": "True", "Autoscaling": "False", "DisruptionBudgets": "False", "IgnoredFields": "True"}
        for kind, status in wrong.items():
            for condition in self.status.get("conditions", []):
                if (condition["type"], condition["status"]) == (kind, status):
                    return f"{condition['reason']}: {condition['message']}"
        return next((f"{act}: {deferral.reason}" for act, deferral in self.deferrals), "")


def evolve(state: OperatorState, event: Event, at: datetime) -> OperatorState:
    """Return the state after `event`, which happened `at` (UTC)."""
    state = replace(state, life=TRANSITIONS.after(state.life, event), deferrals=_after(state.deferrals, event))
    return replace(HANDLERS.apply(state, event, at), changed_at=at)


def _after(deferrals: Deferrals, event: Event) -> Deferrals:
    """Return the deferrals after `event`, without those that the event ends."""
    if isinstance(event, LgpObserved | LgpRemoved):
        return NONE
    return deferrals.ended_by(event, ENDS)


def _observed(state: OperatorState, event: LgpObserved, at: datetime) -> OperatorState:
    lgp = ObservedLgp(
        namespace=event.namespace,
        name=event.name,
        uid=event.uid,
        generation=event.generation,
        revision=event.revision,
        deployment_id=event.deployment_id,
        spec=event.spec,
        digest=event.digest,
        unknown_fields=event.unknown_fields,
        stopped=event.stopped,
    )
    if state.lgp is not None and state.lgp.uid != event.uid:
        # Another LGP of the same name. Objects of the first LGP may still exist: the operator applies them again with
        # the new LGP as their owner.
        state = OperatorState(life=state.life, adopted=state.adopted, objects=state.objects)
    return replace(state, lgp=lgp)


def _removed(state: OperatorState, event: LgpRemoved, at: datetime) -> OperatorState:
    return replace(state, status={}, status_digest="", rolled_out=None, rejected={})


def _adopted(state: OperatorState, event: ObjectsAdopted, at: datetime) -> OperatorState:
    return replace(state, adopted=event.adopted)


def _applied(state: OperatorState, event: ObjectsApplied, at: datetime) -> OperatorState:
    objects = dict(state.objects)
    for applied in event.objects:
        before = objects.get(str(applied.key))
        objects[str(applied.key)] = ObjectState(applied=applied, at=at, repairs=before.repairs if before else 0)
    keys = {str(applied.key) for applied in event.objects}
    return replace(state, objects=objects, rejected=_without(state.rejected, keys))


def _rejected(state: OperatorState, event: ObjectRejected, at: datetime) -> OperatorState:
    known = state.rejected.get(str(event.key))
    before = known if known is not None and known.digest == event.digest else None
    rejection = Rejection(
        digest=event.digest,
        kind=event.key.kind,
        name=event.key.name,
        status=event.status,
        reason=event.reason,
        message=event.message,
        since=before.since if before is not None else at,
        at=at,
        attempts=before.attempts + 1 if before is not None else 1,
    )
    return replace(state, rejected={**state.rejected, str(event.key): rejection})


def _pruned(state: OperatorState, event: ObjectsPruned, at: datetime) -> OperatorState:
    if event.everything:
        return OperatorState(life=state.life, lgp=state.lgp)
    return replace(
        state,
        objects=_without(state.objects, event.objects),
        workloads=_without(state.workloads, event.objects),
        autoscalers=_without(state.autoscalers, event.objects),
        rejected=_without(state.rejected, event.objects),
    )


def _drifted(state: OperatorState, event: DriftDetected, at: datetime) -> OperatorState:
    key = str(event.key)
    # The reason of a rejection may be over after a drift: the object is tried again.
    state = replace(state, rejected=_without(state.rejected, (key,)))
    if event.change == "deleted":
        state = replace(state, adopted=_without_object(state.adopted, key))
    before = state.objects.get(key)
    if before is None:
        return state
    soon = at - before.at < CALM
    drifted = replace(
        before,
        drift=f"{event.change}: {event.detail}",
        drifted_at=at,
        repairs=before.repairs + 1 if soon else 1,
    )
    return replace(state, objects={**state.objects, key: drifted})


def _without_object(adopted: Adopted | None, key: str) -> Adopted | None:
    """Return `adopted` without the object `key`, which does not exist any more; the names of the others stay."""
    if adopted is None or key not in adopted.objects:
        return adopted
    return Adopted(
        name_prefix=adopted.name_prefix,
        objects=_without(adopted.objects, (key,)),
        database=adopted.database,
        config_digest=adopted.config_digest,
        managers=adopted.managers,
    )


def _workload(state: OperatorState, event: WorkloadObserved, at: datetime) -> OperatorState:
    key = str(event.workload.key)
    since = _failing_since(state.workloads.get(key), event.workload, at)
    workload = WorkloadState(observed=event.workload, failing_since=since)
    return replace(state, workloads={**state.workloads, key: workload})


def _failing_since(before: WorkloadState | None, now: WorkloadStatus, at: datetime) -> datetime | None:
    """Return when the failure of a workload, observed `at`, began; None without a failure."""
    if now.failure is None:
        return None
    if before is None or before.observed.failure is None or before.observed.template != now.template:
        return at
    return before.failing_since if before.observed.failure.reason == now.failure.reason else at


def _autoscaler(state: OperatorState, event: AutoscalerObserved, at: datetime) -> OperatorState:
    observed = event.autoscaler
    known = state.autoscalers.get(str(observed.key))
    before = known if known is not None and known.observed.uid == observed.uid else None
    works = not observed.reason
    autoscaler = AutoscalerState(
        observed=observed,
        since=None if works else (before.since if before is not None else None) or at,
        worked=works or (before is not None and before.worked),
        unhealthy=not works and before is not None and before.unhealthy,
    )
    return replace(state, autoscalers={**state.autoscalers, str(observed.key): autoscaler})


def _unhealthy(state: OperatorState, event: AutoscalerUnhealthy, at: datetime) -> OperatorState:
    before = state.autoscalers.get(str(event.key))
    if before is None or before.since is None:
        return state  # the autoscaler works again
    return replace(state, autoscalers={**state.autoscalers, str(event.key): replace(before, unhealthy=True)})


def _status_applied(state: OperatorState, event: LgpStatusApplied, at: datetime) -> OperatorState:
    return replace(state, status=event.status, status_digest=event.digest, rolled_out=event.rolled_out)


def _deferred(state: OperatorState, event: ActDeferred, at: datetime) -> OperatorState:
    return replace(state, deferrals=state.deferrals.defer(event.act, event.reason, at, until=event.retry_at))


def _refused(state: OperatorState, event: ActRefused, at: datetime) -> OperatorState:
    return replace(state, deferrals=state.deferrals.refuse(event.act, event.reason, at))


T = TypeVar("T")


def _without(entries: Mapping[str, T], keys: Container[str]) -> dict[str, T]:
    return {key: entry for key, entry in entries.items() if key not in keys}


HANDLERS: Handlers[OperatorState] = Handlers(
    on(LgpObserved, _observed),
    on(LgpRemoved, _removed),
    on(ObjectsAdopted, _adopted),
    on(ObjectsApplied, _applied),
    on(ObjectRejected, _rejected),
    on(ObjectsPruned, _pruned),
    on(DriftDetected, _drifted),
    on(WorkloadObserved, _workload),
    on(AutoscalerObserved, _autoscaler),
    on(AutoscalerUnhealthy, _unhealthy),
    on(LgpStatusApplied, _status_applied),
    on(ActDeferred, _deferred),
    on(ActRefused, _refused),
)
"""What each class of events changes in the state. The operator ignores no class."""
