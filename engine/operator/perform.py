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
from engine.operator.config import OperatorConfig
from engine.operator.context import Context
from engine.operator.events import AutoscalerUnhealthy, LgpRemoved, LgpStatusApplied
from engine.operator.observation.lgp import observe_lgp
from engine.operator.plan import Plan
from engine.operator.prune import prune_everything, prune_objects
from engine.operator.state import OperatorState
from engine.operator.status import compute_status
from engine.ports import Ports, lgp_key
from engine.runtime.machine import Act


def perform(act: Act, state: OperatorState, plan: Plan, ports: Ports, config: OperatorConfig) -> Sequence[Event]:
    """Perform `act` for the LGP of `state`, which asks for `plan`; return what happened.

    Raises errors of `engine.errors`, which `runtime.advance` turns into a later try, and ValueError for an act that
    `decide` does not choose.
    """
    if state.lgp is None:
        raise ValueError(f"{act.name} without an LGP: decide must not ask for it")
    context = Context(state=state, lgp=state.lgp, plan=plan, ports=ports, config=config)
    match act:
        case ApplyObjects(keys=keys):
            return apply_objects(keys, context)
        case PruneObjects(keys=keys):
            return prune_objects(keys, context)
        case PruneEverything():
            return prune_everything(context)
        case MarkAutoscalersUnhealthy(keys=keys):
            return [_unhealthy(key, context) for key in keys]
        case ApplyStatus():
            return [_apply_status(context)]
        case _:
            raise ValueError(f"the operator has no act {act.name}")


def _unhealthy(key: str, context: Context) -> AutoscalerUnhealthy:
    observed = context.state.autoscalers[key].observed
    return AutoscalerUnhealthy(key=observed.key, reason=observed.reason, message=observed.message)


def _apply_status(context: Context) -> Event:
    """Write the status of the LGP. Returns what happened: the LGP may be gone, or another one of the same name."""
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
            return LgpRemoved()
        raise
    if applied.manifest["metadata"]["uid"] != context.lgp.uid:
        return observe_lgp(applied.manifest, context.ports.digest)
    return LgpStatusApplied(digest=digest(computed.status), status=computed.status, rolled_out=computed.rolled_out)
