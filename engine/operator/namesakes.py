"""Applying objects of kinds that people make by hand too: ServiceAccounts, SecretProviderClasses, PodDisruptionBudgets.

One may be there under the very name that ours would have: two LGPs may name one SecretProviderClass, and somebody may
have given an Agent Server a budget. An object is ours when the LGP's uid is among its owners, or when it is the very
object that we applied before; any other is left as it is, and the LGP's status says so.
"""

from __future__ import annotations

from engine import names
from engine.errors import ObjectConflict, ObjectRefused
from engine.kubernetes import managed_fields
from engine.operator import manifests
from engine.operator.plan import SECOND_BUDGET, Plan, PlannedObject, pods_of_budget
from engine.operator.state import ObservedLgp, OperatorState
from engine.ports import Applied, Manifest, ObjectKey, Ports

NOT_OURS = "NotOurs"
"""Reason of a refusal: an object of that name is there, and is not the LGP's."""
TRIES = 5
"""Reads and writes of one object whose fields become ours before the act is deferred."""


def apply(wanted: PlannedObject, plan: Plan, state: OperatorState, view: ObservedLgp, ports: Ports) -> Applied:
    """Apply an object of `plan`, unless a namesake that is not the LGP's is there.

    What another program set in the spec of an object that is the LGP's, and nobody asks for, goes. Raises ObjectRefused
    for a namesake, and for a budget beside another one over the same pods; ObjectConflict when others were faster every
    time.
    """
    if wanted.manifest is None:
        raise ValueError(f"{wanted.key} has no manifest")
    entry = state.objects.get(str(wanted.key))
    known = entry.applied.fingerprint.uid if entry is not None else ""

    def before_write() -> None:
        _ours(wanted.key, known, view, ports)
        ports.keep_lock()

    live = _ours(wanted.key, known, view, ports)
    if manifests.is_budget(wanted.key):
        _refuse_second_budget(wanted.key, pods_of_budget(wanted, plan), live, ports)
    if live is not None:
        _take_over(wanted.key, live, ports)
    return ports.cluster.apply(wanted.manifest, manager=names.OPERATOR_MANAGER, before_write=before_write)


def _ours(key: ObjectKey, known: str, view: ObservedLgp, ports: Ports) -> Manifest | None:
    """Return the live object, None when there is none. Raises ObjectRefused for one that is not the LGP's."""
    live = ports.cluster.get(key)
    if live is None or live["metadata"]["uid"] == known or _owned(live, view):
        return live
    raise ObjectRefused(
        f"{key} is there and does not belong to LGP {view.namespace}/{view.name}, so it is left as it is; rename or "
        "delete it, or let the LGP ask for another name",
        reason=NOT_OURS,
        status=409,
    )


def _owned(live: Manifest, view: ObservedLgp) -> bool:
    return any(owner.get("uid") == view.uid for owner in live["metadata"].get("ownerReferences") or [])


def _take_over(key: ObjectKey, live: Manifest | None, ports: Ports) -> None:
    """Let what others set in the spec of an object be ours, so that the apply takes out what nobody asks for."""
    for _ in range(TRIES):
        fields = managed_fields.taken_over(live, names.OPERATOR_MANAGER) if live is not None else None
        if live is None or fields is None:
            return
        patch = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"], "managedFields": fields}}
        try:
            ports.cluster.patch(key, patch, before_write=ports.keep_lock)
            return
        except ObjectConflict:
            live = ports.cluster.get(key)
    raise ObjectConflict(f"{key} was changed by others in each of {TRIES} tries", status=409)


# --- budgets


def _refuse_second_budget(key: ObjectKey, pods: dict[str, str], live: Manifest | None, ports: Ports) -> None:
    """Raise ObjectRefused where another budget selects the same pods; ours, if it is there (`live`), goes first.

    Kubernetes refuses to evict a pod of two budgets, so that its node could not be drained.
    """
    found = ports.cluster.list(key.api_version, key.kind, key.namespace)
    selectors = {str(one["metadata"]["name"]): (one.get("spec") or {}).get("selector") for one in found}
    others = manifests.other_budgets(key, selectors, pods)
    if not others:
        return
    if live is not None:
        ports.keep_lock()
        ports.cluster.delete(key, uid=live["metadata"]["uid"])
    raise ObjectRefused(
        f"{key} is not made, for PodDisruptionBudget {', '.join(others)} is over the same pods, and Kubernetes evicts "
        "no pod of two budgets; delete that one to have ours, or set operator.podDisruptionBudgets=false "
        "(AGENTPLANE_POD_DISRUPTION_BUDGETS) to have none",
        reason=SECOND_BUDGET,
        status=409,
    )
