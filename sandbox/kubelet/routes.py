"""Routes as data: Ingress, HTTPRoute and VirtualService objects become one table from host and path to Services. Pure.

Precedence follows the Gateway API, and the rules of Ingress agree with it: the more specific host wins (exact,
wildcard, none), then an exact path, then the longest prefix, then the older object. Prefixes match whole path segments:
`/a` matches `/a` and `/a/b`, not `/ab`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A port of a Service."""

    namespace: str
    service: str
    # Number or name of the Service's port; None when the Service has just one.
    port: int | str | None


@dataclass(frozen=True, kw_only=True)
class Route:
    """One host and path, and the Services for it."""

    # None for every host; may begin with `*.`.
    host: str | None
    path: str
    # Whether `path` must match the whole path, not a prefix.
    exact: bool
    # One of the backends gets the request, chosen by weight.
    backends: tuple[Backend, ...]
    weights: tuple[int, ...]
    # Replaces the matched prefix in the forwarded request; None keeps the path.
    rewrite: str | None = None
    # The object of the route as `Kind namespace/name`, for error messages.
    source: str
    # creationTimestamp of the object.
    created: str = ""

    def matches(self, host: str, path: str) -> bool:
        """Whether the route applies to `path` of `host` (without port)."""
        return self._host_matches(host) and self._path_matches(path)

    def rank(self) -> tuple[Any, ...]:
        """Return the sort key; the smallest key takes precedence."""
        host = 2 if self.host is None else 1 if self.host.startswith("*.") else 0
        return (
            host,
            -len(self.host or ""),
            not self.exact,
            -len(self.path.rstrip("/")),
            self.created,
            self.source,
        )

    def rewritten(self, path: str) -> str:
        """Return the path of the forwarded request."""
        if self.rewrite is None:
            return path
        rest = "" if self.exact else path[len(self.path.rstrip("/")) :]
        return f"{self.rewrite.rstrip('/')}/{rest.lstrip('/')}" if rest.strip("/") else self.rewrite or "/"

    def _host_matches(self, host: str) -> bool:
        if self.host is None:
            return True
        if self.host.startswith("*."):
            return host.endswith(self.host[1:]) and len(host) >= len(self.host)
        return host == self.host

    def _path_matches(self, path: str) -> bool:
        if self.exact:
            return path == self.path
        prefix = self.path.rstrip("/")
        return path == prefix or path.startswith(prefix + "/")


class RouteTable:
    """All routes in their order of precedence."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = sorted(routes, key=Route.rank)

    def find(self, host: str, path: str) -> Route | None:
        """Return the route of a request, None when there is none; `host` may have a port."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.lower().rstrip(".")
        return next((route for route in self.routes if route.matches(name, path)), None)


def ingress_routes(item: Object) -> Iterator[Route]:
    """Yield the routes of a networking.k8s.io/v1 Ingress."""
    spec = item.get("spec") or {}
    if default := spec.get("defaultBackend"):
        yield _route(item, None, "/", False, [_ingress_backend(item, default)])
    for rule in spec.get("rules") or ():
        for path in (rule.get("http") or {}).get("paths") or ():
            backend = _ingress_backend(item, path["backend"])
            exact = path.get("pathType") == "Exact"
            yield _route(item, rule.get("host"), path.get("path") or "/", exact, [backend])


def http_routes(item: Object) -> Iterator[Route]:
    """Yield the routes of a gateway.networking.k8s.io/v1 HTTPRoute.

    Backends in other namespaces are left out: they need a ReferenceGrant, which the sandbox does not read.
    """
    spec = item.get("spec") or {}
    for rule in spec.get("rules") or ():
        refs = [ref for ref in rule.get("backendRefs") or () if _is_own_service(item, ref)]
        backends = [_backend(item, ref["name"], ref.get("port")) for ref in refs]
        weights = [int(ref.get("weight", 1)) for ref in refs]
        for match in rule.get("matches") or [{}]:
            path = match.get("path") or {}
            if path.get("type") == "RegularExpression":
                continue
            for host in spec.get("hostnames") or [None]:
                yield _route(item, host, path.get("value") or "/", path.get("type") == "Exact", backends, weights,
                             rewrite=_url_rewrite(rule))  # fmt: skip


def virtual_service_routes(item: Object) -> Iterator[Route]:
    """Yield the routes of a networking.istio.io VirtualService (only `http`, only `uri` with prefix or exact)."""
    spec = item.get("spec") or {}
    for rule in spec.get("http") or ():
        destinations = [entry["destination"] for entry in rule.get("route") or ()]
        backends = [_istio_backend(item, destination) for destination in destinations]
        weights = [int(entry.get("weight", 0 if len(destinations) > 1 else 1)) for entry in rule.get("route") or ()]
        for match in rule.get("match") or [{}]:
            uri = match.get("uri") or {"prefix": "/"}
            kind = next((kind for kind in ("exact", "prefix") if kind in uri), None)
            if kind is None:
                continue
            for host in spec.get("hosts") or ["*"]:
                yield _route(item, None if host == "*" else host, uri[kind], kind == "exact", backends, weights,
                             rewrite=(rule.get("rewrite") or {}).get("uri"))  # fmt: skip


