"""What happens to an LGP and its objects in the cluster, as events of its stream. Pure.

`observe` is level-based: it compares all that is known of the cluster about one LGP with all that the log knows,
whatever the last change was. So a change that was missed, seen twice or seen late makes no difference, and an
observation that equals the log is no event.

Drift. An object at rest (it went out as asked, nothing is known to be wrong with it) has drifted when it is not
there, is another object of the same name, or when the set of fields that our manager owns is not what our apply left:
who changes a field of ours takes it over. Fields that we never set are not ours: a status, the replicas that an
autoscaler decides, an annotation of `kubectl rollout restart` are no drift, so the generation is not compared.

Two kinds of result: `certain` ones may be appended at once; `suspected` ones may be the echo of our own write, or a
watch that lags behind the log, and are to be confirmed: later, while nobody advances the stream, with fresh reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engine.event import Event
from engine.kubernetes.fingerprint import Fingerprint, difference
from engine.operator.decide import at_rest
from engine.operator.events import (
    AutoscalerObserved,
    AutoscalerStatus,
    DriftDetected,
    LgpObserved,
    LgpRemoved,
    PodFailure,
    Route,
    WorkloadObserved,
    WorkloadStatus,
)
from engine.operator.manifests import is_budget, other_budgets
from engine.operator.observation.autoscalers import (
    HORIZONTAL,
    HORIZONTAL_API_VERSION,
    ObservedAutoscaler,
    same_problem,
    told_by_both,
)
from engine.operator.observation.lgp import is_news
from engine.operator.observation.objects import Backend, Entry, ObservedPod, ObservedReplicaSet, ObservedWorkload
from engine.operator.plan import PATH_TAKEN, SECOND_BUDGET, SHARED_INGRESS_MISSING, Plan, pods_of_budget
from engine.operator.scaling import KIND_NOT_SERVED
from engine.operator.state import Life, ObjectState, OperatorState
from engine.ports import ObjectKey
from engine.runtime.observation import Observation

Kind = tuple[str, str]
"""apiVersion and kind."""

TELL_OF_WORKLOADS = frozenset({("apps/v1", "ReplicaSet"), ("v1", "Pod")})
"""Kinds that must be known whole before a workload's status makes sense."""

Scrub = Callable[[ObservedPod | None, str, bool], str]
"""Returns a text without the secret values that a pod (None: only the LGP) could have put there; the flag says that
the text is a container's own output."""


@dataclass(slots=True, kw_only=True)
class ObservedState:
    """What is known of the cluster about one LGP."""

    lgp: LgpObserved | None = None
    removed: set[str] = field(default_factory=set)
    """uids of LGPs of this name that were seen to go."""
    objects: dict[str, Fingerprint] = field(default_factory=dict)
    """By `str(key)`."""
    writers: dict[str, str] = field(default_factory=dict)
    """The same → who else wrote it last."""
    workloads: dict[str, ObservedWorkload] = field(default_factory=dict)
    replica_sets: dict[str, ObservedReplicaSet] = field(default_factory=dict)
    """By uid, like pods."""
    pods: dict[str, ObservedPod] = field(default_factory=dict)
    autoscalers: dict[str, ObservedAutoscaler] = field(default_factory=dict)
    """By `str(key)`, those that KEDA makes of ScaledObjects too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterContext:
    """What is known of the cluster beyond one LGP."""

    complete: frozenset[Kind]
    """Kinds of which every object in the LGP's namespace is known."""
    credentials: frozenset[str] = frozenset()
    """Secrets of ours in the namespace, by `str(key)`: several LGPs may share a password."""
    routes: Mapping[Entry, Backend] | None = None
    """Of the shared Ingress; None until it is known, or that there is none."""
    shared_ingress: bool = False
    external_services: bool = False
    """Every Service beside a shared Ingress in another namespace is known."""
    budgets: Mapping[str, Any] | None = None
    """Selectors of all PodDisruptionBudgets in the LGP's namespace, whoever made them, by name; None until known."""


def observe(
    state: OperatorState, plan: Plan, live: ObservedState, around: ClusterContext, lgp_kind: Kind, scrub: Scrub
) -> Observation:
    """Return what `live` adds to `state`, which asks for `plan`."""
    certain: list[Event] = []
    unconfirmed: list[Event] = []
    lgp = _lgp(state, live, lgp_kind in around.complete)
    if lgp is not None:
        (certain if _is_certain(lgp, state, live) else unconfirmed).append(lgp)
    if not isinstance(lgp, LgpRemoved) and state.life is Life.PRESENT:
        if around.complete.issuperset(TELL_OF_WORKLOADS):
            certain += _workloads(state, live, scrub)
        certain += _autoscalers(state, live, scrub)
        unconfirmed += _drift(state, plan, live, around)
    return Observation(certain=tuple(certain), unconfirmed=tuple(unconfirmed))


