"""The kubelet and its ingress as a process, with real Agent Servers, in front of the embedded and the real API
server.

One node runs for all tests of a cluster; each test has its own namespace. Tests wait for conditions with long
deadlines, because the machine may be busy.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from sandbox.envtest import load_crds
from sandbox.ports import free_port, release
from sandbox.processes import ServerProcess
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually

T = TypeVar("T")

APPS = Path(__file__).parents[2] / "sandbox" / "apps"
DEADLINE = 60.0
GRACE = 10


@dataclass
class RunningNode:
    """The kubelet process, a client of the API server and a client of the ingress."""

    process: ServerProcess
    ingress: httpx.Client
    api: httpx.Client
    api_server: ApiServer = field(repr=False)

    def create(self, namespace: str, *items: dict[str, Any]) -> None:
        collections = {"Pod": "/api/v1", "Secret": "/api/v1", "Service": "/api/v1", "Deployment": "/apis/apps/v1",
                       "Ingress": "/apis/networking.k8s.io/v1"}  # fmt: skip
        for item in items:
            group, kind = collections[item["kind"]], item["kind"].lower()
            plural = f"{kind}es" if kind.endswith("s") else f"{kind}s"
            self.api.post(f"{group}/namespaces/{namespace}/{plural}", json=item).raise_for_status()

    def pod(self, namespace: str, name: str) -> dict[str, Any] | None:
        answer = self.api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
        found: dict[str, Any] | None = None if answer.status_code == 404 else answer.raise_for_status().json()
        return found

    def pods(self, namespace: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.api.get(f"/api/v1/namespaces/{namespace}/pods").json()["items"]
        return items

    def container(self, namespace: str, pod: str) -> dict[str, Any]:
        """The status of the pod's first container, empty until it is reported."""
        statuses = ((self.pod(namespace, pod) or {}).get("status") or {}).get("containerStatuses") or [{}]
        status: dict[str, Any] = statuses[0]
        return status

    def wait_ready(self, namespace: str, pod: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = self.pod(namespace, pod)
            return found if found and is_ready(found) else None

        return eventually(look, f"pod {pod} is ready")

    def wait_waiting(self, namespace: str, pod: str, reason: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            status = self.container(namespace, pod)
            return status if (status.get("state") or {}).get("waiting", {}).get("reason") == reason else None

        return eventually(look, f"pod {pod} waits because of {reason}")


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


@pytest.fixture(scope="module")
def node(own_api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("kubelet")
    port, log = free_port(), folder / "kubelet.log"
    command = [sys.executable, "-m", "sandbox.kubelet", "--kubeconfig", str(own_api_server.kubeconfig)]
    command += ["--ingress-port", str(port), "--images", str(APPS), "--state", str(folder / "state")]
    command += ["--backoff-seconds", "1", "--probe-period-cap", "0.2", "--drain-seconds", "0.3"]
    process = ServerProcess(
        "kubelet", command, log=log, ready=lambda: log.exists() and "ready: " in log.read_text(), cwd=APPS.parents[1]
    )
    process.start()
    with (
        httpx.Client(base_url=f"http://localhost:{port}", timeout=30, trust_env=False) as ingress,
        own_api_server.http() as api,
    ):
        yield RunningNode(process, ingress, api, own_api_server)
    process.stop()
    release(port)


@pytest.fixture
def space(node: RunningNode) -> Iterator[str]:
    """A new namespace whose workloads are deleted after the test, so that they do not slow down the next one."""
    namespace = f"test-{secrets.token_hex(5)}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    node.api.post("/api/v1/namespaces", json=body).raise_for_status()
    yield namespace
    node.api.delete(f"/apis/apps/v1/namespaces/{namespace}/deployments")
    at_once = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}

    def none_left() -> bool:
        node.api.request("DELETE", f"/api/v1/namespaces/{namespace}/pods", json=at_once)
        return not node.pods(namespace)

    eventually(none_left, "the pods of the test are gone")


def container(image: str, **more: Any) -> dict[str, Any]:
    probe = {"httpGet": {"path": "/ok", "port": 8000}, "periodSeconds": 15, "timeoutSeconds": 5, "failureThreshold": 6}
    return {
        "name": "api-server",
        "image": f"sandbox.local/{image}" if "/" not in image and ":" not in image else image,
        "ports": [{"name": "api-server", "containerPort": 8000}],
        "readinessProbe": probe,
        "livenessProbe": probe,
        **more,
    }


def pod(name: str, *containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": list(containers), "terminationGracePeriodSeconds": GRACE, **spec},
    }


def service(name: str) -> dict[str, Any]:
    ports = [{"name": "api-server", "port": 8000, "targetPort": 8000}]
    spec = {"selector": {"app": name}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def ingress(name: str, path: str) -> dict[str, Any]:
    backend = {"service": {"name": name, "port": {"number": 8000}}}
    rule = {"host": "localhost", "http": {"paths": [{"path": path, "pathType": "Prefix", "backend": backend}]}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name},
        "spec": {"rules": [rule]},
    }


def secret(name: str, **values: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}


def ask(node: RunningNode, path: str) -> dict[str, Any]:
    answer = node.ingress.post(f"{path}/runs/wait", json={"assistant_id": "agent", "input": {"name": "Ada"}})
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def test_an_agent_server_answers_through_the_ingress_with_exactly_its_environment(
    node: RunningNode, space: str
) -> None:
    path, token = f"/lgp/{space}", secrets.token_hex(8)
    env = [
        {"name": "MOUNT_PREFIX", "value": path},
        {"name": "LANGSMITH_HOST_REVISION_ID", "value": "revision-1"},
        {"name": "GREETING_SECRET", "valueFrom": {"secretKeyRef": {"name": "hello", "key": "token"}}},
    ]
    node.create(
        space,
        secret("hello", token=token),
        service("hello"),
        ingress("hello", path),
        pod("hello", container("hello", env=env)),
    )
    ready = node.wait_ready(space, "hello")
    assert ready["spec"]["nodeName"] == "sandbox"
    assert ready["status"]["podIP"] == "127.0.0.1"
    assert node.ingress.get(f"{path}/ok").json()["ok"] is True
    assert node.ingress.get(f"{path}/info").json()["host"]["host_revision_id"] == "revision-1"
    answer = ask(node, path)
    assert answer["answer"] == "hello, Ada"
    assert (answer["secret"]["present"], answer["secret"]["length"]) == (True, len(token))
    assert_environment(node, ready, {"MOUNT_PREFIX", "LANGSMITH_HOST_REVISION_ID", "GREETING_SECRET"})
    log = httpx.get(ready["metadata"]["annotations"]["sandbox.agentplane.dev/log"], params={"tailLines": 1})
    assert "Background run succeeded" in log.text
    assert log.text.count("\n") == 1
    through_api = node.api.get(f"/api/v1/namespaces/{space}/pods/hello/log", params={"tailLines": 1})
    assert through_api.text == log.text


def assert_environment(node: RunningNode, pod: dict[str, Any], names: set[str]) -> None:
    """The process has the variables of the container and of the image, and none of the kubelet's own."""
    local = pod["metadata"]["annotations"]["sandbox.agentplane.dev/ports"].partition("=")[2]
    for pid in descendants(node.process.pid):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if local.encode() in command:
            entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found = {entry.partition(b"=")[0].decode() for entry in entries if entry}
            image = {"PATH", "HOME", "LANG", "PYTHONUNBUFFERED", "LOG_COLOR", "LANGGRAPH_NO_VERSION_CHECK",
                     "LANGGRAPH_CLI_NO_ANALYTICS"}  # fmt: skip
            assert found == names | image
            return
    assert not Path("/proc").exists(), f"no process serves port {local}"


def test_every_failure_is_reported_as_a_kubelet_reports_it(node: RunningNode, space: str) -> None:
    missing = [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "k"}}}]
    node.create(
        space,
        pod("crash", container("crash")),
        pod("unknown", container("sandbox.local/unknown@sha256:" + "0" * 64)),
        pod("foreign", container("ghcr.io/team/agent:1")),
        pod("unset", container("hello", env=missing)),
        pod("database", container("pgvector/pgvector:pg15"), container("redis:6", name="redis")),
        pod("queue", container("hello", command=["/storage/queue_entrypoint.sh"])),
        pod("once", container("hello", command=["sh", "-c", "echo $0 done; exit 4", "$(GREETING)"],
                              env=[{"name": "GREETING", "value": "well"}]), restartPolicy="Never"),
    )  # fmt: skip
    assert (
        'secret "absent" not found'
        in (node.wait_waiting(space, "unset", "CreateContainerConfigError")["state"]["waiting"]["message"])
    )
    for name in ("unknown", "foreign"):
        status = node.wait_waiting(space, name, "ImagePullBackOff")
        assert "ErrImagePull" in status["state"]["waiting"]["message"]
        assert (node.pod(space, name) or {})["status"]["phase"] == "Pending"
    node.wait_ready(space, "database")
    node.wait_ready(space, "queue")

    crashed = node.wait_waiting(space, "crash", "CrashLoopBackOff")
    last = crashed["lastState"]["terminated"]
    assert crashed["restartCount"] >= 1
    assert last["exitCode"] == 3
    assert "this image always crashes" in last["message"]
    assert len(last["message"].splitlines()) <= 10
    log_url = (node.pod(space, "crash") or {})["metadata"]["annotations"]["sandbox.agentplane.dev/log"]
    previous = httpx.get(f"{log_url}/api-server", params={"previous": "true"})
    assert "no weights found in /models" in previous.text

    over = eventually(
        lambda: found if (found := node.pod(space, "once")) and found["status"]["phase"] == "Failed" else None,
        "the pod that runs once has failed",
    )
    ended = over["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["message"]) == (4, "well done")

    # The missing objects are created: the pod recovers by itself.
    node.create(space, secret("absent", k="v"))
    node.wait_ready(space, "unset")
    events = node.api.get(f"/api/v1/namespaces/{space}/events").json()["items"]
    told = {(event["involvedObject"]["name"], event["reason"]) for event in events}
    assert {("crash", "BackOff"), ("unknown", "Failed"), ("unset", "Started"), ("unset", "Scheduled")} <= told


def test_init_containers_run_before_the_others(node: RunningNode, space: str) -> None:
    steps = [
        {"name": "foreign", "image": "busybox:1"},
        {"name": "prepare", "image": "sandbox.local/hello:1", "command": ["sh", "-c", "echo ready; ls langgraph.json"]},
    ]
    node.create(space, pod("hello", container("redis:6"), initContainers=steps))
    ready = node.wait_ready(space, "hello")
    ended = {one["name"]: one["state"]["terminated"]["exitCode"] for one in ready["status"]["initContainerStatuses"]}
    assert ended == {"foreign": 0, "prepare": 0}
    log = httpx.get(ready["metadata"]["annotations"]["sandbox.agentplane.dev/log"] + "/prepare")
    assert log.text == "ready\nlanggraph.json\n"


def deployment(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [spec], "terminationGracePeriodSeconds": GRACE}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    }


