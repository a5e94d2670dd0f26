"""Applies objects of kinds that people create too: ServiceAccounts, SecretProviderClasses, PodDisruptionBudgets.

An object may exist under the very name that ours would have: two LGPs may name one SecretProviderClass, and a person
may have given an Agent Server a PodDisruptionBudget. An object is ours if the uid of the LGP is among its owners, or if
its uid is that of the object that the operator applied before. Any other object, a *namesake*, is left as it is, and
the LGP's status says so.
"""

from __future__ import annotations

from engine import names
from engine.errors import ObjectConflict, ObjectRefused
from engine.kubernetes import managed_fields
from engine.operator import manifests
from engine.operator.context import Context
from engine.operator.plan import SECOND_BUDGET, PlannedObject, pods_of_budget
from engine.ports import Applied, Manifest, ObjectKey

NOT_OURS = "NotOurs"
"""Reason of a rejection: an object of that name exists, and does not belong to the LGP."""
TRIES = 5
"""Reads and writes of one object, while its fields become ours, before the act is deferred."""


def apply_if_ours(planned: PlannedObject, manifest: Manifest, context: Context) -> Applied:
    """Apply a planned object, unless a namesake exists.

    Fields of the spec that another program set and that our manifest does not have are removed. Raises ObjectRefused
    for a namesake, and for a budget when another budget selects the same pods; ObjectConflict when other writers were
    faster in every try.
    """
    entry = context.state.objects.get(str(planned.key))
    applied_uid = entry.applied.fingerprint.uid if entry is not None else ""

    def before_write() -> None:
        _refuse_namesake(planned.key, applied_uid, context)
        context.ports.keep_lock()

    live = _refuse_namesake(planned.key, applied_uid, context)
    if manifests.is_budget(planned.key):
        _refuse_second_budget(planned.key, pods_of_budget(planned, context.plan), live, context)
    if live is not None:
        _own_all_fields(planned.key, live, context)
    return context.cluster.apply(manifest, manager=names.OPERATOR_MANAGER, before_write=before_write)


def _refuse_namesake(key: ObjectKey, applied_uid: str, context: Context) -> Manifest | None:
    """Return our live object, None when no object of the name exists. Raises ObjectRefused for a namesake."""
    live = context.cluster.get(key)
    if live is None or live["metadata"]["uid"] == applied_uid or _is_owned(live, context.lgp.uid):
        return live
    raise ObjectRefused(
        f"{key} exists and does not belong to LGP {context.lgp.namespace}/{context.lgp.name}, so it stays as "
        "it is; rename or delete it, or let the LGP ask for another name",
        reason=NOT_OURS,
        status=409,
    )


def _is_owned(live: Manifest, uid: str) -> bool:
    return any(owner.get("uid") == uid for owner in live["metadata"].get("ownerReferences") or [])


def _own_all_fields(key: ObjectKey, live: Manifest | None, context: Context) -> None:
    """Make the fields of the spec that other managers set ours, so that the next apply removes the unplanned ones."""
    for _ in range(TRIES):
        fields = managed_fields.taken_over(live, names.OPERATOR_MANAGER) if live is not None else None
        if live is None or fields is None:
            return
        patch = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"], "managedFields": fields}}
        try:
            context.cluster.patch(key, patch, before_write=context.ports.keep_lock)
            return
        except ObjectConflict:
            live = context.cluster.get(key)
    raise ObjectConflict(f"{key} was changed by others in each of {TRIES} tries", status=409)


# --- budgets


def _refuse_second_budget(key: ObjectKey, pods: dict[str, str], live: Manifest | None, context: Context) -> None:
    """Raise ObjectRefused when another budget selects the same `pods` (their labels). Our budget, `live`, goes first.

    Kubernetes does not evict a pod that two budgets select, so that the pod's node could not be drained.
    """
    found = context.cluster.list(key.api_version, key.kind, key.namespace)
    selectors = {str(one["metadata"]["name"]): (one.get("spec") or {}).get("selector") for one in found}
    others = manifests.other_budgets(key, selectors, pods)
    if not others:
        return
    if live is not None:
        context.ports.keep_lock()
        context.cluster.delete(key, uid=live["metadata"]["uid"])
    raise ObjectRefused(
        f"{key} is not created, because PodDisruptionBudget {', '.join(others)} selects the same pods, and Kubernetes "
        "evicts no pod that two budgets select; delete that one to have ours, or set "
        "operator.podDisruptionBudgets=false (AGENTPLANE_POD_DISRUPTION_BUDGETS) to have none",
        reason=SECOND_BUDGET,
        status=409,
    )
