"""Kinds: the URL of a kind's objects.

A table has the plurals of the kinds that the data plane uses, so that they need no discovery request. For another kind,
the API server's discovery is asked once, and the answer is remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

PLURALS = {
    "ConfigMap": "configmaps",
    "CustomResourceDefinition": "customresourcedefinitions",
    "Deployment": "deployments",
    "Event": "events",
    "Gateway": "gateways",
    "HTTPRoute": "httproutes",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "Ingress": "ingresses",
    "IngressClass": "ingressclasses",
    "LGP": "lgps",
    "Lease": "leases",
    "Namespace": "namespaces",
    "NetworkPolicy": "networkpolicies",
    "Node": "nodes",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "Pod": "pods",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "ReferenceGrant": "referencegrants",
    "ReplicaSet": "replicasets",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "ScaledObject": "scaledobjects",
    "Secret": "secrets",
    "SecretProviderClass": "secretproviderclasses",
    "SelfSubjectAccessReview": "selfsubjectaccessreviews",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "StatefulSet": "statefulsets",
    "TriggerAuthentication": "triggerauthentications",
    "VirtualService": "virtualservices",
}
"""Kind → plural. The same kind name has the same plural in every group that the data plane writes to."""


def group_of(api_version: str) -> str:
    """Return the API group of an API version; empty for the core group."""
    return api_version.rpartition("/")[0]


def version_path(api_version: str) -> str:
    """Return `/api/v1` or `/apis/<group>/<version>`."""
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


class Paths:
    """URL paths of collections and objects."""

    def __init__(self, discover: Callable[[str], dict[str, str]]) -> None:
        """`discover` returns kind → plural of all kinds that the API server serves in an API version."""
        self._discover = discover
        self._found: dict[tuple[str, str], str] = {}

    def plural(self, api_version: str, kind: str) -> str | None:
        """Return the plural of `kind`; None if the API server does not serve it."""
        known = PLURALS.get(kind) or self._found.get((api_version, kind))
        if known is None:
            for name, plural in self._discover(api_version).items():
                self._found[(api_version, name)] = plural
            known = self._found.get((api_version, kind))
        return known

    def of(self, api_version: str, kind: str, namespace: str, name: str = "", subresource: str = "") -> str | None:
        """Return the path of an object, or of the collection if `name` is empty; None if the kind is not served.

        An empty `namespace` is for a kind without namespaces, or for a list in all namespaces.
        """
        plural = self.plural(api_version, kind)
        if plural is None:
            return None
        parts = [version_path(api_version)]
        if namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)
