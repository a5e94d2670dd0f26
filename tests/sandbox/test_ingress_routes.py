"""Which route serves a request, and the container port of a Service's port. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.kubelet.routes import (
    Backend,
    RouteTable,
    container_port,
    external_backend,
    http_routes,
    ingress_routes,
    serves,
    target_port,
    virtual_service_routes,
)


def ingress(*rules: tuple[str | None, str, str, str]) -> dict[str, Any]:
    """An Ingress from (host, path, path type, service)."""
    return {
        "kind": "Ingress",
        "metadata": {"namespace": "agents", "name": "shared"},
        "spec": {
            "rules": [
                {
                    **({"host": host} if host else {}),
                    "http": {
                        "paths": [
                            {
                                "path": path,
                                "pathType": kind,
                                "backend": {"service": {"name": service, "port": {"number": 8000}}},
                            }
                        ]
                    },
                }
                for host, path, kind, service in rules
            ]
        },
    }


def served_by(table: RouteTable, host: str, path: str) -> str | None:
    route = table.find(host, path)
    return route.backends[0].service if route else None


TABLE = RouteTable(
    ingress_routes(
        ingress(
            ("localhost", "/lgp/hello", "Prefix", "hello"),
            ("localhost", "/lgp/hello/deep", "Prefix", "deep"),
            ("localhost", "/lgp/hello/ok", "Exact", "exact"),
            ("localhost", "/lgp/other/", "ImplementationSpecific", "other"),
            ("*.example.com", "/", "Prefix", "wildcard"),
            ("a.example.com", "/", "Prefix", "host"),
            (None, "/any", "Prefix", "any"),
        )
    )
)


@pytest.mark.parametrize(
    ("host", "path", "service"),
    [
        ("localhost:8080", "/lgp/hello", "hello"),
        ("localhost", "/lgp/hello/", "hello"),
        ("LOCALHOST", "/lgp/hello/info", "hello"),
        ("localhost", "/lgp/hellothere", None),
        ("localhost", "/lgp/hello/deep/down", "deep"),
        ("localhost", "/lgp/hello/ok", "exact"),
        ("localhost", "/lgp/hello/ok/x", "hello"),
        ("localhost", "/lgp/other/x", "other"),
        ("b.example.com", "/x", "wildcard"),
        ("example.com", "/x", None),
        ("a.example.com:80", "/x", "host"),
        ("elsewhere", "/any/thing", "any"),
        ("[::1]:80", "/any", "any"),
        ("localhost", "/", None),
    ],
)
def test_the_most_specific_route_wins(host: str, path: str, service: str | None) -> None:
    assert served_by(TABLE, host, path) == service


def test_the_default_backend_takes_the_rest() -> None:
    item = ingress(("localhost", "/a", "Prefix", "a"))
    item["spec"]["defaultBackend"] = {"service": {"name": "rest", "port": {"name": "http"}}}
    table = RouteTable(ingress_routes(item))
    assert served_by(table, "localhost", "/a/b") == "a"
    assert served_by(table, "anything", "/") == "rest"
    route = table.find("anything", "/")
    assert route is not None
    assert route.backends == (Backend(namespace="agents", service="rest", port="http"),)


def test_an_http_route_with_rewrite_and_weights() -> None:
    item = {
        "kind": "HTTPRoute",
        "metadata": {"namespace": "agents", "name": "hello"},
        "spec": {
            "hostnames": ["localhost"],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/lgp/hello"}}],
                    "filters": [
                        {
                            "type": "URLRewrite",
                            "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}},
                        }
                    ],
                    "backendRefs": [
                        {"name": "old", "port": 8000, "weight": 9},
                        {"name": "new", "port": 8000, "weight": 1},
                        {"name": "foreign", "namespace": "other", "port": 8000},
                    ],
                }
            ],
        },
    }
    route = RouteTable(http_routes(item)).find("localhost:80", "/lgp/hello/runs/wait")
    assert route is not None
    assert [backend.service for backend in route.backends] == ["old", "new"]
    assert route.weights == (9, 1)
    assert route.rewritten("/lgp/hello/runs/wait") == "/runs/wait"
    assert route.rewritten("/lgp/hello") == "/"


def test_a_virtual_service() -> None:
    item = {
        "kind": "VirtualService",
        "metadata": {"namespace": "agents", "name": "hello"},
        "spec": {
            "hosts": ["localhost"],
            "http": [
                {
                    "match": [{"uri": {"prefix": "/lgp/hello"}}],
                    "route": [{"destination": {"host": "hello.other.svc.cluster.local", "port": {"number": 8000}}}],
                }
            ],
        },
    }
    route = RouteTable(virtual_service_routes(item)).find("localhost", "/lgp/hello/ok")
    assert route is not None
    assert route.backends == (Backend(namespace="other", service="hello", port=8000),)
    assert route.rewritten("/lgp/hello/ok") == "/lgp/hello/ok"


def test_a_service_port_leads_to_a_container_port() -> None:
    service = {"spec": {"ports": [{"name": "api", "port": 80, "targetPort": "http"}, {"name": "plain", "port": 81}]}}
    pod = {"spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8000}]}]}}
    assert target_port(service, 80) == target_port(service, "api") == "http"
    assert target_port(service, 81) == 81
    assert target_port(service, 82) is target_port(service, None) is None
    assert container_port(pod, "http") == container_port(pod, 8000) == 8000
    assert container_port(pod, "absent") is None


def external(name: str, **spec: Any) -> dict[str, Any]:
    return {"spec": {"type": "ExternalName", "externalName": name, **spec}}


@pytest.mark.parametrize(
    ("service", "port", "meant"),
    [
        (external("hello.agents.svc.cluster.local"), 80, ("agents", "hello", 80)),
        (external("hello.agents.svc"), 80, ("agents", "hello", 80)),
        (external("hello.agents"), 80, ("agents", "hello", 80)),
        (external("hello.agents.svc", ports=[{"port": 80, "targetPort": 8000}]), 80, ("agents", "hello", 8000)),
        (external("hello.agents.svc", ports=[{"port": 80}]), 80, ("agents", "hello", 80)),
        (external("hello.agents.svc", ports=[{"port": 80}]), 81, ("agents", "hello", None)),
        (external("www.example.com"), 80, None),
        (external("localhost"), 80, None),
        ({"spec": {"selector": {"app": "hello"}}}, 80, None),
    ],
)
def test_an_external_name_is_an_alias_of_a_service(
    service: dict[str, Any], port: int, meant: tuple[str, str, int | None] | None
) -> None:
    found = external_backend(service, port)
    assert (None if found is None else (found.namespace, found.service, found.port)) == meant


def test_only_ready_pods_that_stay_serve() -> None:
    service = {"metadata": {"namespace": "agents"}, "spec": {"selector": {"app": "hello"}}}

    def pod(namespace: str = "agents", app: str = "hello", ready: str = "True", **meta: Any) -> dict[str, Any]:
        return {
            "metadata": {"namespace": namespace, "labels": {"app": app, "more": "x"}, **meta},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }

    assert serves(pod(), service)
    assert not serves(pod(namespace="other"), service)
    assert not serves(pod(app="other"), service)
    assert not serves(pod(ready="False"), service)
    assert not serves(pod(deletionTimestamp="2026-01-01T00:00:00Z"), service)
    assert not serves(pod(), {"metadata": {"namespace": "agents"}, "spec": {}})
