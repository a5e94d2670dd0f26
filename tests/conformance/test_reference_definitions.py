"""CustomResourceDefinitions that the product meets in clusters; skipped where their files are missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.conformance.client import Api, install_definition, refused, succeeded
from tests.conformance.objects import Object

FOLDER = Path(__file__).parents[3] / "shared" / "reference" / "crds"
FILES = sorted(FOLDER.glob("*.yaml"))
LGP = "lgps.apps.langchain.ai.yaml"


def load_crds(file: Path) -> list[Object]:
    return [crd for crd in yaml.safe_load_all(file.read_text()) if crd]


pytestmark = pytest.mark.skipif(not FILES, reason="the reference definitions are not beside the checkout")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_definitions_are_accepted(api: Api, file: Path) -> None:
    for crd in load_crds(file):
        response = api.send("POST", "customresourcedefinitions", body=crd, dryRun="All")
        assert response.status_code in (201, 409), response.text


def test_an_lgp_is_applied_twice_and_written_once(api: Api) -> None:
    (crd,) = load_crds(FOLDER / LGP)
    for version in crd["spec"]["versions"]:
        assert version["name"] == "v1alpha1"
    path = f"/apis/apps.langchain.ai/v1alpha1/namespaces/{api.namespace}/lgps/web"
    install_definition(api, crd)
    body: Object = {
        "apiVersion": "apps.langchain.ai/v1alpha1",
        "kind": "LGP",
        "metadata": {"name": "web"},
        "spec": {
            "serverSpec": {
                "image": "sandbox.local/hello:1",
                "replicas": 1,
                "env": [{"name": "A", "value": "1"}],
                "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}},
            },
            "database": {"enabled": True, "storageSizeGi": 1},
        },
    }
    headers = {"Content-Type": "application/apply-patch+yaml"}
    params = {"fieldManager": "tester"}
    first = succeeded(api.http.patch(path, json=body, headers=headers, params=params))
    again = succeeded(api.http.patch(path, json=body, headers=headers, params=params))
    assert first == again
    assert first["spec"]["serverSpec"]["image"] == "sandbox.local/hello:1"
    assert first["spec"]["serverSpec"]["queueEnabled"] is True
    assert first["spec"]["database"]["maxConnections"] == 100


GATEWAY_API = "/apis/gateway.networking.k8s.io/v1"
BACKEND: Object = {"name": "web", "port": 80}


def installed(api: Api, plural: str) -> str:
    """Return the path of a Gateway API resource in the test's namespace."""
    for crd in load_crds(FOLDER / f"{plural}.gateway.networking.k8s.io.yaml"):
        install_definition(api, crd)
    return f"{GATEWAY_API}/namespaces/{api.namespace}/{plural}"


def route(**spec: object) -> Object:
    spec = {"parentRefs": [{"name": "shared"}], "rules": [{"backendRefs": [BACKEND]}], **spec}
    kind = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "web"}}
    return {**kind, "spec": spec}


def gateway(*listeners: Object) -> Object:
    kind = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "shared"}}
    return {**kind, "spec": {"gatewayClassName": "any", "listeners": list(listeners)}}


def listener(name: str, port: int, protocol: str = "HTTP", **rest: object) -> Object:
    return {"name": name, "port": port, "protocol": protocol, **rest}


def test_routes_that_keep_the_rules(api: Api) -> None:
    succeeded(api.http.post(installed(api, "httproutes"), json=route()))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            route(parentRefs=[{"name": "shared"}, {"name": "shared"}]),
            "sectionName must be unique when parentRefs includes 2 or more references to the same parent",
        ),
        (
            route(rules=[{"filters": [{"type": "RequestRedirect"}]}]),
            "filter.requestRedirect must be specified for RequestRedirect filter.type",
        ),
        (
            route(rules=[{"backendRefs": [{"name": "web"}]}]),
            "Must have port for Service reference",
        ),
        (
            route(rules=[{"matches": [{"path": {"type": "PathPrefix", "value": "no-slash"}}]}]),
            "value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']",
        ),
    ],
    ids=["parents", "filter", "port", "path"],
)
def test_routes_that_break_a_rule(api: Api, body: Object, words: str) -> None:
    assert words in refused(api.http.post(installed(api, "httproutes"), json=body), 422, "Invalid")["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (gateway(listener("a", 80), listener("a", 81)), """spec.listeners[1]: Duplicate value: {"name":"a"}"""),
        (gateway(listener("a", 80), listener("b", 80)), "Combination of port, protocol and hostname must be unique"),
        (gateway(listener("a", 80, tls={"mode": "Passthrough"})), "tls must not be specified for protocols"),
        (gateway(listener("a", 80, "TCP", hostname="a.test")), "hostname must not be specified for protocols"),
    ],
    ids=["names", "ports", "tls", "hostname"],
)
def test_gateways_that_break_a_rule(api: Api, body: Object, words: str) -> None:
    path = installed(api, "gateways")
    succeeded(api.http.post(path, json=gateway(listener("a", 80), listener("b", 81)), params={"dryRun": "All"}))
    assert words in refused(api.http.post(path, json=body), 422, "Invalid")["message"]
