"""Permissions: what each process needs in Kubernetes. `agentplane doctor` checks them, and a Role must grant them.

An apply reads an object, then patches or creates it, so it needs `get`, `create` and `patch`. The listener and the
operator list and delete leftovers. The listener also lists LGPs, because another listener may have given an LGP another
name. The watcher lists and watches, and reads unconfirmed changes again. Some clusters (OpenShift) require `update` of
`lgps/finalizers` of an account that sets an LGP as the owner of an object. A process that writes to a namespace leases
it first; a process that only watches reads the lease.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from engine.kubernetes.namespace_lease import LEASE_API_VERSION, LEASE_KIND, LEASE_NAME
from engine.names import BUDGET, LGP_API_VERSION, LGP_KIND, SECRET_PROVIDER_CLASS, SERVICE_ACCOUNT
from engine.settings import Settings

INGRESS_API_VERSION = "networking.k8s.io/v1"

APPLIED = "get list create patch delete"
"""Verbs for objects that are applied and deleted."""
WATCHED = "get list watch"
"""Verbs for objects that are watched for drift."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """Verbs on one kind, in each watched namespace."""

    api_version: str
    kind: str
    verbs: str
    """Separated by spaces."""
    subresource: str = ""
    name: str = ""
    """Name of the only object, if it is known."""

    def __str__(self) -> str:
        return f"{self.kind}/{self.subresource}" if self.subresource else self.kind


def _of(api_version: str, kind: str, verbs: str, subresource: str = "") -> Permission:
    return Permission(api_version=api_version, kind=kind, verbs=verbs, subresource=subresource)


LEASE = (
    _of(LEASE_API_VERSION, LEASE_KIND, "create"),
    Permission(api_version=LEASE_API_VERSION, kind=LEASE_KIND, verbs="get patch", name=LEASE_NAME),
)
"""For processes that write to a namespace."""
LISTENER = (
    *LEASE,
    _of(LGP_API_VERSION, LGP_KIND, APPLIED),
    _of("v1", "Secret", APPLIED),
)
OPERATOR = (
    *LEASE,
    _of(LGP_API_VERSION, LGP_KIND, "get"),
    _of(LGP_API_VERSION, LGP_KIND, "patch", "status"),
    _of(LGP_API_VERSION, LGP_KIND, "update", "finalizers"),
    _of("apps/v1", "Deployment", APPLIED),
    _of("apps/v1", "StatefulSet", APPLIED),
    _of("v1", "Service", APPLIED),
    _of("v1", "Secret", APPLIED),
    _of("v1", "PersistentVolumeClaim", "list delete"),
)
WATCHER = (
    Permission(api_version=LEASE_API_VERSION, kind=LEASE_KIND, verbs="get", name=LEASE_NAME),
    _of(LGP_API_VERSION, LGP_KIND, WATCHED),
    _of("v1", "Secret", WATCHED),
)
"""For every watcher."""
OPERATOR_WATCHER = (
    _of("apps/v1", "Deployment", WATCHED),
    _of("apps/v1", "StatefulSet", WATCHED),
    _of("apps/v1", "ReplicaSet", "list watch"),
    _of("v1", "Service", WATCHED),
    _of("v1", "Pod", "list watch"),
)

INGRESS = (INGRESS_API_VERSION, "Ingress")
HTTP_ROUTE = ("gateway.networking.k8s.io/v1", "HTTPRoute")
VIRTUAL_SERVICE = ("networking.istio.io/v1", "VirtualService")
SCALED_OBJECT = ("keda.sh/v1alpha1", "ScaledObject")
AUTOSCALER = ("autoscaling/v2", "HorizontalPodAutoscaler")
"""API version and kind of objects that are used only if a setting enables them, or an LGP requests them."""

OPERATOR_AT_INGRESS = (_of("v1", "Service", APPLIED), _of(*INGRESS, "list patch"))
WATCHER_AT_INGRESS = (_of("v1", "Service", WATCHED), _of(*INGRESS, "list watch"))
"""For a shared Ingress in another namespace than the LGPs: Services there refer to the Services of the LGPs."""

ROUTES = {"gateway": HTTP_ROUTE, "istio": VIRTUAL_SERVICE}
"""Exposure → the operator's object for it. (For a shared Ingress, the operator changes only the paths.)"""


def needed(settings: Settings) -> dict[str, list[Permission]]:
    """Return the permissions of each process that runs here in each watched namespace, by process."""
    found: dict[str, list[Permission]] = {}
    if settings.listener_enabled:
        found["listener"] = list(LISTENER)
    if settings.operator_enabled:
        # With budgets disabled, the operator deletes those that it created before.
        budgets = _of(*BUDGET, APPLIED if settings.pod_disruption_budgets else "delete")
        found["operator"] = [*OPERATOR, *_routed(settings, "list patch"), *_extra(settings, APPLIED), budgets]
    if found:
        found["watcher"] = list(WATCHER)
    if settings.operator_enabled:
        budgets_watched = [_of(*BUDGET, WATCHED)] if settings.pod_disruption_budgets else []
        found["watcher"] += [*OPERATOR_WATCHER, *_routed(settings, "list watch"), *_extra(settings, WATCHED)]
        found["watcher"] += budgets_watched
    return found


def needed_at_ingress(settings: Settings) -> dict[str, list[Permission]]:
    """Return the permissions of each process that runs here in `settings.ingress_elsewhere`, by process."""
    if not (settings.ingress_elsewhere and settings.operator_enabled):
        return {}
    return {"operator": list(OPERATOR_AT_INGRESS), "watcher": list(WATCHER_AT_INGRESS)}


def together(needs: Iterable[Iterable[Permission]]) -> list[Permission]:
    """Return the permissions of one account for several processes, each kind once."""
    verbs: dict[Permission, dict[str, None]] = {}
    for permission in (permission for process in needs for permission in process):
        key = replace(permission, verbs="")
        verbs.setdefault(key, {}).update(dict.fromkeys(permission.verbs.split()))
    return [replace(key, verbs=" ".join(asked)) for key, asked in verbs.items()]


def _routed(settings: Settings, verbs: str) -> list[Permission]:
    here = settings.routing.kind == "ingress" and not settings.ingress_elsewhere
    return [_of(*INGRESS, verbs)] if here else []


def _extra(settings: Settings, verbs: str) -> Iterator[Permission]:
    yield _of(*AUTOSCALER, verbs)
    if settings.keda_enabled:
        yield _of(*SCALED_OBJECT, verbs)
    if settings.managed_service_accounts:
        yield _of(*SERVICE_ACCOUNT, verbs)
    if settings.managed_secret_provider_classes:
        yield _of(*SECRET_PROVIDER_CLASS, verbs)
    if settings.routing.kind in ROUTES:
        yield _of(*ROUTES[settings.routing.kind], verbs)
