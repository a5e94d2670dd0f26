"""The shared Ingress has two owners: Helm creates it, and the operator keeps its paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from engine.ports import Manifest
from tests.chart.rendering import NEEDED, RELEASE, Values, at, chart, layered
from tests.support.api_servers import ApiServer
from tests.support.operator_stack import install_crd

THERE = at("operator.createCRDs", False)
HOST = "agents.example.com"


def rules(name: str) -> list[Manifest]:
    backend = {"service": {"name": name, "port": {"number": 8000}}}
    return [{"host": HOST, "http": {"paths": [{"path": f"/lgp/{name}", "pathType": "Prefix", "backend": backend}]}}]


def lead(http: httpx.Client, ingress: str, name: str) -> None:
    """Add the path of a new Agent Server as the operator does."""
    headers = {"Content-Type": "application/merge-patch+json", "User-Agent": "agentplane"}
    http.patch(ingress, json={"spec": {"rules": rules(name)}}, headers=headers).raise_for_status()


def owners(ingress: Manifest) -> set[str]:
    """Return the field managers of the rules of an Ingress."""
    entries = ingress["metadata"]["managedFields"]
    return {entry["manager"] for entry in entries if "f:rules" in entry["fieldsV1"].get("f:spec", {})}


@pytest.mark.parametrize("values", [{}, at("ingress.ingressClassName", "nginx")], ids=["least", "class"])
def test_helm_leaves_the_paths_to_the_operator(
    server: ApiServer, namespaces: Callable[[], str], releases: Callable[[str], Any], values: Values
) -> None:
    """A path that the operator adds or removes during an upgrade or rollback causes no conflict and is not lost."""
    install_crd(server)
    namespace = namespaces()
    config, given = releases(namespace), layered(NEEDED, THERE, values)
    ingress = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/{RELEASE}-ingress"
    config.install(chart(), RELEASE, given)
    config.upgrade(chart(), RELEASE, given)
    with server.http() as http:
        assert http.get(ingress).json()["spec"]["rules"] == [{"host": HOST}]

        lead(http, ingress, "first")
        config.upgrade(chart(), RELEASE, layered(given, at("ingress.tlsEnabled", False)))
        after = http.get(ingress).json()
        assert (after["spec"]["rules"], owners(after)) == (rules("first"), {"agentplane"})

        config.upgrade(chart(), RELEASE, given)
        lead(http, ingress, "second")
        config.rollback(RELEASE, version=3)
        after = http.get(ingress).json()
        assert (after["spec"]["rules"], owners(after)) == (rules("second"), {"agentplane"})
