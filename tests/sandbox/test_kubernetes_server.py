"""The embedded API server as a process: restarts, shutdown, authentication, and forwarded pod logs."""

from __future__ import annotations

import json
import stat
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from sandbox.kubernetes.server import KubernetesServer, known_token

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
REFERENCE = Path(__file__).parents[2] / ".." / "shared" / "reference" / "crds"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    with KubernetesServer(tmp_path_factory.mktemp("kubernetes"), controllers=False) as running:
        yield running


@pytest.fixture
def http(server: KubernetesServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def created(http: httpx.Client, path: str, obj: dict[str, Any]) -> dict[str, Any]:
    response = http.post(path, json=obj)
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.json()
    return body


def pod(name: str, **annotations: str) -> dict[str, Any]:
    metadata = {"name": name, "annotations": annotations}
    return {"metadata": metadata, "spec": {"containers": [{"name": "main", "image": "sandbox.local/x:1"}]}}


# restarts


@pytest.mark.parametrize("kill", [False, True], ids=["terminated", "killed"])
def test_objects_versions_and_token_survive(tmp_path: Path, kill: bool) -> None:
    with KubernetesServer(tmp_path, controllers=False) as server:
        with server.client() as http:
            made = created(http, CONFIG_MAPS, {"metadata": {"name": "a"}, "data": {"k": "v"}})
            created(http, CONFIG_MAPS, {"metadata": {"name": "b"}})
            http.delete(f"{CONFIG_MAPS}/b")
            last = int(http.get(CONFIG_MAPS).json()["metadata"]["resourceVersion"])
        server.restart(kill=kill)
        with server.client() as http:
            assert http.get(f"{CONFIG_MAPS}/a").json() == made
            assert http.get(f"{CONFIG_MAPS}/b").status_code == 404
            next_one = created(http, CONFIG_MAPS, {"metadata": {"name": "c"}})
        assert int(next_one["metadata"]["resourceVersion"]) == last + 1
        assert known_token(server.kubeconfig) == server.token


def test_a_definition_is_served_after_a_restart(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer"}}}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "things", "kind": "Thing"}
    spec = {"group": "example.dev", "scope": "Namespaced", "names": names, "versions": [version]}
    things = "/apis/example.dev/v1/namespaces/default/things"
    thing = {"apiVersion": "example.dev/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": {"n": 1, "x": 2}}
    with KubernetesServer(tmp_path, controllers=False) as server:
        with server.client() as http:
            created(http, DEFINITIONS, {"metadata": {"name": "things.example.dev"}, "spec": spec})
            created(http, things, thing)
        server.restart(kill=True)
        with server.client() as http:
            assert http.get(f"{things}/a").json()["spec"] == {"n": 1}
            wrong = {**thing, "metadata": {"name": "b"}, "spec": {"n": "one"}}
            assert http.post(things, json=wrong).status_code == 422


def test_watches_after_a_restart(tmp_path: Path) -> None:
    """A watch can resume from the current version; versions before the restart are compacted."""
    with KubernetesServer(tmp_path, controllers=False) as server:
        with server.client() as http:
            old = created(http, CONFIG_MAPS, {"metadata": {"name": "a"}})["metadata"]["resourceVersion"]
            created(http, CONFIG_MAPS, {"metadata": {"name": "b"}})
            present = http.get(CONFIG_MAPS).json()["metadata"]["resourceVersion"]
        server.restart(kill=True)
        with server.client() as http:
            created(http, CONFIG_MAPS, {"metadata": {"name": "c"}})
            assert first_event(http, present)["object"]["metadata"]["name"] == "c"
            refused = first_event(http, old)
            assert (refused["type"], refused["object"]["code"]) == ("ERROR", 410)


def first_event(http: httpx.Client, since: str) -> dict[str, Any]:
    with http.stream("GET", CONFIG_MAPS, params={"watch": "1", "resourceVersion": since}) as response:
        event: dict[str, Any] = json.loads(next(response.iter_lines()))
    return event


def test_it_ends_promptly_with_watches_open(tmp_path: Path) -> None:
    server = KubernetesServer(tmp_path, controllers=False).start()
    try:
        with server.client() as http, http.stream("GET", CONFIG_MAPS, params={"watch": "1"}) as response:
            lines = response.iter_lines()
            begun = time.monotonic()
            server.stop()
            assert time.monotonic() - begun < 8
            with pytest.raises((StopIteration, httpx.TransportError)):
                next(lines)
    finally:
        server.stop()


# access


def test_only_the_token_opens(server: KubernetesServer) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": server.token}):
        response = httpx.get(f"{server.url}/api/v1/pods", headers=headers, verify=server.verify())
        assert (response.status_code, response.json()["reason"]) == (401, "Unauthorized")


def test_the_kubeconfig_and_the_key_are_private(server: KubernetesServer) -> None:
    for path in (server.kubeconfig, server.state.with_name(server.state.name + ".key")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = yaml.safe_load(server.kubeconfig.read_text())
    assert config["clusters"][0]["cluster"]["server"] == server.url
    assert config["users"][0]["user"]["token"] == server.token


def test_the_token_is_not_in_the_log_nor_in_the_command_line(server: KubernetesServer) -> None:
    assert server.token not in server.log.read_text()
    assert server.token not in " ".join(server.process.command)


def test_plain_http_on_demand(tmp_path: Path) -> None:
    with KubernetesServer(tmp_path, tls=False, controllers=False) as server, server.client() as http:
        assert server.url.startswith("http://")
        assert http.get("/api/v1/namespaces/default").json()["metadata"]["name"] == "default"


# logs


def test_no_log_before_a_kubelet_took_the_pod(http: httpx.Client) -> None:
    created(http, PODS, pod("waiting"))
    response = http.get(f"{PODS}/waiting/log")
    assert response.status_code == 400
    assert "waiting to start" in response.json()["message"]
    assert http.get(f"{PODS}/waiting/log", params={"container": "ghost"}).status_code == 400


def test_logs_from_a_file(http: httpx.Client, tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("one\ntwo\nthree\n")
    created(http, PODS, pod("written", **{"sandbox.agentplane.dev/log": str(file)}))
    assert http.get(f"{PODS}/written/log").text == "one\ntwo\nthree\n"
    assert http.get(f"{PODS}/written/log", params={"tailLines": "2"}).text == "two\nthree\n"
    with http.stream("GET", f"{PODS}/written/log", params={"follow": "true", "tailLines": "1"}) as response:
        chunks = response.iter_text()
        assert next(chunks) == "three\n"
        with file.open("a") as log:
            log.write("four\n")
        assert next(chunks) == "four\n"


def test_logs_from_a_kubelet(http: httpx.Client) -> None:
    asked: list[str] = []

    class Kubelet(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            self.wfile.write(b"hello from the pod\n")

        def log_message(self, format: str, *args: object) -> None:
            pass

    kubelet = ThreadingHTTPServer(("127.0.0.1", 0), Kubelet)
    threading.Thread(target=kubelet.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{kubelet.server_port}/logs/default/served"
        created(http, PODS, pod("served", **{"sandbox.agentplane.dev/log": url}))
        answer = http.get(f"{PODS}/served/log", params={"previous": "true", "tailLines": "5"})
        assert (answer.status_code, answer.text) == (200, "hello from the pod\n")
        assert asked == ["/logs/default/served?previous=true&tailLines=5&container=main"]
    finally:
        kubelet.shutdown()
        kubelet.server_close()


def test_a_kubelet_that_is_gone(http: httpx.Client) -> None:
    created(http, PODS, pod("orphan", **{"sandbox.agentplane.dev/log": "http://127.0.0.1:9/logs"}))
    response = http.get(f"{PODS}/orphan/log")
    assert (response.status_code, response.json()["reason"]) == (500, "InternalError")


# CustomResourceDefinitions of other projects that this project works with


@pytest.fixture(scope="module")
def reference(server: KubernetesServer) -> dict[str, dict[str, Any]]:
    if not REFERENCE.is_dir():
        pytest.skip(f"the reference definitions are not in {REFERENCE}")
    found = {}
    with server.client() as http:
        for path in sorted(REFERENCE.glob("*.yaml")):
            definition = yaml.load(path.read_text(), yaml.CSafeLoader)
            found[path.stem] = created(http, DEFINITIONS, definition)
    return found


def test_reference_definitions_are_established(reference: dict[str, dict[str, Any]]) -> None:
    for name, definition in reference.items():
        conditions = {at["type"]: at["status"] for at in definition["status"]["conditions"]}
        assert conditions["Established"] == "True", name


def test_an_lgp_is_validated_quickly(http: httpx.Client, reference: dict[str, dict[str, Any]]) -> None:
    path = "/apis/apps.langchain.ai/v1alpha1/namespaces/default/lgps"
    lgp = {
        "apiVersion": "apps.langchain.ai/v1alpha1",
        "kind": "LGP",
        "metadata": {"name": "a"},
        "spec": {
            "serverSpec": {
                "image": "sandbox.local/hello:1",
                "env": [{"name": f"VARIABLE_{number}", "value": "x"} for number in range(50)],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
            },
            "database": {"enabled": True},
            "misspelt": 1,
        },
    }
    made = created(http, path, lgp)
    assert "misspelt" not in made["spec"]
    lgp["spec"]["serverSpec"]["image"] = 5  # type: ignore[index]
    refused = http.post(path, json={**lgp, "metadata": {"name": "b"}}).json()
    assert refused["details"]["causes"][0]["field"] == "spec.serverSpec.image"
    taken = []
    for _ in range(20):
        begun = time.perf_counter()
        http.post(path, json={**lgp, "metadata": {"name": "b"}})
        taken.append(time.perf_counter() - begun)
    assert min(taken) < 0.05  # a request in all; validation alone takes about one millisecond


def test_every_served_version_of_a_gateway_is_the_same_object(
    http: httpx.Client, reference: dict[str, dict[str, Any]]
) -> None:
    group = "/apis/gateway.networking.k8s.io"
    gateway = {
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "Gateway",
        "metadata": {"name": "a"},
        "spec": {"gatewayClassName": "x", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
    }
    made = created(http, f"{group}/v1beta1/namespaces/default/gateways", gateway)
    stable = http.get(f"{group}/v1/namespaces/default/gateways/a").json()
    assert made["apiVersion"] == "gateway.networking.k8s.io/v1beta1"
    assert stable["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert stable["metadata"]["uid"] == made["metadata"]["uid"]
    listed = http.get(f"{group}/v1beta1/namespaces/default/gateways").json()
    assert [item["apiVersion"] for item in listed["items"]] == ["gateway.networking.k8s.io/v1beta1"]
