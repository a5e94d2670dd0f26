"""Deletes objects: those that an LGP no longer asks for, and everything that is left of an LGP that does not exist.

An object is deleted by its uid or by the labels that only our objects carry, never by its name alone: an object of the
same name that another program made stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import structlog

from engine.errors import ObjectRefused
from engine.event import Event
from engine.operator import manifests
from engine.operator.acts import PruneEverything, PruneObjects
from engine.operator.context import Context
from engine.operator.events import AppliedObject, ObjectsPruned
from engine.operator.observation.lgp import observe_lgp
from engine.operator.plan import INGRESS_PATH_KIND
from engine.operator.shared_ingress import remove_path
from engine.ports import ObjectKey, lgp_key

log = structlog.get_logger(__name__)

KINDS = (
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("v1", "Service"),
    ("v1", "Secret"),
    ("v1", "PersistentVolumeClaim"),
)
"""API version and kind of the objects that every LGP has, in the order of deletion: PersistentVolumeClaims go last,
when no StatefulSet creates them again."""


def prune_objects(act: PruneObjects, context: Context) -> list[Event]:
    """Delete applied objects that the LGP no longer asks for.

    An object of a disabled exposure or kind is left in place when our role no longer allows deleting it. Raises
    ObjectRefused for any other refusal.
    """
    left_in_place: list[str] = []
    for key in act.keys:
        applied = context.state.objects[key].applied
        try:
            _delete(applied, context)
        except ObjectRefused as error:
            if not _stays_in_place(applied.key, error, context):
                raise
            left_in_place.append(key)
    return [ObjectsPruned(objects=act.keys, left_in_place=tuple(left_in_place))]


def _delete(applied: AppliedObject, context: Context) -> None:
    if applied.ingress_path is not None:
        remove_path(applied.key.namespace, applied.ingress_path, context)
    else:
        context.ports.keep_lock()
        context.cluster.delete(applied.key, uid=applied.fingerprint.uid or None)


def _stays_in_place(key: ObjectKey, error: ObjectRefused, context: Context) -> bool:
    """Return whether `error` says that our role no longer covers an object of a disabled exposure or kind."""
    disabled = manifests.is_of_disabled_exposure(
        key, context.lgp.namespace, context.config
    ) or manifests.is_switched_off(key, context.config)
    stays = error.status == 403 and disabled
    if stays:
        log.warning("left in place", object=str(key), reason=str(error))
    return stays


def prune_everything(act: PruneEverything, context: Context) -> list[Event]:
    """Delete what is left of an LGP that does not exist: objects with its label, claims, its path on the Ingress.

    Returns LgpObserved when the LGP exists. A refusal does not stop the other deletions; the last one is raised.
    """
    live = context.cluster.get(lgp_key(context.lgp.namespace, context.lgp.name))
    if live is not None:
        return [observe_lgp(live, context.ports.digest)]
    refusals: list[ObjectRefused] = []
    deleted = [
        *_delete_labelled_objects(context, refusals),
        *_delete_claims(context),
        *_remove_paths(context, refusals),
    ]
    if refusals:
        raise refusals[-1]
    return [ObjectsPruned(objects=tuple(deleted), everything=True)]


def _delete_labelled_objects(context: Context, refusals: list[ObjectRefused]) -> Iterator[str]:
    """Delete the objects that carry the label of the LGP; yield how many of which kind. Adds to `refusals`."""
    for kind, selector in _labelled_kinds(context):
        context.ports.keep_lock()
        try:
            count = context.cluster.delete_all(kind.api_version, kind.kind, kind.namespace, labels=selector)
        except ObjectRefused as error:
            if not _stays_in_place(kind, error, context):
                refusals.append(error)
            continue
        if count:
            yield f"{count} {kind.kind}"


def _labelled_kinds(context: Context) -> Iterator[tuple[ObjectKey, str]]:
    """Yield every kind of which the LGP may have objects, as a key without a name, with the selector of the objects."""
    applied = [entry.applied.key for entry in context.state.objects.values()]
    planned = [planned.key for planned in context.plan.objects.values()]
    known = {replace(key, name="") for key in [*applied, *planned] if key.kind != INGRESS_PATH_KIND}
    usual = [
        ObjectKey(api_version=version, kind=kind, namespace=context.lgp.namespace, name="") for version, kind in KINDS
    ]
    for kind in [*sorted(known - set(usual), key=str), *usual]:
        if kind.namespace == context.lgp.namespace:
            yield kind, manifests.object_selector(context.lgp.name)
        else:
            yield kind, manifests.away_selector(context.lgp.namespace, context.lgp.name)


def _delete_claims(context: Context) -> Iterator[str]:
    """Delete the PersistentVolumeClaims of the LGP by name, and yield each: adopted claims do not carry our label."""
    for name in _claim_names(context):
        key = ObjectKey(api_version="v1", kind="PersistentVolumeClaim", namespace=context.lgp.namespace, name=name)
        context.ports.keep_lock()
        if context.cluster.delete(key):
            yield str(key)


def _claim_names(context: Context) -> Iterator[str]:
    """Yield the names of the PersistentVolumeClaims that the StatefulSets of the LGP create."""
    database = context.state.adopted.database if context.state.adopted is not None else None
    if database is not None:
        yield from (f"{claim}-{database.name}-0" for claim in database.claims)
    for planned in context.plan.objects.values():
        if planned.manifest is None or planned.key.kind != "StatefulSet":
            continue
        spec = planned.manifest["spec"]
        for claim in spec.get("volumeClaimTemplates") or []:
            for ordinal in range(spec.get("replicas", 1)):
                yield f"{claim['metadata']['name']}-{planned.key.name}-{ordinal}"


def _remove_paths(context: Context, refusals: list[ObjectRefused]) -> Iterator[str]:
    """Remove the path of the LGP from the shared Ingress; yield each removed path. Adds to `refusals`."""
    paths = {entry.applied.key: entry.applied.ingress_path for entry in context.state.objects.values()}
    paths |= {planned.key: planned.ingress_path for planned in context.plan.objects.values()}
    for key, ingress_path in paths.items():
        if ingress_path is None:
            continue
        try:
            remove_path(key.namespace, ingress_path, context)
        except ObjectRefused as error:
            if not _stays_in_place(key, error, context):
                refusals.append(error)
        else:
            yield f"route {ingress_path.path}"
