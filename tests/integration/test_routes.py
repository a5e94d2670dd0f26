"""Routes on the embedded API server and a real one: many writers of one Ingress, an Ingress elsewhere, missing kinds.

(tests/integration/test_operator.py has the usual life of a path; tests/e2e/test_routes.py what goes through.)
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from engine import names
from engine.operator import shared_ingress as ingresses
from engine.operator.config import Gateway, OperatorConfig, SharedIngress
from engine.operator.context import Context
from engine.operator.state import Life
from engine.ports import Manifest, ObjectKey
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually
from tests.support.operator_stack import Operator, at_work, lgp_manifest, shared_ingress

NAME = "hello-0123456789abcdef0123456789abcdef"
LEAST: dict[str, Any] = {
    "database": {"enabled": False},
    "redis": {"enabled": False},
    "serverSpec": {"queueEnabled": False},
}
LGP = (names.LGP_KIND, names.LGP_API_VERSION)
MERGE = {"Content-Type": "application/merge-patch+json"}


def backends(operator: Operator, namespace: str) -> dict[str, str]:
    """Return the Service of each path on the shared Ingress of a namespace."""
    key = ObjectKey(api_version="networking.k8s.io/v1", kind="Ingress", namespace=namespace, name="shared")
    rules = (operator.watching.get(key) or {})["spec"]["rules"]
    paths = [path for rule in rules for path in (rule.get("http") or {}).get("paths", [])]
    return {path["path"]: path["backend"]["service"]["name"] for path in paths}


# --- several writers of one Ingress


class Conflicts:
    """Counts the writes to Ingresses that the API server refused because another writer had changed the Ingress."""

    def __init__(self, operator: Operator) -> None:
        self.count = 0
        call = operator.cluster._http.call

        def counted(method: str, path: str, *args: Any, **kwargs: Any) -> Any:
            answer = call(method, path, *args, **kwargs)
            self.count += method == "PATCH" and "/ingresses/" in path and answer.status == 409
            return answer

        operator.cluster._http.call = counted  # type: ignore[method-assign]


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the lock between threads, as if each were a process; their first reads of the Ingress coincide."""
    monkeypatch.setattr(ingresses, "TURNS", defaultdict(contextlib.nullcontext))
    read: Callable[[str, Context], Manifest | None] = ingresses._shared_ingress
    both = threading.Barrier(2)

    def read_together(namespace: str, context: Context) -> Manifest | None:
        found = read(namespace, context)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(30)
            both.abort()
        return found

    monkeypatch.setattr(ingresses, "_shared_ingress", read_together)


def test_two_processes_and_a_person_lose_nothing_on_one_ingress(
    two_processes: None, api_server: ApiServer, namespace: str
) -> None:
    one, other = (f"{name}-0123456789abcdef0123456789abcdef" for name in ("one", "other"))
    ingress = shared_ingress(namespace)
    theirs = {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "theirs", "port": {"number": 80}}}}
    ingress["spec"]["rules"][0]["http"] = {"paths": [theirs]}
    with at_work(api_server, namespace, workers=2) as operator:
        conflicts = Conflicts(operator)
        operator.put(ingress)
        for name in (one, other):
            operator.put(lgp_manifest(namespace, name, **LEAST))
        everything = {"/": "theirs", f"/lgp/{one}": one, f"/lgp/{other}": other}
        eventually(lambda: backends(operator, namespace) == everything, "everybody's path is there")
        assert conflicts.count >= 1, "the second writer must have read the Ingress before the first write"

        operator.watching.delete(operator.key(LGP[0], one, LGP[1]))
        eventually(lambda: operator.state(one).life is Life.PRUNED, "one is gone")
        assert backends(operator, namespace) == {"/": "theirs", f"/lgp/{other}": other}


# --- an Ingress elsewhere