# Collection path of a kind → the function that yields an object's routes, and whether every cluster has the kind.
SOURCES: dict[str, tuple[Callable[[Object], Iterator[Route]], bool]] = {
    "/apis/networking.k8s.io/v1/ingresses": (ingress_routes, True),
    "/apis/gateway.networking.k8s.io/v1/httproutes": (http_routes, False),
    "/apis/networking.istio.io/v1/virtualservices": (virtual_service_routes, False),
}


def external_backend(service: Object, port: int | str | None) -> Backend | None:
    """Return the Service of this cluster that a Service of type ExternalName names; None for any other host.

    An ExternalName is only a DNS alias, so the port of the result is the port number that a client connects to.
    """
    spec = service.get("spec") or {}
    name, _, rest = str(spec.get("externalName") or "").partition(".")
    namespace, _, domain = rest.partition(".")
    if spec.get("type") != "ExternalName" or not namespace or domain.split(".")[0] not in ("", "svc"):
        return None
    number = target_port(service, port) if spec.get("ports") else port
    return Backend(namespace=namespace, service=name, port=number)


def target_port(service: Object, port: int | str | None) -> int | str | None:
    """Return the targetPort of a Service's port, a number or a name; None when the Service has no such port."""
    ports = (service.get("spec") or {}).get("ports") or []
    if port is None and len(ports) == 1:
        return ports[0].get("targetPort") or ports[0]["port"]  # type: ignore[no-any-return]
    for one in ports:
        if port in (one["port"], one.get("name")):
            return one.get("targetPort") or one["port"]  # type: ignore[no-any-return]
    return None


def container_port(pod: Object, port: int | str) -> int | None:
    """Return the number of a container port given by number or name; None when no container has a port of this name."""
    if isinstance(port, int):
        return port
    for container in pod["spec"]["containers"]:
        for one in container.get("ports") or ():
            if one.get("name") == port:
                number: int = one["containerPort"]
                return number
    return int(port) if port.isdigit() else None


def serves(pod: Object, service: Object) -> bool:
    """Whether the Service sends requests to this pod: it is selected, ready and not terminating."""
    selector = (service.get("spec") or {}).get("selector")
    meta = pod["metadata"]
    if not selector or meta["namespace"] != service["metadata"]["namespace"] or meta.get("deletionTimestamp"):
        return False
    labels = meta.get("labels") or {}
    if any(labels.get(key) != value for key, value in selector.items()):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _route(
    item: Object, host: str | None, path: str, exact: bool, backends: list[Backend],
    weights: list[int] | None = None, rewrite: str | None = None,
) -> Route:  # fmt: skip
    meta = item["metadata"]
    return Route(
        host=host.lower() if host else None,
        path=path,
        exact=exact,
        backends=tuple(backends),
        weights=tuple(weights or [1] * len(backends)),
        rewrite=rewrite,
        source=f"{item.get('kind') or 'route'} {meta.get('namespace', '')}/{meta['name']}",
        created=meta.get("creationTimestamp") or "",
    )


def _backend(item: Object, service: str, port: int | str | None) -> Backend:
    return Backend(namespace=item["metadata"].get("namespace") or "default", service=service, port=port)


def _ingress_backend(item: Object, backend: Object) -> Backend:
    service = backend.get("service") or {}
    port = service.get("port") or {}
    return _backend(item, service.get("name") or "", port.get("number") or port.get("name"))


def _is_own_service(item: Object, ref: Object) -> bool:
    own = item["metadata"].get("namespace")
    return bool(ref.get("kind", "Service") == "Service" and ref.get("namespace", own) == own)


def _istio_backend(item: Object, destination: Object) -> Backend:
    # `host` is a short name, or <service>.<namespace>[.svc.cluster.local].
    name, _, rest = destination["host"].partition(".")
    namespace = rest.split(".")[0] or item["metadata"].get("namespace") or "default"
    return Backend(namespace=namespace, service=name, port=(destination.get("port") or {}).get("number"))


def _url_rewrite(rule: Object) -> str | None:
    for entry in rule.get("filters") or ():
        path = (entry.get("urlRewrite") or {}).get("path") or {}
        if path.get("type") == "ReplacePrefixMatch":
            return str(path.get("replacePrefixMatch") or "/")
    return None
