"""Warnings about accepted objects, which the API server sends in `Warning` headers.

It has only those rules of Kubernetes that apply to manifests of this project and its tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sandbox.kubernetes.validation import amount

Object = dict[str, Any]

_TEMPLATED = ("deployments.apps", "replicasets.apps", "statefulsets.apps", "daemonsets.apps", "jobs.batch")
_OLD_LABELS = {
    "beta.kubernetes.io/os": "kubernetes.io/os",
    "beta.kubernetes.io/arch": "kubernetes.io/arch",
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
}
_STANDARD_FINALIZERS = ("orphan", "foregroundDeletion", "kubernetes")


def advice(resource: str, obj: Object, before: Object | None, custom: bool) -> list[str]:
    """Return the warnings about a new or changed object, in their order."""
    if custom:
        return list(_finalizers(obj, before))
    if resource == "ingresses.networking.k8s.io":
        return list(_ingress(obj)) if before is None else []
    if before is not None and before.get("spec") == obj.get("spec"):
        return []
    if resource == "pods":
        return list(_pod(obj["spec"], "spec"))
    if resource in _TEMPLATED:
        return list(_pod((obj["spec"].get("template") or {}).get("spec") or {}, "spec.template.spec"))
    return []


def _finalizers(obj: Object, before: Object | None) -> Iterator[str]:
    known = (before or {"metadata": {}})["metadata"].get("finalizers") or ()
    for name in sorted(obj["metadata"].get("finalizers") or ()):
        if name not in known and "/" not in name and name not in _STANDARD_FINALIZERS:
            what = "finalizer name including a path (/)" if "." in name else "finalizer name"
            yield (
                f'metadata.finalizers: "{name}": prefer a domain-qualified {what} to avoid accidental conflicts with '
                "other finalizer writers"
            )


def _ingress(ingress: Object) -> Iterator[str]:
    name = "kubernetes.io/ingress.class"
    if name in (ingress["metadata"].get("annotations") or {}):
        yield f"annotation \"{name}\" is deprecated, please use 'spec.ingressClassName' instead"


def _pod(spec: Object, path: str) -> Iterator[str]:
    for label in spec.get("nodeSelector") or {}:
        if label in _OLD_LABELS:
            yield f'{path}.nodeSelector[{label}]: deprecated since v1.14; use "{_OLD_LABELS[label]}" instead'
    for index, secret in enumerate(spec.get("imagePullSecrets") or ()):
        if not secret.get("name"):
            yield f'{path}.imagePullSecrets[{index}].name: invalid empty name ""'
    for field in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(field) or ()):
            for rule in _OF_CONTAINERS:
                yield from rule(container, f"{path}.{field}[{index}]")


def _fractions(container: Object, at: str) -> Iterator[str]:
    for kind in ("limits", "requests"):
        for name, quantity in ((container.get("resources") or {}).get(kind) or {}).items():
            if name in ("memory", "ephemeral-storage") and amount(quantity) % 1:
                place = f"{at}.resources.{kind}[{name}]"
                yield f'{place}: fractional byte value "{quantity}" is invalid, must be an integer'


def _variables(container: Object, at: str) -> Iterator[str]:
    seen: set[str] = set()
    for index, variable in enumerate(container.get("env") or ()):
        name = variable.get("name", "")
        if name in seen and f"$({name})" not in variable.get("value", ""):
            yield f'{at}.env[{index}]: hides previous definition of "{name}", which may be dropped when using apply'
        seen.add(name)


def _ports(container: Object, at: str) -> Iterator[str]:
    ports = container.get("ports") or ()
    for index, port in enumerate(ports):
        for other, earlier in enumerate(ports[:index]):
            if all(port.get(name) == earlier.get(name) for name in ("containerPort", "protocol", "hostPort", "hostIP")):
                named = f"{at}.ports[{other}]"
                yield f"{at}.ports[{index}]: duplicate port definition with {named}"
                break


_OF_CONTAINERS: tuple[Callable[[Object, str], Iterator[str]], ...] = (_fractions, _variables, _ports)