def test_a_rollout_loses_no_request(node: RunningNode, space: str) -> None:
    path = f"/lgp/{space}"
    env = [{"name": "MOUNT_PREFIX", "value": path}]
    node.create(
        space,
        service("hello"),
        ingress("hello", path),
        deployment("hello", container("sandbox.local/hello@sha256:" + "1" * 64, env=env)),
    )
    eventually(lambda: any(map(is_ready, node.pods(space))), "the first pod is ready")
    outcomes: Counter[str] = Counter()
    stop = threading.Event()

    def probe() -> None:
        with httpx.Client(base_url=node.ingress.base_url, timeout=20, trust_env=False) as client:
            while not stop.is_set():
                try:
                    outcomes[str(client.get(f"{path}/ok").status_code)] += 1
                except httpx.HTTPError as error:
                    outcomes[type(error).__name__] += 1
                stop.wait(0.1)

    prober = threading.Thread(target=probe)
    prober.start()
    try:
        update = deployment("hello", container("sandbox.local/hello2@sha256:" + "2" * 64, env=env))
        url = f"/apis/apps/v1/namespaces/{space}/deployments/hello"
        merge = {"Content-Type": "application/merge-patch+json"}
        node.api.patch(url, json={"spec": update["spec"]}, headers=merge).raise_for_status()

        def replaced() -> bool:
            pods = node.pods(space)
            images = {one["spec"]["containers"][0]["image"] for one in pods}
            return len(pods) == 1 and "hello2" in images.pop() and is_ready(pods[0])

        eventually(replaced, "only the new pod is left")
        assert ask(node, path)["answer"] == "bonjour, Ada"
    finally:
        stop.set()
        prober.join()
    assert set(outcomes) == {"200"}, outcomes
    assert outcomes["200"] > 10


