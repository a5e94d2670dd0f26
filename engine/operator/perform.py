"""The operator's acts: the only place where it touches the cluster.

Every act may run twice, late, or next to its twin. Objects go out by server-side apply under our own field manager,
each guarded by the stream's lock; credentials are created once; the shared Ingress is read, changed and written with
the resourceVersion that was read, as often as somebody else was faster.
"""

from __future__ import annotations

import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from types import EllipsisType

import structlog

from engine import names
from engine.digests import digest
from engine.errors import AgentplaneError, LockLost, LogUnavailable, ObjectConflict, ObjectRefused
from engine.event import Event
from engine.kubernetes.fingerprint import Fingerprint
from engine.operator import manifests, namesakes, scaling
from engine.operator.acts import ApplyObjects, ApplyStatus, JudgeAutoscalers, PruneEverything, PruneObjects
from engine.operator.adoption import discover
from engine.operator.adoption.choose import hold
from engine.operator.config import OperatorConfig
from engine.operator.events import (
    Adopted,
    AppliedObject,
    AutoscalerUnhealthy,
    DriftDetected,
    LgpRemoved,
    LgpStatusApplied,
    ObjectRejected,
    ObjectsAdopted,
    ObjectsApplied,
    ObjectsPruned,
    Route,
)
from engine.operator.lgp import parse_lgp, read_lgp
from engine.operator.manifests import Credential
from engine.operator.observation.lgp import is_news, observe_lgp
from engine.operator.observation.objects import observe_routes, own_fingerprint
from engine.operator.observation.scrubbing import hidden_values, scrub
from engine.operator.plan import (
    INGRESS_API_VERSION,
    PATH_TAKEN,
    ROUTE_KIND,
    SHARED_INGRESS_MISSING,
    Plan,
    PlannedObject,
    build_plan,
)
from engine.operator.state import ObservedLgp, OperatorState
from engine.operator.status import compute_status
from engine.ports import Applied, Manifest, ObjectKey, Ports, lgp_key
from engine.runtime.machine import Act

log = structlog.get_logger(__name__)

INGRESS_TRIES = 12
"""Reads and writes of the shared Ingress in one act before it is deferred: many LGPs may want it at once."""

HANDOVER_TRIES = 12
"""Reads and writes of a Deployment that is handed to an autoscaler before the act is deferred: its controller writes
its status all the time while it rolls out."""

INGRESS_TURNS: Mapping[str, threading.Lock] = defaultdict(threading.Lock)
"""By namespace: threads of this process take turns at its shared Ingress instead of conflicting with each other."""

LEFTOVER_KINDS = (
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("v1", "Service"),
    ("v1", "Secret"),
    ("v1", "PersistentVolumeClaim"),
)
"""Kinds that every LGP has objects of, in the order of their deletion: a claim goes once nothing makes it anew."""


def perform(act: Act, state: OperatorState, plan: Plan, ports: Ports, config: OperatorConfig) -> Sequence[Event]:
    """Perform `act` for an LGP that asks for `plan`; return what happened.

    Raises what `runtime.advance` turns into a retry.
    """
    if state.lgp is None:
        raise ValueError(f"{act.name} without an LGP: decide must not ask for it")
    match act:
        case ApplyObjects(keys=keys):
            return apply_objects(keys, state, state.lgp, plan, ports, config)
        case PruneObjects(keys=keys):
            return prune_objects(keys, state, state.lgp, ports, config)
        case PruneEverything():
            return prune_everything(state, state.lgp, plan, ports, config)
        case JudgeAutoscalers(keys=keys):
            return [_unhealthy(state, key) for key in keys]
        case ApplyStatus():
            return apply_status(state, state.lgp, plan, ports)
        case _:
            raise ValueError(f"the operator has no act {act.name}")


# --- applying


