"""Each kind of exposure, with the whole stack: a deployment is DEPLOYED because the health check passed by that route.

One control plane, API server, node and Redis serve four data planes, one after the other, each with a listener and
namespaces of its own. In each, one deployment is reached by the endpoint that was published, and the proxy's own access
record, read before any client asks, shows the health check and the route that it took. Another deployment's route is
broken before the data plane starts: its pods are just as ready, and its revision fails.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.log.redis import RedisLog
from engine.names import LGP_NAMESPACE_LABEL, SHARED_INGRESS_ANNOTATION, deployment_stream, lgp_name
from sandbox.demo.world import image
from sandbox.ports import LOOPBACK
from sandbox.stack import IMAGES, Cluster, Ports, Stack, kubernetes_client
from tests.support.certificates import self_signed

pytestmark = pytest.mark.timeout(240)

Manifest = dict[str, Any]

STUB = Path(__file__).resolve().parents[1] / "installation" / "images" / "stub"
"""An image that answers /ok and no more, and starts at once."""
HEALTH_SECONDS = 4.0
PATIENCE = 90.0
HOST = "agents.example.test"
"""A hostname that leads nowhere: health check and client connect to the proxy themselves, and name it."""

COLLECTIONS = {
    "Ingress": "/apis/networking.k8s.io/v1/namespaces/{ns}/ingresses",
    "HTTPRoute": "/apis/gateway.networking.k8s.io/v1/namespaces/{ns}/httproutes",
    "VirtualService": "/apis/networking.istio.io/v1/namespaces/{ns}/virtualservices",
}


@dataclass(frozen=True)
class Deployment:
    """A deployment as the control plane knows it."""

    id: str
    revision: str
    namespace: str
    lgp: str


@dataclass
class Site:
    """The control plane, API server, node and Redis that the data planes share."""

    stack: Stack
    control_plane: httpx.Client
    kubernetes: httpx.Client
    authority: Path
    """PEM file of the certificate of the proxy's TLS port."""

    def put(self, collection: str, manifest: Manifest) -> None:
        answer = self.kubernetes.post(collection.format(ns=manifest["metadata"].get("namespace", "")), json=manifest)
        assert answer.is_success, answer.text

    def recorded(self, url: str) -> list[str]:
        """Return the proxy's access record of a URL: status, route and pod of each request."""
        prefix = f" GET {url}: "
        lines = self.stack.log("kubelet").read_text().splitlines()
        return [line.partition(prefix)[2] for line in lines if prefix in line]