def test_nothing_survives_the_node_and_its_next_run_starts_the_pods_again(node: RunningNode, space: str) -> None:
    path = f"/lgp/{space}"
    env = [{"name": "MOUNT_PREFIX", "value": path}]
    node.create(space, service("hello"), ingress("hello", path), pod("hello", container("hello", env=env)))
    before = node.wait_ready(space, "hello")
    local = int(before["metadata"]["annotations"]["sandbox.agentplane.dev/ports"].partition("=")[2])
    children = descendants(node.process.pid)
    node.process.kill()
    eventually(lambda: not [pid for pid in children if is_alive(pid)], "all processes of the node are gone", 10)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{local}/ok")

    node.process.log.unlink()
    node.process.start()
    eventually(lambda: node.container(space, "hello").get("restartCount") == 1, "the restart is counted")
    after = node.wait_ready(space, "hello")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 137
    assert node.ingress.get(f"{path}/ok").status_code == 200

    # After SIGTERM it also ends with all processes, within two seconds; the limit is longer for a busy machine.
    children, starts = descendants(node.process.pid), node.process.log.read_text().count("started as process")
    began = time.monotonic()
    node.process.stop(timeout=20)
    took = time.monotonic() - began
    assert not [pid for pid in children if is_alive(pid)]
    assert node.process.log.read_text().count("started as process") == starts
    assert took < 8
    node.process.start()