def apply_objects(
    keys: tuple[str, ...], state: OperatorState, view: ObservedLgp, plan: Plan, ports: Ports, config: OperatorConfig
) -> list[Event]:
    """Apply the named objects of the LGP as it is now; one that the API server rejects does not stop the others."""
    live = ports.cluster.get(lgp_key(view.namespace, view.name))
    if live is None:
        return [LgpRemoved()]
    seen = observe_lgp(live, ports.digest)
    if is_news(state, seen):
        return [seen]
    hidden = list(hidden_values(live.get("spec") or {}, view.spec))
    server: Manifest | EllipsisType | None = ...
    if not state.objects and state.adopted is None:
        first = _discover(live, view, ports, config)
        if first.adopted is not None:
            return [ObjectsAdopted(adopted=first.adopted)]
        server = first.server
    # The manifests to send hold the literal values that the log does not; the digests to keep are of those that do not.
    whole = build_plan(read_lgp(live, state.adopted), config, plan.held) if hidden else plan
    applied: list[AppliedObject] = []
    created: list[str] = []
    rejected: list[Event] = []
    looked: list[Event] = []
    for key in keys:
        wanted = whole.objects[key]
        try:
            if state.adopted is not None and wanted.adopted:
                looked += _inspect(wanted, state.adopted, live, view, ports, config)
                if looked:
                    break  # what was kept is no longer so: the rest is decided anew
            read = server if key == whole.server else ...
            put = _apply_planned(wanted, whole, state, view, ports, read)
        except ObjectRefused as error:
            message = scrub(str(error), hidden)
            rejected.append(
                ObjectRejected(
                    key=wanted.key,
                    digest=plan.objects[key].digest,
                    status=error.status,
                    reason=error.reason,
                    message=message,
                )
            )
        except (LockLost, LogUnavailable):
            raise
        except AgentplaneError as error:
            if not (applied or rejected):
                raise
            log.warning("apply interrupted", object=key, error=str(error))
            break
        else:
            applied.append(
                AppliedObject(
                    key=wanted.key,
                    digest=plan.objects[key].digest,
                    fingerprint=put.fingerprint,
                    credential=wanted.credential is not None,
                    route=wanted.route,
                )
            )
            if put.created:
                created.append(key)
    done: list[Event] = []
    if applied:
        done.append(
            ObjectsApplied(
                generation=view.generation,
                config_digest=config_digest(config),
                objects=tuple(applied),
                created=tuple(created),
            )
        )
    return done + rejected + looked


def _discover(live: Manifest, view: ObservedLgp, ports: Ports, config: OperatorConfig) -> discover.Discovery:
    redacted = parse_lgp(view.namespace, view.name, view.uid, view.spec)
    return discover.discover(read_lgp(live), redacted, live, config, config_digest(config), ports)


def _inspect(
    wanted: PlannedObject, adopted: Adopted, live: Manifest, view: ObservedLgp, ports: Ports, config: OperatorConfig
) -> list[Event]:
    """Look at an object that was taken over; return what voids, or renews, what was kept of it."""
    look = discover.inspect(wanted, adopted, read_lgp(live, adopted), config, config_digest(config), ports)
    if look.gone:
        return [DriftDetected(key=wanted.key, change="deleted", detail="it is not there")]
    if look.still:
        redacted = parse_lgp(view.namespace, view.name, view.uid, view.spec, adopted)
        return [ObjectsAdopted(adopted=hold(adopted, {str(wanted.key)}, redacted, config))]
    return []


