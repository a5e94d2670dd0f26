"""Writes to the shared Ingress: read it, add or remove the path of an Agent Server, write it back.

Which path that is: `manifests/routes.py` (`ingress_path`). The form of the path: `engine/agent_path.py`. How the rules
of an Ingress change: `manifests/ingress_rules.py`.

Many LGPs, and several processes, change the one Ingress. So every write carries the resourceVersion that was read. On a
conflict the Ingress is read and changed again, up to TRIES times; then the act is deferred.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping

from engine import names
from engine.errors import ObjectConflict, ObjectRefused
from engine.operator import manifests
from engine.operator.context import ApplyResult, Context
from engine.operator.events import IngressPath
from engine.operator.observation.objects import observe_paths
from engine.operator.plan import INGRESS_API_VERSION, PATH_TAKEN, SHARED_INGRESS_MISSING
from engine.ports import Manifest, ObjectKey

TRIES = 12
"""Reads and writes of the shared Ingress in one act before the act is deferred: many LGPs may change it at once."""

TURNS: Mapping[str, threading.Lock] = defaultdict(threading.Lock)
"""Namespace → lock: threads of this process change the Ingress there one after another, instead of conflicting."""


def apply_path(namespace: str, ingress_path: IngressPath, context: Context) -> ApplyResult:
    """Put `ingress_path` onto the shared Ingress in `namespace`.

    Raises ObjectRefused when there is no shared Ingress, or when an LGP of the same name in another namespace has the
    path; ObjectConflict when other writers were faster in every try.
    """

    def change(ingress: Manifest) -> Manifest:
        _refuse_taken_path(ingress, ingress_path, context)
        return manifests.with_path(
            ingress, ingress_path.path, ingress_path.service, ingress_path.port, host=ingress_path.host
        )

    uid = _change(namespace, change, context)
    if uid is None:
        raise ObjectRefused(
            f'namespace {namespace} has no Ingress annotated {names.SHARED_INGRESS_ANNOTATION}: "true"; create one '
            "(the chart does with ingress.create), or name its namespace in the operator's ingress settings",
            reason=SHARED_INGRESS_MISSING,
            status=404,
        )
    return ApplyResult.existing(uid)


def remove_path(namespace: str, ingress_path: IngressPath, context: Context) -> None:
    """Remove `ingress_path` from the shared Ingress in `namespace`, if there is one.

    An Ingress outside the LGP's namespace also has the paths of other namespaces. There the path is removed only if it
    leads to the Service of this LGP. Raises ObjectConflict when other writers were faster in every try.
    """
    service = "" if namespace == context.lgp.namespace else ingress_path.service
    _change(namespace, lambda ingress: manifests.without_path(ingress, ingress_path.path, service), context)


def _refuse_taken_path(ingress: Manifest, ingress_path: IngressPath, context: Context) -> None:
    service, _ = observe_paths(ingress).get((ingress_path.host, ingress_path.path), ("", 0))
    if service in ("", ingress_path.service):
        return
    home = ingress["metadata"]["namespace"]
    live = context.cluster.get(ObjectKey(api_version="v1", kind="Service", namespace=home, name=service))
    labels = (live or {"metadata": {}})["metadata"].get("labels") or {}
    other = labels.get(names.LGP_NAMESPACE_LABEL, home)
    if labels.get(names.LGP_LABEL) == manifests.label_value(context.lgp.name) and other != context.lgp.namespace:
        raise ObjectRefused(
            f"{ingress_path.path} on the shared Ingress in namespace {home} leads to the LGP of the same name "
            f"in namespace {other}; give one of the two another name, or one of the two data planes another base path",
            reason=PATH_TAKEN,
            status=409,
        )


def _change(namespace: str, change: Callable[[Manifest], Manifest], context: Context) -> str | None:
    """Read the shared Ingress, `change` its rules, and write them; again after a conflict.

    Returns the uid of the Ingress, None when there is no shared Ingress. Raises ObjectConflict.
    """
    with TURNS[namespace]:
        for _ in range(TRIES):
            ingress = _shared_ingress(namespace, context)
            if ingress is None:
                return None
            try:
                if _write(ingress, change(ingress), context):
                    return str(ingress["metadata"]["uid"])
            except ObjectConflict:
                continue
    raise ObjectConflict(
        f"the shared Ingress in namespace {namespace} was changed by others in each of {TRIES} tries", status=409
    )


def _write(before: Manifest, after: Manifest, context: Context) -> bool:
    """Write the rules of `after` if they differ; return whether the Ingress still exists. Raises ObjectConflict."""
    if after == before:
        return True
    patch = {
        "metadata": {"resourceVersion": before["metadata"]["resourceVersion"]},
        "spec": {"rules": after["spec"].get("rules")},
    }
    written = context.cluster.patch(ObjectKey.of(before), patch, before_write=context.ports.keep_lock)
    return written is not None


def _shared_ingress(namespace: str, context: Context) -> Manifest | None:
    found = context.cluster.list(INGRESS_API_VERSION, "Ingress", namespace)
    shared = [ingress for ingress in found if manifests.is_shared_ingress(ingress)]
    return min(shared, key=lambda ingress: str(ingress["metadata"]["name"]), default=None)