def test_it_survives_a_restart_of_the_api_server_and_deletes_in_order(node: RunningNode, space: str) -> None:
    node.create(space, pod("before", container("hello")))
    ready = node.wait_ready(space, "before")
    node.api_server.restart()

    def create() -> bool:
        try:
            node.create(space, pod("after", container("redis:6")))
        except httpx.HTTPError:
            return False
        return True

    eventually(create, "the API server takes requests again")
    node.wait_ready(space, "after")
    assert node.container(space, "before")["restartCount"] == 0
    assert (node.pod(space, "before") or {})["metadata"]["uid"] == ready["metadata"]["uid"]
    local = int(ready["metadata"]["annotations"]["sandbox.agentplane.dev/ports"].partition("=")[2])
    for name in ("before", "after"):
        node.api.delete(f"/api/v1/namespaces/{space}/pods/{name}").raise_for_status()
    eventually(lambda: not node.pods(space), "both pods are gone", GRACE + 20)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{local}/ok")


REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "crds"


@pytest.mark.parametrize(
    ("kind", "plural", "group", "spec"),
    [
        ("HTTPRoute", "httproutes", "gateway.networking.k8s.io",
         lambda path: {"hostnames": ["localhost"], "rules": [
             {"matches": [{"path": {"type": "PathPrefix", "value": path}}],
              "backendRefs": [{"name": "nobody", "port": 8000}]}]}),
        ("VirtualService", "virtualservices", "networking.istio.io",
         lambda path: {"hosts": ["localhost"], "http": [
             {"match": [{"uri": {"prefix": path}}],
              "route": [{"destination": {"host": "nobody", "port": {"number": 8000}}}]}]}),
    ],
    ids=["HTTPRoute", "VirtualService"],
)  # fmt: skip
def test_other_kinds_of_routes_are_served_once_their_kind_is_installed(
    node: RunningNode, space: str, kind: str, plural: str, group: str, spec: Callable[[str], dict[str, Any]]
) -> None:
    file = REFERENCE / f"{plural}.{group}.yaml"
    if not file.exists():
        pytest.skip(f"no {file.name} beside the checkout")
    path = f"/lgp/{space}"
    item = {"apiVersion": f"{group}/v1", "kind": kind, "metadata": {"name": "hello"}, "spec": spec(path)}
    assert node.ingress.get(f"{path}/ok").status_code == 404
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    installed = node.api.post(crds, json=load_crds(file)[0])
    assert installed.status_code in (201, 409), installed.text
    try:
        url = f"/apis/{group}/v1/namespaces/{space}/{plural}"
        eventually(lambda: node.api.post(url, json=item).status_code in (201, 409), f"{kind} can be created")
        refused = eventually(
            lambda: answer if (answer := node.ingress.get(f"{path}/ok")).status_code == 503 else None,
            "the route is used",
        )
        assert f"{kind} {space}/hello: service {space}/nobody does not exist" in refused.text
    finally:
        if installed.status_code == 201:
            node.api.delete(f"{crds}/{plural}.{group}")


def descendants(pid: int) -> list[int]:
    """Return all descendants of a process."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    children: dict[int, list[int]] = {}
    for line in table.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    queue = [pid]
    while queue:
        queue += (new := children.get(queue.pop(), []))
        found += new
    return found


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z") and pid != os.getpid()
