"""What each half asks of Kubernetes, as a table: what `agentplane doctor` checks, and what a Role must allow.

An apply reads, then patches, and creates what is not there, so it takes `get`, `create` and `patch`. Whatever is
applied is watched for drift (`list`, `watch`) and deleted in the end. `lgps/finalizers` is asked for by clusters
that let only those name an object as owner who may delay its deletion (OpenShift does).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.names import LGP_API_VERSION, LGP_KIND
from engine.settings import Settings

INGRESS_API_VERSION = "networking.k8s.io/v1"

APPLIED = "get list watch create patch delete"
"""Verbs for objects that are applied, watched and deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """Verbs on one kind, in every watched namespace."""

    api_version: str
    kind: str
    verbs: str
    """Separated by spaces."""
    subresource: str = ""

    def __str__(self) -> str:
        return f"{self.kind}/{self.subresource}" if self.subresource else self.kind


def _of(api_version: str, kind: str, verbs: str, subresource: str = "") -> Permission:
    return Permission(api_version=api_version, kind=kind, verbs=verbs, subresource=subresource)


LISTENER = (
    _of(LGP_API_VERSION, LGP_KIND, APPLIED),
    _of("v1", "Secret", APPLIED),
)
"""Of the listener half, watcher included."""

OPERATOR = (
    _of(LGP_API_VERSION, LGP_KIND, "get list watch"),
    _of(LGP_API_VERSION, LGP_KIND, "patch", "status"),
    _of(LGP_API_VERSION, LGP_KIND, "update", "finalizers"),
    _of("apps/v1", "Deployment", APPLIED),
    _of("apps/v1", "StatefulSet", APPLIED),
    _of("apps/v1", "ReplicaSet", "list watch"),
    _of("v1", "Service", APPLIED),
    _of("v1", "Secret", APPLIED),
    _of("v1", "PersistentVolumeClaim", "list delete"),
    _of("v1", "Pod", "list watch"),
)
"""Of the operator half, watcher included."""

INGRESS = _of(INGRESS_API_VERSION, "Ingress", "list watch patch")
HTTP_ROUTE = _of("gateway.networking.k8s.io/v1", "HTTPRoute", APPLIED)
VIRTUAL_SERVICE = _of("networking.istio.io/v1", "VirtualService", APPLIED)
SCALED_OBJECT = _of("keda.sh/v1alpha1", "ScaledObject", APPLIED)
AUTOSCALER = _of("autoscaling/v2", "HorizontalPodAutoscaler", APPLIED)

ROUTES = {"ingress": INGRESS, "gateway": HTTP_ROUTE, "istio": VIRTUAL_SERVICE}
"""Kind of route → what the operator needs for it."""


def needed(settings: Settings) -> list[Permission]:
    """Return what the halves that run here need in every watched namespace, each kind once."""
    verbs: dict[tuple[str, str, str], dict[str, None]] = {}
    for permission in _asked(settings):
        key = (permission.api_version, permission.kind, permission.subresource)
        verbs.setdefault(key, {}).update(dict.fromkeys(permission.verbs.split()))
    return [
        _of(api_version, kind, " ".join(asked), subresource)
        for (api_version, kind, subresource), asked in verbs.items()
    ]


def _asked(settings: Settings) -> Iterator[Permission]:
    if settings.listener_enabled:
        yield from LISTENER
    if settings.operator_enabled:
        yield from OPERATOR
        yield AUTOSCALER
        if settings.keda_enabled:
            yield SCALED_OBJECT
        if settings.routing.kind in ROUTES:
            yield ROUTES[settings.routing.kind]