@dataclass
class DataPlane:
    """A data plane with a listener of its own."""

    site: Site
    name: str
    namespaces: tuple[str, ...]
    settings: dict[str, str]
    listener: str = ""
    engine: Stack | None = None
    made: list[Deployment] = field(default_factory=list)

    def __post_init__(self) -> None:
        for namespace in self.namespaces:
            self.site.put("/api/v1/namespaces", {"metadata": {"name": namespace}})
        form = {"compute_type": "k8s", "compute_id": self.name, "compute_config": {"k8s_namespaces": self.namespaces}}
        self.listener = self.site.control_plane.post("/v2/listeners", json=form).raise_for_status().json()["id"]

    def deploy(self, name: str, app: str, namespace: str) -> Deployment:
        full = f"{name}-{self.name}"
        form = {
            "name": full,
            "source": "external_docker",
            "source_config": {"listener_id": self.listener, "listener_config": {"k8s_namespace": namespace}},
            "source_revision_config": {"image_uri": image(app, 1)},
            "secrets": [],
        }
        made = self.site.control_plane.post("/v2/deployments", json=form).raise_for_status().json()
        lgp = lgp_name(full, made["id"])
        return Deployment(made["id"], made["latest_revision_id"], namespace, lgp)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        settings = {
            "PREFIX": self.name,
            "LISTENER_ID": self.listener,
            "WATCH_NAMESPACES": ",".join(self.namespaces),
            "HEALTH_CHECK_DEADLINE_SECONDS": str(HEALTH_SECONDS),
            **self.settings,
        }
        engine = replace(self.site.stack, overrides=settings, infrastructure=[], engine={}, _stopping=threading.Event())
        try:
            engine.start_engine()
            yield
        finally:
            engine.stop_engine()

    def wait(self, deployment: Deployment, *final: str) -> str:
        """Wait for the end of a deployment's revision; return its status."""
        path = f"/v2/deployments/{deployment.id}/revisions/{deployment.revision}"
        deadline = time.monotonic() + PATIENCE
        while True:
            status: str = self.site.control_plane.get(path).raise_for_status().json()["status"]
            if status in ("DEPLOYED", "DEPLOY_FAILED"):
                return status
            assert time.monotonic() < deadline, f"{deployment} is still {status}: {self.reported(deployment)}"
            time.sleep(0.1)

    def reported(self, deployment: Deployment) -> list[tuple[str, str]]:
        """Return type and message of the deployment's events."""
        log = RedisLog.from_url(self.site.stack.redis_url, self.name)
        found = [(record.type, record.data.get("message", "")) for record in log.read(deployment_stream(deployment.id))]
        log.close()
        return found

    def published(self, deployment: Deployment) -> str:
        """Return the endpoint that the control plane shows."""
        resource = self.site.control_plane.get(f"/v2/deployments/{deployment.id}").raise_for_status().json()
        url: str = resource["source_config"]["custom_url"]
        return url


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("routes")
    images = folder / "images"
    images.mkdir()
    for app in (IMAGES / "hello", STUB):
        (images / app.name).symlink_to(app)
    _, authority = self_signed(folder, "localhost")
    certificate = folder / "both.pem"
    certificate.touch(mode=0o600)
    certificate.write_bytes((folder / "server.key").read_bytes() + authority.read_bytes())
    stack = Stack(
        cluster=Cluster.EMBEDDED,
        directory=folder / "stack",
        ports=Ports.reserve(),
        namespace="unused",
        images=images,
        certificate=certificate,
        without=frozenset({"flower"}),
    )
    try:
        stack.start_infrastructure()
        with (
            httpx.Client(
                base_url=stack.control_plane_url, headers={"X-Api-Key": stack.api_key}, timeout=30
            ) as control_plane,
            kubernetes_client(stack.kubeconfig) as kubernetes,
        ):
            yield Site(stack, control_plane, kubernetes, authority)
    finally:
        stack.stop()
        stack.ports.give_back()


def definition(kind: str, plural: str, group: str) -> Manifest:
    """Return a definition with the fields that the proxy reads. (tests/integration uses the real definitions.)"""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    approved = {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/2466"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}", "annotations": approved},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [version],
        },
    }