@pytest.fixture
def edge(http: httpx.Client) -> str:
    """Return a namespace with a shared Ingress that the data plane does not own."""
    name = f"edge-{secrets.token_hex(5)}"
    http.post("/api/v1/namespaces", json={"metadata": {"name": name}}).raise_for_status()
    ingress = shared_ingress(name)
    http.post(f"/apis/networking.k8s.io/v1/namespaces/{name}/ingresses", json=ingress).raise_for_status()
    return name


def elsewhere(namespace: str) -> OperatorConfig:
    return OperatorConfig(ingress=SharedIngress(hostname="agents.example.com", namespace=namespace))


def services(http: httpx.Client, namespace: str) -> dict[str, str]:
    """Return the external name of each Service."""
    items = http.get(f"/api/v1/namespaces/{namespace}/services").raise_for_status().json()["items"]
    return {item["metadata"]["name"]: item["spec"]["externalName"] for item in items}


def test_an_ingress_elsewhere_leads_to_the_agent_server_until_it_goes(
    api_server: ApiServer, http: httpx.Client, namespace: str, edge: str
) -> None:
    with at_work(api_server, namespace, config=elsewhere(edge)) as operator:
        operator.put(lgp_manifest(namespace, NAME, **LEAST))
        eventually(lambda: operator.available(NAME), "the Agent Server is available")
        operator.quiet(NAME, 1.0)
        (name,) = services(http, edge)
        assert services(http, edge) == {name: f"{NAME}.{namespace}.svc.cluster.local"}
        assert backends(operator, edge) == {f"/lgp/{NAME}": name}
        assert operator.lgp(NAME)["status"]["endpoint"] == f"https://agents.example.com/lgp/{NAME}"
        assert operator.drifts(NAME) == []

        path = f"/api/v1/namespaces/{edge}/services/{name}"
        http.delete(path).raise_for_status()
        eventually(lambda: name in services(http, edge), "the Service is back")
        operator.quiet(NAME, 1.0)
        away = {"spec": {"externalName": "away.example.com"}}
        http.patch(path, json=away, headers=MERGE).raise_for_status()
        eventually(lambda: "away" not in services(http, edge)[name], "the Service leads to the Agent Server again")
        operator.quiet(NAME, 1.0)
        without = {"spec": {"rules": [{"host": "agents.example.com"}]}}
        ingress = f"/apis/networking.k8s.io/v1/namespaces/{edge}/ingresses/shared"
        http.patch(ingress, json=without, headers=MERGE).raise_for_status()
        eventually(lambda: backends(operator, edge) == {f"/lgp/{NAME}": name}, "the path is back")
        operator.quiet(NAME, 1.0)
        assert operator.drifts(NAME) == [("Service", "deleted"), ("Service", "edited"), ("IngressPath", "deleted")]

        operator.watching.delete(operator.key(LGP[0], NAME, LGP[1]))
        eventually(lambda: operator.state(NAME).life is Life.PRUNED, "the LGP is pruned")
        assert services(http, edge) == {}
        assert backends(operator, edge) == {}


def test_an_lgp_deleted_without_a_running_watcher_leaves_nothing_beside_the_ingress(
    api_server: ApiServer, http: httpx.Client, namespace: str, edge: str
) -> None:
    with at_work(api_server, namespace, config=elsewhere(edge)) as first:
        first.put(lgp_manifest(namespace, NAME, **LEAST))
        eventually(lambda: first.available(NAME), "the Agent Server is available")
    http.delete(f"/apis/apps.langchain.ai/v1alpha1/namespaces/{namespace}/lgps/{NAME}").raise_for_status()

    with at_work(api_server, namespace, config=elsewhere(edge), events=first.events) as second:
        eventually(lambda: second.state(NAME).life is Life.PRUNED, "the watcher observes the deletion")
        assert services(http, edge) == {}
        assert backends(second, edge) == {}


