"""What counts as drift for the operator. Pure.

Only an object *at rest* can drift: it was applied as the LGP asks, and nothing is known to be wrong with it. It has
drifted when

- it does not exist any more, or another object has its name (change `deleted`);
- the set of fields that our field manager owns differs from what our apply left (`edited`): a client that changes a
  field of ours takes the field over;
- its path is not on the shared Ingress any more (`deleted`), or leads to another Service (`edited`);
- it is a PodDisruptionBudget, and another budget selects the same pods (`edited`).

Not drift: a changed status, the replicas that an autoscaler decides on, an annotation of `kubectl rollout restart`, any
other field that we never set. So generations are not compared. Of a Secret with generated values only the absence is
drift.

An object that was *rejected* is reported as drifted, too, once the obstacle is removed: the path is free, a shared
Ingress exists, the kind is served, no other budget selects the pods. Because of the drift, `decide` asks for another
apply.

How soon a drift is repaired: `engine/kubernetes/repairs.py`. What our field manager owns, as one digest:
`engine/kubernetes/fingerprint.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.kubernetes.fingerprint import Fingerprint, difference
from engine.operator.decide import at_rest
from engine.operator.events import DriftDetected, IngressPath
from engine.operator.manifests import is_budget, other_budgets
from engine.operator.observation.observed_state import ClusterContext, ObservedState
from engine.operator.plan import PATH_TAKEN, SECOND_BUDGET, SHARED_INGRESS_MISSING, Plan, pods_of_budget
from engine.operator.scaling import KIND_NOT_SERVED
from engine.operator.state import ObjectState, OperatorState
from engine.ports import ObjectKey


def observe_drift(
    state: OperatorState, plan: Plan, observed: ObservedState, context: ClusterContext
) -> Iterator[DriftDetected]:
    """Yield every drift of the LGP's objects that the log does not know yet."""
    for key in state.objects:
        if at_rest(state, plan, key):
            yield from _drift_at_rest(key, state, observed, context)
    yield from _kinds_served_now(state, plan, context)
    yield from _paths_free_now(state, plan, context)
    yield from _budgets(state, plan, context)


def _drift_at_rest(
    key: str, state: OperatorState, observed: ObservedState, context: ClusterContext
) -> Iterator[DriftDetected]:
    entry = state.objects[key]
    applied = entry.applied
    if applied.ingress_path is not None:
        yield from _path_drift(applied.key, applied.ingress_path, context)
    elif applied.credential and key in context.credentials:
        return
    elif state.lgp is not None and applied.key.namespace != state.lgp.namespace:
        if context.external_services_complete:
            yield from _object_drift(entry, observed.objects.get(key))
    elif (applied.key.api_version, applied.key.kind) in context.complete_kinds:
        yield from _object_drift(entry, observed.objects.get(key), observed.writers.get(key, ""))


def _object_drift(entry: ObjectState, live: Fingerprint | None, writer: str = "") -> Iterator[DriftDetected]:
    applied = entry.applied
    if live is None:
        yield DriftDetected(key=applied.key, change="deleted", detail="it does not exist")
        return
    if applied.credential:
        return  # its values belong to the client that created it
    change = difference(applied.fingerprint, live.model_copy(update={"generation": applied.fingerprint.generation}))
    if change is not None:
        is_namesake = live.uid != applied.fingerprint.uid
        detail = f"{change}, last by {writer}" if writer else change
        yield DriftDetected(key=applied.key, change="deleted" if is_namesake else "edited", detail=detail)


def _path_drift(key: ObjectKey, ingress_path: IngressPath, context: ClusterContext) -> Iterator[DriftDetected]:
    if context.paths is None:
        return
    backend = context.paths.get((ingress_path.host, ingress_path.path))
    if backend is None:
        yield DriftDetected(key=key, change="deleted", detail="its path is not on the shared Ingress")
    elif backend != (ingress_path.service, ingress_path.port):
        yield DriftDetected(
            key=key, change="edited", detail=f"its path leads to Service {backend[0]}, port {backend[1]}"
        )


def _paths_free_now(state: OperatorState, plan: Plan, context: ClusterContext) -> Iterator[DriftDetected]:
    """Yield the rejected path that the shared Ingress would take now."""
    for key, rejection in state.rejected.items():
        planned = plan.objects.get(key)
        if planned is None or planned.ingress_path is None or not context.has_shared_ingress:
            continue
        is_free = (
            context.paths is not None and (planned.ingress_path.host, planned.ingress_path.path) not in context.paths
        )
        if rejection.reason == SHARED_INGRESS_MISSING:
            yield DriftDetected(key=planned.key, change="edited", detail="a shared Ingress exists now")
        elif rejection.reason == PATH_TAKEN and is_free:
            yield DriftDetected(key=planned.key, change="edited", detail="its path is free now")


def _budgets(state: OperatorState, plan: Plan, context: ClusterContext) -> Iterator[DriftDetected]:
    """Yield the budgets that must go because another one selects the same pods, and those that can be made now."""
    for key, planned in plan.objects.items():
        if context.budget_selectors is None or not is_budget(planned.key):
            continue
        others = other_budgets(planned.key, context.budget_selectors, pods_of_budget(planned, plan))
        rejection = state.rejected.get(key)
        if others and at_rest(state, plan, key):
            detail = f"PodDisruptionBudget {', '.join(others)} selects the same pods"
            yield DriftDetected(key=planned.key, change="edited", detail=detail)
        elif not others and rejection is not None and rejection.reason == SECOND_BUDGET:
            yield DriftDetected(key=planned.key, change="edited", detail="no other budget selects its pods now")


def _kinds_served_now(state: OperatorState, plan: Plan, context: ClusterContext) -> Iterator[DriftDetected]:
    """Yield the objects whose kind the API server serves now, after it rejected them for the lack of the kind."""
    for key, rejection in state.rejected.items():
        planned = plan.objects.get(key)
        if planned is None or rejection.reason != KIND_NOT_SERVED:
            continue
        if (planned.key.api_version, planned.key.kind) in context.complete_kinds:
            detail = "it does not exist, and its kind is served now"
            yield DriftDetected(key=planned.key, change="deleted", detail=detail)