def serve(site: Site, kind: str, plural: str, group: str) -> None:
    """Make the API server serve a kind of route."""
    site.put("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition(kind, plural, group))
    deadline = time.monotonic() + PATIENCE
    while not site.kubernetes.get(f"/apis/{group}/v1/{plural}").is_success:
        assert time.monotonic() < deadline, f"{kind} is not served"
        time.sleep(0.05)


def shared_ingress(namespace: str, host: str) -> Manifest:
    metadata = {"name": "shared", "namespace": namespace, "annotations": {SHARED_INGRESS_ANNOTATION: "true"}}
    return {"metadata": metadata, "spec": {"rules": [{"host": host}]}}


def stolen_ingress(host: str, path: str) -> Manifest:
    backend = {"service": {"name": "stolen", "port": {"number": 80}}}
    return {"rules": [{"host": host, "http": {"paths": [{"path": path, "pathType": "Exact", "backend": backend}]}}]}


def stolen_http_route(host: str, path: str) -> Manifest:
    match = {"path": {"type": "Exact", "value": path}}
    return {"hostnames": [host], "rules": [{"matches": [match], "backendRefs": [{"name": "stolen", "port": 80}]}]}


def stolen_virtual_service(host: str, path: str) -> Manifest:
    destination = {"host": "stolen", "port": {"number": 80}}
    return {"hosts": [host], "http": [{"match": [{"uri": {"exact": path}}], "route": [{"destination": destination}]}]}


STOLEN = {"Ingress": stolen_ingress, "HTTPRoute": stolen_http_route, "VirtualService": stolen_virtual_service}


def break_route(site: Site, kind: str, deployment: Deployment, host: str, base_path: str = "") -> None:
    """Give the path of the health check to another owner's route of the same kind, whose backend does not exist."""
    spec = STOLEN[kind](host, f"{base_path}/lgp/{deployment.lgp}/ok")
    metadata = {"name": "thief", "namespace": deployment.namespace}
    api_version = COLLECTIONS[kind].removeprefix("/apis/").partition("/namespaces")[0]
    site.put(COLLECTIONS[kind], {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec})


def assert_it_went_through(plane: DataPlane, deployment: Deployment, url: str, route: str) -> None:
    """The revision is DEPLOYED, and the proxy let a health check through by `route` to a pod of the deployment."""
    assert plane.wait(deployment) == "DEPLOYED", plane.reported(deployment)
    asked = plane.site.recorded(f"{url}/ok")
    assert asked, "no health check went through the proxy"
    assert asked[-1].startswith(f"200, {route}, pod {deployment.lgp}-"), asked
    assert plane.published(deployment) == url


def assert_it_failed(plane: DataPlane, deployment: Deployment, url: str, route: str) -> None:
    """The revision failed for want of a route although its pods are ready, and the message says so."""
    assert plane.wait(deployment) == "DEPLOY_FAILED"
    (message,) = [message for kind, message in plane.reported(deployment) if kind == "RevisionFailed"]
    assert f"GET {url}/ok did not answer 200 within {HEALTH_SECONDS:g} s" in message
    assert "503" in message
    assert "stolen does not exist" in message
    assert "The pods are ready, so check the route: hostname, path, TLS" in message
    asked = plane.site.recorded(f"{url}/ok")
    assert len(asked) > 1
    assert set(asked) == {f"503, {route}, pod none"}


Ask = Callable[..., httpx.Response]


def assert_a_client_reaches(plane: DataPlane, deployment: Deployment, ask: Ask) -> None:
    """The Agent Server of that revision answers under the endpoint that was published, and runs its graph."""
    url = plane.published(deployment)
    assert ask("GET", f"{url}/info").raise_for_status().json()["host"]["revision_id"] == deployment.revision
    body = {"assistant_id": "agent", "input": {"name": "Ada"}}
    answer = ask("POST", f"{url}/runs/wait", json=body, headers={"X-Api-Key": plane.site.stack.api_key})
    assert answer.raise_for_status().json()["answer"] == "hello, Ada"


def by_name(site: Site, method: str, url: str, **options: Any) -> httpx.Response:
    """Send a request as a client that resolves the hostname to the proxy."""
    asked = httpx.URL(url)
    headers = {**options.pop("headers", {}), "Host": asked.host}
    there = asked.copy_with(host=LOOPBACK, port=site.stack.ports.ingress)
    return httpx.request(method, there, headers=headers, timeout=30, **options)


def test_an_ingress_over_tls_with_a_base_path_beside_the_operators_metrics(site: Site) -> None:
    chart = pytest.importorskip("tests.chart.rendering", reason="needs Helm, which renders the chart's Ingresses")
    host = f"localhost:{site.stack.ports.ingress_tls}"
    ingress = {"hostname": host, "basePath": "/team", "metricsPrefix": "data-plane"}
    plane = DataPlane(
        site,
        "plain",
        ("plain",),
        {
            "INGRESS_HOSTNAME": host,
            "INGRESS_BASE_PATH": "/team",
            "INGRESS_TLS_ENABLED": "true",
            "HEALTH_CHECK_CA_FILE": str(site.authority),
        },
    )
    for manifest in chart.objects(chart.NEEDED, {"ingress": ingress}, namespace="plain"):
        if manifest["kind"] == "Ingress":
            site.put(COLLECTIONS["Ingress"], manifest)
    hello, broken = plane.deploy("hello", "hello", "plain"), plane.deploy("broken", "stub", "plain")
    break_route(site, "Ingress", broken, "localhost", "/team")

    with plane.at_work():
        shared = f"Ingress plain/{chart.RELEASE}-ingress"
        assert_it_went_through(plane, hello, f"https://{host}/team/lgp/{hello.lgp}", shared)
        trusting = ssl.create_default_context(cafile=str(site.authority))
        with httpx.Client(verify=trusting, timeout=30) as client:
            assert_a_client_reaches(plane, hello, client.request)
            metrics = client.get(f"https://{host}/data-plane/metrics")
        assert f"service plain/{chart.RELEASE}-operator does not exist" in metrics.text, (
            "no pod serves the operator's metrics in this test"
        )
        assert_it_failed(plane, broken, f"https://{host}/team/lgp/{broken.lgp}", "Ingress plain/thief")


def test_an_ingress_in_another_namespace(site: Site) -> None:
    host = site.stack.hostname
    plane = DataPlane(site, "inner", ("inner",), {"INGRESS_NAMESPACE": "edge"})
    site.put("/api/v1/namespaces", {"metadata": {"name": "edge"}})
    site.put(COLLECTIONS["Ingress"], shared_ingress("edge", "localhost"))
    hello, broken = plane.deploy("hello", "hello", "inner"), plane.deploy("broken", "stub", "inner")
    break_route(site, "Ingress", broken, "localhost")

    with plane.at_work():
        assert_it_went_through(plane, hello, f"http://{host}/lgp/{hello.lgp}", "Ingress edge/shared")
        assert_a_client_reaches(plane, hello, partial(httpx.request, timeout=30))
        assert_it_failed(plane, broken, f"http://{host}/lgp/{broken.lgp}", "Ingress inner/thief")

    services = site.kubernetes.get("/api/v1/namespaces/edge/services", params={"labelSelector": LGP_NAMESPACE_LABEL})
    leads = {service["spec"]["externalName"] for service in services.json()["items"]}
    assert leads == {f"{deployment.lgp}.inner.svc.cluster.local" for deployment in (hello, broken)}


def test_a_gateway_for_two_namespaces(site: Site) -> None:
    serve(site, "HTTPRoute", "httproutes", "gateway.networking.k8s.io")
    plane = DataPlane(
        site,
        "gateway",
        ("blue", "green"),
        {
            "INGRESS_ENABLED": "false",
            "GATEWAY_ENABLED": "true",
            "GATEWAY_NAME": "front",
            "GATEWAY_NAMESPACE": "gateways",
            "GATEWAY_HOSTNAME": HOST,
            "GATEWAY_TLS_ENABLED": "false",
            "HEALTH_CHECK_ADDRESS": f"{LOOPBACK}:{site.stack.ports.ingress}",
        },
    )
    blue, green = plane.deploy("hello", "hello", "blue"), plane.deploy("second", "stub", "green")
    broken = plane.deploy("broken", "stub", "green")
    break_route(site, "HTTPRoute", broken, HOST)

    with plane.at_work():
        for one in (blue, green):
            assert_it_went_through(plane, one, f"http://{HOST}/lgp/{one.lgp}", f"HTTPRoute {one.namespace}/{one.lgp}")
        assert_a_client_reaches(plane, blue, partial(by_name, site))
        assert httpx.get(f"http://{site.stack.hostname}/lgp/{blue.lgp}/ok").status_code != 200, "under no other name"
        assert_it_failed(plane, broken, f"http://{HOST}/lgp/{broken.lgp}", "HTTPRoute green/thief")


def test_istio(site: Site) -> None:
    serve(site, "VirtualService", "virtualservices", "networking.istio.io")
    host = site.stack.hostname
    plane = DataPlane(
        site,
        "mesh",
        ("mesh",),
        {
            "INGRESS_ENABLED": "false",
            "ISTIO_GATEWAY_ENABLED": "true",
            "ISTIO_GATEWAY_NAME": "front",
            "ISTIO_GATEWAY_NAMESPACE": "gateways",
            "ISTIO_GATEWAY_HOSTNAME": host,
            "ISTIO_GATEWAY_BASE_PATH": "agents",
            "ISTIO_GATEWAY_TLS_ENABLED": "false",
        },
    )
    hello, broken = plane.deploy("hello", "hello", "mesh"), plane.deploy("broken", "stub", "mesh")
    break_route(site, "VirtualService", broken, "localhost", "/agents")

    with plane.at_work():
        url = f"http://{host}/agents/lgp/{hello.lgp}"
        assert_it_went_through(plane, hello, url, f"VirtualService mesh/{hello.lgp}")
        assert_a_client_reaches(plane, hello, partial(httpx.request, timeout=30))
        assert_it_failed(plane, broken, f"http://{host}/agents/lgp/{broken.lgp}", "VirtualService mesh/thief")
