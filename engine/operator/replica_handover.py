"""Hands the number of replicas of a Deployment over to an autoscaler. `scaling` explains why this needs care."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from engine import names
from engine.errors import ObjectConflict
from engine.operator import scaling
from engine.operator.context import ApplyResult, Context
from engine.operator.plan import PlannedObject
from engine.ports import Manifest

TRIES = 12
"""Reads and writes of a Deployment before the act is deferred: during a rollout the Deployment controller writes the
status all the time."""


def apply_autoscaled(planned: PlannedObject, manifest: Manifest, context: Context) -> ApplyResult:
    """Apply a Deployment without `spec.replicas`, so that the number of replicas stays as it is.

    A Deployment that does not exist, or that the operator had scaled to zero (where a HorizontalPodAutoscaler would
    leave it), starts with the autoscaler's minimum. Raises ObjectConflict when other writers were faster in every try.
    """
    created = False
    for _ in range(TRIES):
        live = context.cluster.get(planned.key)
        if live is None or scaling.is_scaled_to_zero_by(live, names.OPERATOR_MANAGER):
            created = created or live is None
            first = _first_replicas(planned, context)
            started = {**manifest, "spec": {**manifest["spec"], "replicas": first}}
            live = context.apply(started).manifest
        fields = scaling.without_replicas(live, names.OPERATOR_MANAGER)
        if fields is None:
            return replace(ApplyResult.of(context.apply(manifest)), created=created)
        patch = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"], "managedFields": fields}}
        with suppress(ObjectConflict):
            context.cluster.patch(planned.key, patch, before_write=context.ports.keep_lock)
    raise ObjectConflict(f"{planned.key} was changed by others in each of {TRIES} tries", status=409)


def _first_replicas(planned: PlannedObject, context: Context) -> int:
    """Return the replicas that an autoscaled Deployment starts with: at least as many as observed before a person
    deleted it.
    """
    others = [other.manifest for other in context.plan.objects.values() if other.manifest is not None]
    known = context.state.workloads.get(str(planned.key))
    observed = known.observed.desired if known is not None else 0
    return max(scaling.first_replicas(planned.key.name, others), observed)
