"""Applies the objects of an LGP: read the LGP, adopt existing objects, apply each object, collect the results.

Every object may be applied twice, late, or next to another worker. Manifests go out by server-side apply under our own
field manager, each write guarded by the stream's lock. Kinds that need more have a module of their own:

    credentials        Secrets with generated values
    shared_ingress     the path on the shared Ingress
    replica_handover   Deployments whose replicas an autoscaler sets
    namesakes          kinds of which people may have created an object of the same name
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import structlog

from engine.errors import AgentplaneError, LockLost, LogUnavailable, ObjectRefused
from engine.event import Event
from engine.operator import manifests, scaling
from engine.operator.acts import ApplyObjects
from engine.operator.adoption.discover import Adoption, discover, inspect
from engine.operator.context import ApplyResult, Context
from engine.operator.credentials import create_credential
from engine.operator.events import (
    AppliedObject,
    DriftDetected,
    LgpRemoved,
    ObjectRejected,
    ObjectsAdopted,
    ObjectsApplied,
)
from engine.operator.lgp import parse_lgp
from engine.operator.namesakes import apply_if_ours
from engine.operator.observation.lgp import is_news, observe_lgp
from engine.operator.observation.scrubbing import hidden_values, scrub
from engine.operator.plan import Plan, PlannedObject, build_plan
from engine.operator.replica_handover import apply_autoscaled
from engine.operator.shared_ingress import apply_path
from engine.ports import Manifest, ObjectKey, lgp_key

log = structlog.get_logger(__name__)


def apply_objects(act: ApplyObjects, context: Context) -> list[Event]:
    """Apply the planned objects that `act` names, in its order; return what happened.

    A rejected object does not stop the others. When the LGP itself changed since the plan was made, or objects of
    another operator are to be adopted first, nothing is applied, and the event says so. Raises an error that stopped
    the first object, unless it is a rejection.
    """
    live = context.cluster.get(lgp_key(context.lgp.namespace, context.lgp.name))
    if live is None:
        return [LgpRemoved()]
    observed = observe_lgp(live, context.ports.digest)
    if is_news(context.state, observed):
        return [observed]
    adoption = _adoption(live, context)
    already_read: dict[str, Manifest | None] = {}
    if not context.state.objects and context.state.adopted is None:
        found = discover(adoption)
        if found.adopted is not None:
            return [ObjectsAdopted(adopted=found.adopted)]
        already_read[context.plan.server] = found.server
    application = _Application(context, adoption, already_read)
    application.run(act.keys)
    return application.events()


def _adoption(live: Manifest, context: Context) -> Adoption:
    lgp = context.lgp
    redacted = parse_lgp(lgp.namespace, lgp.name, lgp.uid, lgp.spec, context.state.adopted)
    return Adoption(live=live, redacted=redacted, config=context.config, ports=context.ports)


class _Application:
    """One run over the objects to apply, and its results."""

    def __init__(self, context: Context, adoption: Adoption, already_read: Mapping[str, Manifest | None]) -> None:
        self._planned = context.plan.objects
        self._hidden = list(hidden_values(adoption.live.get("spec") or {}, context.lgp.spec))
        # The manifests to send have the literal secret values that the log must not have. The digests of the events are
        # those of the redacted plan.
        self._context = replace(context, plan=_with_secrets(context, adoption)) if self._hidden else context
        self._adoption = adoption
        self._already_read = already_read
        self._applied: list[AppliedObject] = []
        self._created: list[str] = []
        self._rejected: list[ObjectRejected] = []
        self._adopted_changed: DriftDetected | ObjectsAdopted | None = None

    def run(self, keys: tuple[str, ...]) -> None:
        """Apply the objects until one meets a passing failure, or an adopted object is not as the state says."""
        for key in keys:
            planned = self._context.plan.objects[key]
            try:
                self._adopted_changed = self._inspect_adopted(planned)
                if self._adopted_changed is not None:
                    break
                self._collect(key, self._apply(planned))
            except ObjectRefused as error:
                self._reject(key, error)
            except (LockLost, LogUnavailable):
                raise
            except AgentplaneError as error:
                if not (self._applied or self._rejected):
                    raise
                log.warning("apply interrupted", object=key, error=str(error))
                break

    def events(self) -> list[Event]:
        """Return what the run did, as events."""
        events: list[Event] = []
        if self._applied:
            applied = ObjectsApplied(
                generation=self._context.lgp.generation,
                config_digest=self._context.config.digest,
                objects=tuple(self._applied),
                created=tuple(self._created),
            )
            events.append(applied)
        events += self._rejected
        if self._adopted_changed is not None:
            events.append(self._adopted_changed)
        return events

    def _inspect_adopted(self, planned: PlannedObject) -> DriftDetected | ObjectsAdopted | None:
        """Return how an adopted object differs from what the state keeps of it; None when it does not."""
        if self._context.state.adopted is None or not planned.adopted:
            return None
        inspection = inspect(planned, self._adoption)
        if inspection.missing:
            return DriftDetected(key=planned.key, change="deleted", detail="it is not there")
        return ObjectsAdopted(adopted=inspection.adopted) if inspection.adopted is not None else None

    def _apply(self, planned: PlannedObject) -> ApplyResult:
        if planned.credential is not None:
            return create_credential(planned.credential, self._context)
        if planned.ingress_path is not None:
            return apply_path(planned.key.namespace, planned.ingress_path, self._context)
        if planned.manifest is None:
            raise ValueError(f"{planned.key} is neither a manifest, a credential nor a path")
        try:
            return self._apply_manifest(planned, planned.manifest)
        except ObjectRefused as error:
            if error.status != 404 or not _is_of_optional_kind(planned.key):
                raise
            if self._context.cluster.served(planned.key.api_version, planned.key.kind):
                raise
            raise ObjectRefused(_not_served(planned.key), reason=scaling.KIND_NOT_SERVED, status=404) from error

    def _apply_manifest(self, planned: PlannedObject, manifest: Manifest) -> ApplyResult:
        if manifests.may_be_namesake(planned.key):
            return ApplyResult.of(apply_if_ours(planned, manifest, self._context))
        if scaling.leaves_replicas_to_autoscaler(manifest):
            return apply_autoscaled(planned, manifest, self._context)
        return ApplyResult.of(self._context.apply(manifest, self._already_read.get(str(planned.key), ...)))

    def _collect(self, key: str, result: ApplyResult) -> None:
        planned = self._planned[key]
        self._applied.append(
            AppliedObject(
                key=planned.key,
                digest=planned.digest,
                fingerprint=result.fingerprint,
                credential=planned.credential is not None,
                ingress_path=planned.ingress_path,
            )
        )
        if result.created:
            self._created.append(key)

    def _reject(self, key: str, error: ObjectRefused) -> None:
        planned = self._planned[key]
        rejected = ObjectRejected(
            key=planned.key,
            digest=planned.digest,
            status=error.status,
            reason=error.reason,
            message=scrub(str(error), self._hidden),
        )
        self._rejected.append(rejected)


def _with_secrets(context: Context, adoption: Adoption) -> Plan:
    """Return the plan of the context with literal secret values in its manifests."""
    return build_plan(adoption.lgp, context.config, context.plan.kept_pods)


def _is_of_optional_kind(key: ObjectKey) -> bool:
    """Return whether a cluster need not serve the kind of the object."""
    return manifests.may_be_namesake(key) or scaling.is_of_keda(key) or manifests.is_route_object(key)


def _not_served(key: ObjectKey) -> str:
    """Return the message of a rejection because the API server does not serve the kind of the object."""
    if scaling.is_of_keda(key):
        return scaling.not_served(key)
    return manifests.route_not_served(key) if manifests.is_route_object(key) else manifests.managed_not_served(key)