def _lgp(state: OperatorState, live: ObservedState, complete: bool) -> LgpObserved | LgpRemoved | None:
    if live.lgp is not None:
        return live.lgp if is_news(state, live.lgp) else None
    known = state.life in (Life.PRESENT, Life.DELETING)
    return LgpRemoved() if known and complete else None


def _is_certain(event: LgpObserved | LgpRemoved, state: OperatorState, live: ObservedState) -> bool:
    known = state.lgp.uid if state.lgp is not None else ""
    if isinstance(event, LgpRemoved):
        return known in live.removed
    # Another uid than the log's may be a watch that lags behind it.
    return state.life not in (Life.PRESENT, Life.DELETING) or event.uid == known or known in live.removed


# --- workloads


def _workloads(state: OperatorState, live: ObservedState, scrub: Scrub) -> Iterator[WorkloadObserved]:
    for key, sight in live.workloads.items():
        entry = state.objects.get(key)
        if entry is None or sight.observed_generation < sight.generation:
            continue  # not (yet) ours; or its controller has not looked at it yet, and its status is of another time
        known = state.workloads.get(key)
        seen = _status(sight, live, known.observed if known else None, scrub)
        if known is None or known.observed != seen:
            yield WorkloadObserved(workload=seen)


def _status(sight: ObservedWorkload, live: ObservedState, known: WorkloadStatus | None, scrub: Scrub) -> WorkloadStatus:
    newest = _newest(sight, live)
    template = newest.name if newest else sight.update_revision
    pods = [pod for pod in live.pods.values() if _is_of(pod, sight, newest)]
    before = known if known is not None and known.template == template else None
    return WorkloadStatus(
        key=sight.key,
        uid=sight.uid,
        generation=sight.generation,
        observed_generation=sight.observed_generation,
        desired=sight.desired,
        replicas=sight.replicas,
        ready=sight.ready,
        updated=sight.updated,
        available=sight.available,
        template=template,
        template_uid=newest.uid if newest else "",
        deadline_exceeded=scrub(None, sight.deadline_exceeded, False),
        unschedulable=next(
            (scrub(None, pod.unschedulable, False) for pod in sorted(pods, key=_by_name) if pod.unschedulable), ""
        ),
        failure=_failure(sight, pods, before.failure if before else None, scrub),
    )


def _by_name(pod: ObservedPod) -> str:
    return pod.name


def _newest(sight: ObservedWorkload, live: ObservedState) -> ObservedReplicaSet | None:
    """Return the ReplicaSet that has the Deployment's present template, None for a StatefulSet or before it is made."""
    for replica_set in live.replica_sets.values():
        if replica_set.owner == sight.uid and replica_set.template == sight.template:
            return replica_set
    return None


def _is_of(pod: ObservedPod, sight: ObservedWorkload, newest: ObservedReplicaSet | None) -> bool:
    """Whether a pod has the workload's newest template. Those of older ones are on their way out."""
    if newest is not None:
        return pod.owner == newest.uid
    return pod.owner == sight.uid and (not sight.update_revision or pod.revision in ("", sight.update_revision))


def _failure(
    sight: ObservedWorkload, pods: list[ObservedPod], known: PodFailure | None, scrub: Scrub
) -> PodFailure | None:
    """Return what is wrong with the pods: what is known already where that is still so, so that it is said once."""
    failing = {pod.name: pod for pod in pods if pod.failure is not None}
    if known is not None and known.pod in failing:
        raw = failing[known.pod].failure
        same = raw is not None and (raw.container, raw.reason) == (known.container, known.reason)
        if raw is not None and same and (known.log or not raw.log):
            return known
    if failing:
        pod = failing[min(failing)]
        raw = pod.failure
        assert raw is not None
        return PodFailure(
            pod=pod.name,
            container=raw.container,
            reason=raw.reason,
            message=scrub(pod, raw.message, False),
            log=scrub(pod, raw.log, True),
        )
    if sight.cannot_create:
        return PodFailure(pod="", container="", reason="FailedCreate", message=scrub(None, sight.cannot_create, False))
    return None


# --- autoscalers


def _autoscalers(state: OperatorState, live: ObservedState, scrub: Scrub) -> Iterator[AutoscalerObserved]:
    for key, entry in state.objects.items():
        applied, sight = entry.applied, live.autoscalers.get(key)
        if sight is None or sight.uid != applied.fingerprint.uid:
            continue  # no autoscaler, or not (any more) the one that we made
        made = str(replace(applied.key, api_version=HORIZONTAL_API_VERSION, kind=HORIZONTAL, name=sight.horizontal))
        reason, message = told_by_both(applied.key, sight, live.autoscalers.get(made))
        seen = AutoscalerStatus(key=applied.key, uid=sight.uid, reason=reason, message=scrub(None, message, False))
        known = state.autoscalers.get(key)
        if known is None or not _is_known(known.observed, seen, sight.target):
            yield AutoscalerObserved(autoscaler=seen)


