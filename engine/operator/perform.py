"""Carries the acts of the operator out: the only place where the operator touches the cluster.

Every act may run twice, late, or next to the same act of another worker, and leaves the same result.

    apply      ApplyObjects
    prune      PruneObjects, PruneEverything
"""

from __future__ import annotations

from collections.abc import Sequence

from engine import names
from engine.digests import digest
from engine.errors import ObjectRefused
from engine.event import Event
from engine.operator.acts import ApplyObjects, ApplyStatus, MarkAutoscalersUnhealthy, PruneEverything, PruneObjects
from engine.operator.apply import apply_objects
from engine.operator.context import Context
from engine.operator.events import AutoscalerUnhealthy, LgpRemoved, LgpStatusApplied
from engine.operator.observation.lgp import observe_lgp
from engine.operator.prune import prune_everything, prune_objects
from engine.operator.status import compute_status
from engine.ports import lgp_key
from engine.runtime.dispatch import Performers, by
from engine.runtime.machine import Act


def perform(act: Act, context: Context) -> Sequence[Event]:
    """Perform `act`; return what happened, at least one event. Raises errors of `engine.errors`."""
    return PERFORMERS.perform(act, context)


def _mark_unhealthy(act: MarkAutoscalersUnhealthy, context: Context) -> list[Event]:
    observed = [context.state.autoscalers[key].observed for key in act.keys]
    return [AutoscalerUnhealthy(key=one.key, reason=one.reason, message=one.message) for one in observed]


def _apply_status(act: ApplyStatus, context: Context) -> list[Event]:
    """Write the status of the LGP. Return what happened: the LGP may be gone, or another one of the same name."""
    computed = compute_status(context.state, context.plan)
    key = lgp_key(context.lgp.namespace, context.lgp.name)
    manifest = {
        "apiVersion": key.api_version,
        "kind": key.kind,
        "metadata": {"name": key.name, "namespace": key.namespace},
        "status": computed.status,
    }
    try:
        applied = context.cluster.apply_status(
            manifest, manager=names.OPERATOR_MANAGER, before_write=context.ports.keep_lock
        )
    except ObjectRefused as error:
        if error.status == 404 and context.cluster.get(key) is None:
            return [LgpRemoved()]
        raise
    if applied.manifest["metadata"]["uid"] != context.lgp.uid:
        return [observe_lgp(applied.manifest, context.ports.digest)]
    return [LgpStatusApplied(digest=digest(computed.status), status=computed.status, rolled_out=computed.rolled_out)]


PERFORMERS = Performers[Context](
    by(ApplyObjects, apply_objects),
    by(PruneObjects, prune_objects),
    by(PruneEverything, prune_everything),
    by(MarkAutoscalersUnhealthy, _mark_unhealthy),
    by(ApplyStatus, _apply_status),
)
"""Which function performs the acts of each class."""