def test_two_data_planes_with_lgps_of_the_same_name_share_one_ingress_without_conflict(
    api_server: ApiServer, http: httpx.Client, namespace: str, edge: str
) -> None:
    other = f"{namespace}-other"
    http.post("/api/v1/namespaces", json={"metadata": {"name": other}}).raise_for_status()
    with (
        at_work(api_server, namespace, config=elsewhere(edge)) as first,
        at_work(api_server, other, config=elsewhere(edge)) as second,
    ):
        first.put(lgp_manifest(namespace, NAME, **LEAST))
        eventually(lambda: first.available(NAME), "the first is available")
        before = backends(first, edge)
        second.put(lgp_manifest(other, NAME, **LEAST))
        eventually(lambda: second.condition(NAME, "Degraded").get("status") == "True", "the second is refused the path")
        assert (
            f"leads to the LGP of the same name in namespace {namespace}"
            in (second.condition(NAME, "Degraded")["message"])
        )
        assert backends(first, edge) == before
        assert sorted(services(http, edge).values()) == sorted(
            f"{NAME}.{where}.svc.cluster.local" for where in (namespace, other)
        )

        first.watching.delete(first.key(LGP[0], NAME, LGP[1]))
        eventually(lambda: second.condition(NAME, "Degraded")["status"] == "False", "the second has the path")
        ((name, leads),) = services(http, edge).items()
        assert leads == f"{NAME}.{other}.svc.cluster.local"
        assert backends(second, edge) == {f"/lgp/{NAME}": name}


# --- kinds of route that the cluster does not serve

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GATEWAY = Gateway(enabled=True, name="front", namespace="gateways", hostname="agents.example.com")


class Kind:
    """A kind of route, its definition, and the configuration that asks for it."""

    def __init__(self, kind: str, plural: str, group: str, fix: str, **way: Gateway) -> None:
        self.kind, self.fix = kind, fix
        self.name, self.served = f"{plural}.{group}", f"/apis/{group}/v1/{plural}"
        self.config = OperatorConfig(ingress=SharedIngress(enabled=False), **way)  # type: ignore[arg-type]
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        approved = {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/2466"}
        self.definition = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": self.name, "annotations": approved},
            "spec": {
                "group": group,
                "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
                "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
            },
        }


KINDS = {
    "HTTPRoute": Kind(
        "HTTPRoute", "httproutes", "gateway.networking.k8s.io", "install the Gateway API", gateway=GATEWAY
    ),
    "VirtualService": Kind(
        "VirtualService", "virtualservices", "networking.istio.io", "install Istio", istio_gateway=GATEWAY
    ),
}


@pytest.fixture(params=KINDS)
def missing(request: pytest.FixtureRequest, http: httpx.Client) -> Iterator[Kind]:
    """Return a kind of route that the API server does not serve; delete its definition before and after the test."""
    kind = KINDS[request.param]

    def remove() -> None:
        http.delete(f"{CRDS}/{kind.name}")
        eventually(lambda: http.get(kind.served).status_code == 404, f"{kind.kind} is not served")

    remove()
    yield kind
    remove()


def test_a_missing_kind_of_route_is_reported_and_used_once_it_is_served(
    missing: Kind, api_server: ApiServer, http: httpx.Client, namespace: str
) -> None:
    with at_work(api_server, namespace, config=missing.config) as operator:
        operator.put(lgp_manifest(namespace, NAME, **LEAST))
        eventually(
            lambda: operator.condition(NAME, "Degraded").get("reason") == "KindNotServed",
            "the condition reports the missing kind",
        )
        assert missing.fix in operator.condition(NAME, "Degraded")["message"]
        eventually(lambda: operator.available(NAME), "the rest goes on")
        operator.quiet(NAME, 1.0)
        assert operator.types(NAME).count("ObjectRejected") == 1
        assert operator.state(NAME).last_reason.startswith("KindNotServed: ")

        http.post(CRDS, json=missing.definition).raise_for_status()
        eventually(lambda: operator.condition(NAME, "Degraded").get("status") == "False", "the route is made")
        assert http.get(f"{missing.served}").json()["items"][0]["metadata"]["name"] == NAME