def _is_known(known: AutoscalerStatus, seen: AutoscalerStatus, target: str) -> bool:
    if known.uid != seen.uid:
        return False
    return same_problem((known.reason, known.message), (seen.reason, seen.message), target)


# --- drift


def _drift(state: OperatorState, plan: Plan, live: ObservedState, around: ClusterContext) -> Iterator[DriftDetected]:
    for key, entry in state.objects.items():
        if not at_rest(state, plan, key):
            continue
        applied = entry.applied
        if applied.route is not None:
            yield from _route_drift(applied.key, applied.route, around)
        elif applied.credential and key in around.credentials:
            continue
        elif state.lgp is not None and applied.key.namespace != state.lgp.namespace:
            if around.external_services:
                yield from _object_drift(entry, live.objects.get(key))
        elif (applied.key.api_version, applied.key.kind) in around.complete:
            yield from _object_drift(entry, live.objects.get(key), live.writers.get(key, ""))
    yield from _served_now(state, plan, around)
    yield from _rejected_paths(state, plan, around)
    yield from _other_budgets(state, plan, around)


def _object_drift(entry: ObjectState, seen: Fingerprint | None, writer: str = "") -> Iterator[DriftDetected]:
    applied = entry.applied
    if seen is None:
        yield DriftDetected(key=applied.key, change="deleted", detail="it is not there")
        return
    if applied.credential:
        return  # its values are whoever's made it; that it exists is all
    change = difference(applied.fingerprint, seen.model_copy(update={"generation": applied.fingerprint.generation}))
    if change is not None:
        another = seen.uid != applied.fingerprint.uid
        detail = f"{change}, last by {writer}" if writer else change
        yield DriftDetected(key=applied.key, change="deleted" if another else "edited", detail=detail)


def _route_drift(key: ObjectKey, route: Route, around: ClusterContext) -> Iterator[DriftDetected]:
    if around.routes is None:
        return
    backend = around.routes.get((route.host, route.path))
    if backend is None:
        yield DriftDetected(key=key, change="deleted", detail="its path is not on the shared Ingress")
    elif backend != (route.service, route.port):
        yield DriftDetected(
            key=key, change="edited", detail=f"its path leads to Service {backend[0]}, port {backend[1]}"
        )


def _rejected_paths(state: OperatorState, plan: Plan, around: ClusterContext) -> Iterator[DriftDetected]:
    """Yield the path that the shared Ingress would take now."""
    for key, rejection in state.rejected.items():
        wanted = plan.objects.get(key)
        if wanted is None or wanted.route is None or not around.shared_ingress:
            continue
        free = around.routes is not None and (wanted.route.host, wanted.route.path) not in around.routes
        if rejection.reason == SHARED_INGRESS_MISSING:
            yield DriftDetected(key=wanted.key, change="edited", detail="a shared Ingress is there now")
        elif rejection.reason == PATH_TAKEN and free:
            yield DriftDetected(key=wanted.key, change="edited", detail="nobody else has its path now")


def _other_budgets(state: OperatorState, plan: Plan, around: ClusterContext) -> Iterator[DriftDetected]:
    """Yield the budgets that must go since another one is over the same pods, and those that can be made now."""
    for key, wanted in plan.objects.items():
        if around.budgets is None or not is_budget(wanted.key):
            continue
        others = other_budgets(wanted.key, around.budgets, pods_of_budget(wanted, plan))
        rejection = state.rejected.get(key)
        if others and at_rest(state, plan, key):
            detail = f"PodDisruptionBudget {', '.join(others)} is over the same pods"
            yield DriftDetected(key=wanted.key, change="edited", detail=detail)
        elif not others and rejection is not None and rejection.reason == SECOND_BUDGET:
            yield DriftDetected(key=wanted.key, change="edited", detail="no other budget is over its pods now")


def _served_now(state: OperatorState, plan: Plan, around: ClusterContext) -> Iterator[DriftDetected]:
    for key, rejection in state.rejected.items():
        wanted = plan.objects.get(key)
        if wanted is None or rejection.reason != KIND_NOT_SERVED:
            continue
        if (wanted.key.api_version, wanted.key.kind) in around.complete:
            yield DriftDetected(key=wanted.key, change="deleted", detail="it is not there, and its kind is served now")