def config_digest(config: OperatorConfig) -> str:
    """Return what names this configuration in events."""
    return digest(config.model_dump(mode="json"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyResult:
    fingerprint: Fingerprint
    created: bool


def _first_replicas(wanted: PlannedObject, whole: Plan, state: OperatorState) -> int:
    """Return what a Deployment of `whole` starts with whose replicas are an autoscaler's: as it was seen last, if it
    was, for somebody may have deleted it.
    """
    others = [other.manifest for other in whole.objects.values() if other.manifest is not None]
    seen = state.workloads.get(str(wanted.key))
    return max(scaling.first_replicas(wanted.key.name, others), seen.observed.desired if seen is not None else 0)


def _apply_planned(
    wanted: PlannedObject,
    whole: Plan,
    state: OperatorState,
    view: ObservedLgp,
    ports: Ports,
    read: Manifest | EllipsisType | None,
) -> ApplyResult:
    """Bring one object of `whole` into the cluster. `read` is what was read of it just now, if it was."""
    if wanted.credential is not None:
        return _create_credential(wanted.credential, ports)
    if wanted.route is not None:
        return _apply_path(wanted.key.namespace, wanted.route, view, ports)
    if wanted.manifest is None:
        raise ValueError(f"{wanted.key} is neither a manifest, a credential nor a route")
    if manifests.may_be_somebody_elses(wanted.key):
        return _optional(wanted.key, ports, lambda: _result_of(namesakes.apply(wanted, whole, state, view, ports)))
    if scaling.is_of_keda(wanted.key) or manifests.is_route(wanted.key):
        return _optional(wanted.key, ports, partial(_apply, wanted.manifest, ports))
    if scaling.is_left_to_an_autoscaler(wanted.manifest):
        return _apply_autoscaled(wanted.key, wanted.manifest, _first_replicas(wanted, whole, state), ports)
    return _apply(wanted.manifest, ports, read)


def _apply(manifest: Manifest, ports: Ports, read: Manifest | EllipsisType | None = ...) -> ApplyResult:
    return _result_of(
        ports.cluster.apply(manifest, manager=names.OPERATOR_MANAGER, before_write=ports.keep_lock, seen=read)
    )


def _result_of(applied: Applied) -> ApplyResult:
    return ApplyResult(fingerprint=own_fingerprint(applied.manifest), created=applied.created)


def _optional(key: ObjectKey, ports: Ports, apply: Callable[[], ApplyResult]) -> ApplyResult:
    """Apply an object of a kind that a cluster need not serve; say what to do where it does not."""
    try:
        return apply()
    except ObjectRefused as error:
        if error.status != 404 or ports.cluster.served(key.api_version, key.kind):
            raise
        raise ObjectRefused(_not_served(key), reason=scaling.KIND_NOT_SERVED, status=404) from error


def _not_served(key: ObjectKey) -> str:
    """Return what to say of an object whose kind the API server does not serve."""
    if scaling.is_of_keda(key):
        return scaling.not_served(key)
    return manifests.route_not_served(key) if manifests.is_route(key) else manifests.managed_not_served(key)


def _apply_autoscaled(key: ObjectKey, manifest: Manifest, first: int, ports: Ports) -> ApplyResult:
    """Apply a Deployment without its number of replicas, which stays as it is; one that is made starts with `first`.

    So does one that we scaled to nothing, for a HorizontalPodAutoscaler would leave it there.

    Raises ObjectConflict when others were faster every time.
    """
    created = False
    for _ in range(HANDOVER_TRIES):
        live = ports.cluster.get(key)
        if live is None or scaling.is_at_nothing_by(live, names.OPERATOR_MANAGER):
            created = created or live is None
            started = {**manifest, "spec": {**manifest["spec"], "replicas": first}}
            live = ports.cluster.apply(started, manager=names.OPERATOR_MANAGER, before_write=ports.keep_lock).manifest
        claims = scaling.without_claim(live, names.OPERATOR_MANAGER)
        if claims is None:
            return replace(_apply(manifest, ports), created=created)
        patch = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"], "managedFields": claims}}
        with suppress(ObjectConflict):
            ports.cluster.patch(key, patch, before_write=ports.keep_lock)
    raise ObjectConflict(f"{key} was changed by others in each of {HANDOVER_TRIES} tries", status=409)


def _create_credential(credential: Credential, ports: Ports) -> ApplyResult:
    """Create a Secret with fresh values unless there is one, whose values are kept whoever made it.

    Of one that exists only labels and owners are brought up to date, so that it is found and collected.
    """
    live = ports.cluster.get(credential.key)
    if live is None:
        values = {entry.field: secrets.token_hex(entry.random_bytes) for entry in credential.generated}
        ports.keep_lock()
        created = ports.cluster.create(credential.with_values(values))
        return ApplyResult(fingerprint=Fingerprint(uid="", generation=0, fields=""), created=created)
    if not _carries(live["metadata"], credential.manifest["metadata"]):
        ports.cluster.apply(credential.manifest, manager=names.OPERATOR_MANAGER, before_write=ports.keep_lock)
    return ApplyResult(fingerprint=Fingerprint(uid=live["metadata"]["uid"], generation=0, fields=""), created=False)


def _carries(live: Manifest, asked: Manifest) -> bool:
    labels = live.get("labels") or {}
    owners = {owner.get("uid") for owner in live.get("ownerReferences") or []}
    return all(labels.get(key) == value for key, value in (asked.get("labels") or {}).items()) and all(
        owner.get("uid") in owners for owner in asked.get("ownerReferences") or []
    )


# --- the shared Ingress


def _apply_path(namespace: str, route: Route, view: ObservedLgp, ports: Ports) -> ApplyResult:
    """Put the path of an LGP onto the shared Ingress, unless an LGP of the same name in another namespace has it."""

    def change(ingress: Manifest) -> Manifest:
        _refuse_taken(ingress, route, view, ports)
        return manifests.with_path(ingress, route.path, route.service, route.port, host=route.host)

    put = _change_ingress(namespace, change, ports)
    if put is None:
        raise ObjectRefused(_no_ingress(namespace), reason=SHARED_INGRESS_MISSING, status=404)
    return put


def _refuse_taken(ingress: Manifest, route: Route, view: ObservedLgp, ports: Ports) -> None:
    service, _ = observe_routes(ingress).get((route.host, route.path), ("", 0))
    if service in ("", route.service):
        return
    home = ingress["metadata"]["namespace"]
    live = ports.cluster.get(ObjectKey(api_version="v1", kind="Service", namespace=home, name=service))
    labels = (live or {"metadata": {}})["metadata"].get("labels") or {}
    other = labels.get(names.LGP_NAMESPACE_LABEL, home)
    if labels.get(names.LGP_LABEL) == manifests.label_value(view.name) and other != view.namespace:
        raise ObjectRefused(
            f"{route.path} on the shared Ingress in namespace {home} leads to the LGP of the same name in namespace "
            f"{other}; give one of the two another name, or one of the two data planes another base path",
            reason=PATH_TAKEN,
            status=409,
        )


def _change_ingress(namespace: str, change: Callable[[Manifest], Manifest], ports: Ports) -> ApplyResult | None:
    """Read the shared Ingress, change its rules, write them; again if somebody else was faster.

    Returns None when there is no shared Ingress. Raises ObjectConflict when others were faster every time.
    """
    with INGRESS_TURNS[namespace]:
        for _ in range(INGRESS_TRIES):
            ingress = _shared_ingress(namespace, ports)
            if ingress is None:
                return None
            try:
                if _write_ingress(ingress, change(ingress), ports):
                    uid = ingress["metadata"]["uid"]
                    return ApplyResult(fingerprint=Fingerprint(uid=uid, generation=0, fields=""), created=False)
            except ObjectConflict:
                continue
    raise ObjectConflict(
        f"the shared Ingress in namespace {namespace} was changed by others in each of {INGRESS_TRIES} tries",
        status=409,
    )


def _write_ingress(before: Manifest, after: Manifest, ports: Ports) -> bool:
    """Write the rules of `after`, if they are others; return whether the Ingress is there. Raises ObjectConflict."""
    if after == before:
        return True
    patch = {
        "metadata": {"resourceVersion": before["metadata"]["resourceVersion"]},
        "spec": {"rules": after["spec"].get("rules")},
    }
    return ports.cluster.patch(ObjectKey.of(before), patch, before_write=ports.keep_lock) is not None


def _shared_ingress(namespace: str, ports: Ports) -> Manifest | None:
    found = ports.cluster.list(INGRESS_API_VERSION, "Ingress", namespace)
    shared = [ingress for ingress in found if manifests.is_shared_ingress(ingress)]
    return min(shared, key=lambda ingress: str(ingress["metadata"]["name"]), default=None)


def _no_ingress(namespace: str) -> str:
    return (
        f'namespace {namespace} has no Ingress annotated {names.SHARED_INGRESS_ANNOTATION}: "true"; create one '
        "(the chart does with ingress.create), or name its namespace in the operator's ingress settings"
    )


# --- pruning


def prune_objects(
    keys: tuple[str, ...], state: OperatorState, view: ObservedLgp, ports: Ports, config: OperatorConfig
) -> list[Event]:
    """Delete objects that went out and are no longer asked for; never a namesake that somebody else made.

    What belongs to a way in that the configuration gave up, or is of a kind that it switched off, is left where it is
    if we may no longer touch it.
    """
    left: list[str] = []
    for key in keys:
        applied = state.objects[key].applied
        try:
            _prune(applied, view, ports)
        except ObjectRefused as error:
            if not _is_abandoned(error, applied.key, view, config):
                raise
            left.append(key)
    return [ObjectsPruned(objects=keys, left=tuple(left))]


def _prune(applied: AppliedObject, view: ObservedLgp, ports: Ports) -> None:
    if applied.route is not None:
        _remove_path(applied.key.namespace, applied.route, view, ports)
    else:
        ports.keep_lock()
        ports.cluster.delete(applied.key, uid=applied.fingerprint.uid or None)


def _is_abandoned(error: ObjectRefused, key: ObjectKey, view: ObservedLgp, config: OperatorConfig) -> bool:
    former = manifests.is_of_former_way(key, view.namespace, config) or manifests.is_switched_off(key, config)
    disowned = error.status == 403 and former
    if disowned:
        log.warning("left behind", object=str(key), reason=str(error))
    return disowned


def _remove_path(namespace: str, route: Route, view: ObservedLgp, ports: Ports) -> None:
    """Remove a path from the shared Ingress; in another namespace, where others have paths, only if it is ours."""
    service = "" if namespace == view.namespace else route.service
    _change_ingress(namespace, lambda ingress: manifests.without_path(ingress, route.path, service), ports)


def prune_everything(
    state: OperatorState, view: ObservedLgp, plan: Plan, ports: Ports, config: OperatorConfig
) -> list[Event]:
    """Delete what is left of an LGP that does not exist: by its label, its claims, its entry on the shared Ingress."""
    live = ports.cluster.get(lgp_key(view.namespace, view.name))
    if live is not None:
        return [observe_lgp(live, ports.digest)]
    gone: list[str] = []
    refusal: ObjectRefused | None = None
    for kind, selector in _leftovers(state, view, plan):
        ports.keep_lock()
        try:
            count = ports.cluster.delete_all(kind.api_version, kind.kind, kind.namespace, labels=selector)
        except ObjectRefused as error:
            if not _is_abandoned(error, kind, view, config):
                refusal = error
            continue
        if count:
            gone.append(f"{count} {kind.kind}")
    for key in _claims(state, plan, view.namespace):
        ports.keep_lock()
        if ports.cluster.delete(key):
            gone.append(str(key))
    routes = {entry.applied.key: entry.applied.route for entry in state.objects.values()}
    routes |= {wanted.key: wanted.route for wanted in plan.objects.values()}
    for key, route in routes.items():
        if route is None:
            continue
        try:
            _remove_path(key.namespace, route, view, ports)
        except ObjectRefused as error:
            if not _is_abandoned(error, key, view, config):
                refusal = error
        else:
            gone.append(f"route {route.path}")
    if refusal is not None:
        raise refusal
    return [ObjectsPruned(objects=tuple(gone), everything=True)]


def _leftovers(state: OperatorState, view: ObservedLgp, plan: Plan) -> Iterator[tuple[ObjectKey, str]]:
    """Yield the kinds, with namespace and without a name, that may have objects of this LGP, and their selectors."""
    keys = [entry.applied.key for entry in state.objects.values()] + [wanted.key for wanted in plan.objects.values()]
    seen = {replace(key, name="") for key in keys if key.kind != ROUTE_KIND}
    usual = [
        ObjectKey(api_version=version, kind=kind, namespace=view.namespace, name="") for version, kind in LEFTOVER_KINDS
    ]
    for kind in [*sorted(seen - set(usual), key=str), *usual]:
        if kind.namespace == view.namespace:
            yield kind, manifests.object_selector(view.name)
        else:
            yield kind, manifests.away_selector(view.namespace, view.name)


def _claims(state: OperatorState, plan: Plan, namespace: str) -> list[ObjectKey]:
    """Return the claims that StatefulSets of this LGP make, by name: adopted ones do not carry our label."""
    database = state.adopted.database if state.adopted is not None else None
    there = [] if database is None else [f"{claim}-{database.name}-0" for claim in database.claims]
    return [
        ObjectKey(api_version="v1", kind="PersistentVolumeClaim", namespace=namespace, name=name) for name in there
    ] + [
        ObjectKey(
            api_version="v1",
            kind="PersistentVolumeClaim",
            namespace=namespace,
            name=f"{claim['metadata']['name']}-{wanted.key.name}-{ordinal}",
        )
        for wanted in plan.objects.values()
        if wanted.manifest is not None and wanted.key.kind == "StatefulSet"
        for claim in wanted.manifest["spec"].get("volumeClaimTemplates") or []
        for ordinal in range(wanted.manifest["spec"].get("replicas", 1))
    ]


# --- autoscalers and status


def _unhealthy(state: OperatorState, key: str) -> AutoscalerUnhealthy:
    seen = state.autoscalers[key].observed
    return AutoscalerUnhealthy(key=seen.key, reason=seen.reason, message=seen.message)


def apply_status(state: OperatorState, view: ObservedLgp, plan: Plan, ports: Ports) -> list[Event]:
    """Write the LGP's status."""
    judged = compute_status(state, plan)
    key = lgp_key(view.namespace, view.name)
    manifest = {
        "apiVersion": key.api_version,
        "kind": key.kind,
        "metadata": {"name": key.name, "namespace": key.namespace},
        "status": judged.status,
    }
    try:
        applied = ports.cluster.apply_status(manifest, manager=names.OPERATOR_MANAGER, before_write=ports.keep_lock)
    except ObjectRefused as error:
        if error.status == 404 and ports.cluster.get(key) is None:
            return [LgpRemoved()]
        raise
    if applied.manifest["metadata"]["uid"] != view.uid:
        return [observe_lgp(applied.manifest, ports.digest)]
    return [LgpStatusApplied(digest=digest(judged.status), status=judged.status, rolled_out=judged.rolled_out)]
