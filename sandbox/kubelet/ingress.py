"""The ingress: an HTTP/1.1 reverse proxy in front of the pods of this node.

    request ─▶ route (host, path) ─▶ Service ─▶ a ready pod that is not terminating ─▶ its local port

A Service of type ExternalName forwards to the Service that it names. The access log has a line for every request, as
that of an ingress controller: the request, its status, its route and its pod.

The proxy does not buffer responses, so server-sent events pass as the pod sends them. A rollout loses no request. The
proxy never chooses a terminating pod. If it cannot connect to a pod, it tries the next one; nothing was sent, so this
is safe for every method. If no pod is ready, the request waits for at most PATIENCE seconds.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from sandbox.kubelet.informer import Informer
from sandbox.kubelet.pod import local_port
from sandbox.kubelet.routes import (
    SOURCES,
    Backend,
    Route,
    RouteTable,
    container_port,
    external_backend,
    serves,
    target_port,
)
from sandbox.ports import LOOPBACK

log = logging.getLogger(__name__)
access = logging.getLogger("sandbox.kubelet.access")

# Seconds that a request waits for a ready pod.
PATIENCE = 2.0
RETRY_SECONDS = 0.05
# Longest chain of Services of type ExternalName.
MAX_EXTERNAL_NAMES = 3
# Bytes of a body that the proxy keeps in memory, so that it can send the request again.
MAX_KEPT_BODY = 1024 * 1024
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
# `expect` is among them, because this proxy reads the body and answers that header itself.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """A ready pod, and the local port to send requests to."""

    uid: str
    name: str
    port: int


class Ingress:
    """The reverse proxy; `app` is its ASGI application."""

    def __init__(self, routes: dict[str, Informer], services: Informer, pods: Informer) -> None:
        """`routes` maps the collection paths of `routes.SOURCES` to informers."""
        self._sources, self._services, self._pods = routes, services, pods
        self._table: RouteTable | None = None
        self._in_flight: Counter[str] = Counter()
        for informer in routes.values():
            informer.listen(lambda before, after: self._forget_table())
        # One connection per request: a server may close an idle connection just as the next request uses it.
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=2),
            limits=httpx.Limits(max_keepalive_connections=0),
            verify=False,  # plain HTTP on loopback; saves loading the certificate store
            trust_env=False,
        )
        self.app = Starlette()
        self.app.router.add_route("/{path:path}", self._serve, methods=METHODS, include_in_schema=False)

    def in_flight(self, uid: str) -> int:
        """Return how many requests the pod with this uid is answering now."""
        return self._in_flight[uid]

    async def close(self) -> None:
        await self._http.aclose()

    async def _serve(self, request: Request) -> Response:
        host, path = request.headers.get("host", ""), request.scope["path"]
        route = self._find(host, path)
        response = await self._answer(request, route, host, path)
        _record(request, route, response.status_code)
        return response

    async def _answer(self, request: Request, route: Route | None, host: str, path: str) -> Response:
        if route is None:
            return _refuse(404, f"no Ingress, HTTPRoute or VirtualService serves host {host!r} with path {path!r}")
        try:
            return await self._forward(request, route)
        except ClientDisconnect:
            return _refuse(499, "the client closed the connection")

    async def _forward(self, request: Request, route: Route) -> Response:
        body = await _body(request)
        tried: set[str] = set()
        problem = ""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while True:
            upstream, why = self._choose(route, tried)
            if upstream is None:
                if asyncio.get_running_loop().time() >= deadline:
                    return _refuse(503, f"{route.source}: {problem or why}")
                # Try pods again that could not be reached: they may be reachable now.
                tried.clear()
                await asyncio.sleep(RETRY_SECONDS)
                continue
            tried.add(upstream.uid)
            try:
                return await self._send(request, route, upstream, body)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                problem = f"pod {upstream.name} cannot be reached on port {upstream.port}: {error}"
            except httpx.TransportError as error:
                problem = f"pod {upstream.name} closed the connection: {error or type(error).__name__}"
                if request.method not in IDEMPOTENT or not isinstance(body, bytes):
                    return _refuse(502, f"{route.source}: {problem}")
                if asyncio.get_running_loop().time() >= deadline:
                    return _refuse(502, f"{route.source}: {problem}")

    async def _send(
        self, request: Request, route: Route, upstream: Upstream, body: bytes | AsyncIterator[bytes]
    ) -> Response:
        url = httpx.URL(
            scheme="http",
            host=LOOPBACK,
            port=upstream.port,
            raw_path=_raw_path(request, route),
        )
        outgoing = self._http.build_request(request.method, url, headers=_request_headers(request), content=body)
        self._in_flight[upstream.uid] += 1
        request.state.pod = upstream.name
        try:
            answer = await self._http.send(outgoing, stream=True)
        except BaseException:
            self._done(upstream)
            raise
        response = StreamingResponse(self._relay(answer, upstream), status_code=answer.status_code)
        response.raw_headers = [
            (key.lower(), value) for key, value in answer.headers.raw if key.decode().lower() not in HOP_BY_HOP
        ]
        return response

    async def _relay(self, answer: httpx.Response, upstream: Upstream) -> AsyncIterator[bytes]:
        try:
            async for block in answer.aiter_raw():
                yield block
        finally:
            self._done(upstream)
            await answer.aclose()

    def _done(self, upstream: Upstream) -> None:
        self._in_flight[upstream.uid] -= 1
        if self._in_flight[upstream.uid] <= 0:
            del self._in_flight[upstream.uid]

    def _find(self, host: str, path: str) -> Route | None:
        if self._table is None:
            self._table = RouteTable(
                route
                for source, (read, _) in SOURCES.items()
                for item in self._sources[source]
                for route in _safe(read, item)
            )
        return self._table.find(host, path)

    def _forget_table(self) -> None:
        self._table = None

    def _choose(self, route: Route, tried: set[str]) -> tuple[Upstream | None, str]:
        """Return a pod that is not in `tried`, or None and the reason."""
        live = [(backend, weight) for backend, weight in zip(route.backends, route.weights, strict=True) if weight > 0]
        if not live:
            return None, "the route has no usable backend"
        why = ""
        # A random order by weight, each backend once: the later ones are used if the first has no pod.
        for backend, _ in sorted(live, key=lambda pair: random.random() ** (1 / pair[1]), reverse=True):
            found, why = self._upstreams(backend)
            if candidates := [one for one in found if one.uid not in tried]:
                least = min(self._in_flight[one.uid] for one in candidates)
                return random.choice([one for one in candidates if self._in_flight[one.uid] == least]), ""
        return None, why

    def _upstreams(self, backend: Backend, hops: int = 0) -> tuple[list[Upstream], str]:
        where = f"service {backend.namespace}/{backend.service}"
        service = self._services.get(backend.namespace, backend.service)
        if service is None:
            return [], f"{where} does not exist"
        if service["spec"].get("type") == "ExternalName":
            name = service["spec"].get("externalName")
            named = external_backend(service, backend.port)
            if named is None:
                return [], f"{where} has externalName {name}, which is not a Service of this cluster"
            if hops == MAX_EXTERNAL_NAMES:
                return [], f"{where} is at the end of a chain of more than {MAX_EXTERNAL_NAMES} ExternalName Services"
            return self._upstreams(named, hops + 1)
        target = target_port(service, backend.port)
        if target is None:
            return [], f"{where} has no port {backend.port!r}"
        found = []
        ready = [pod for pod in self._pods if serves(pod, service)]
        for pod in ready:
            number = container_port(pod, target)
            port = local_port(pod, number) if number is not None else None
            if port is not None:
                found.append(Upstream(uid=pod["metadata"]["uid"], name=pod["metadata"]["name"], port=port))
        if ready and not found:
            return [], f"{where}: no ready pod listens on port {target!r}"
        return found, f"{where} has no ready pod"


def _record(request: Request, route: Route | None, status: int) -> None:
    """Write a line to the access log. It omits the query of the request, which may hold secrets."""
    path = (request.scope.get("raw_path") or request.scope["path"].encode()).decode("latin-1")
    url = f"{request.url.scheme}://{request.headers.get('host', '')}{path}"
    through = "no route" if route is None else f"{route.source}, pod {getattr(request.state, 'pod', 'none')}"
    access.info("%s %s: %s, %s", request.method, url, status, through)


def _safe(read: Any, item: dict[str, Any]) -> list[Route]:
    try:
        return list(read(item))
    except (KeyError, TypeError, ValueError) as error:
        log.warning("%s cannot be used as a route: %r", item["metadata"].get("name"), error)
        return []


async def _body(request: Request) -> bytes | AsyncIterator[bytes]:
    length = request.headers.get("content-length", "")
    if "transfer-encoding" not in request.headers and (not length or int(length) <= MAX_KEPT_BODY):
        return await request.body()
    return request.stream()


def _raw_path(request: Request, route: Route) -> bytes:
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    if route.rewrite is not None:
        raw = route.rewritten(raw.decode("latin-1")).encode("latin-1")
    query: bytes = request.scope["query_string"]
    return raw + b"?" + query if query else raw


def _request_headers(request: Request) -> list[tuple[str, str]]:
    kept = [(key, value) for key, value in request.headers.items() if key not in HOP_BY_HOP]
    client = request.client.host if request.client else LOOPBACK
    forwarded = {"x-forwarded-for": client, "x-forwarded-proto": request.url.scheme,
                 "x-forwarded-host": request.headers.get("host", "")}  # fmt: skip
    return [(key, value) for key, value in kept if key not in forwarded] + list(forwarded.items())


def _refuse(code: int, why: str) -> Response:
    return PlainTextResponse(f"sandbox ingress: {why}\n", status_code=code)
