"""What the observer remembers of shared Ingresses: their paths, by namespace."""

from __future__ import annotations

from engine.operator.manifests import is_shared_ingress
from engine.operator.observation.objects import Backend, HostPath, observe_paths
from engine.ports import Manifest

Paths = dict[HostPath, Backend]


class SharedIngresses:
    """The shared Ingresses of all watched namespaces."""

    def __init__(self) -> None:
        self._routes: dict[str, dict[str, Paths]] = {}
        """Namespace → name of a shared Ingress → its paths."""

    def on_change(self, namespace: str, ingress: Manifest, *, exists: bool) -> frozenset[HostPath] | None:
        """Take in an Ingress; return the entries that changed, None when all may have: an Ingress came or went."""
        before = self.paths(namespace)
        ingresses, name = self._routes.setdefault(namespace, {}), ingress["metadata"]["name"]
        if exists and is_shared_ingress(ingress):
            ingresses[name] = observe_paths(ingress)
        else:
            ingresses.pop(name, None)
        after = self.paths(namespace)
        if (before is None) != (after is None):
            return None
        before, after = before or {}, after or {}
        return frozenset(entry for entry in before.keys() | after.keys() if before.get(entry) != after.get(entry))

    def paths(self, namespace: str) -> Paths | None:
        """Return the paths of the shared Ingress that acts choose there (the first by name); None without any."""
        ingresses = self._routes.get(namespace)
        return ingresses[min(ingresses)] if ingresses else None
