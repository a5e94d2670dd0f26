"""A cluster in which Helm installs the chart and the pods of the release really run.

A real kube-apiserver with RBAC and kube-controller-manager make Deployments, StatefulSets and Jobs into Pods;
`sandbox.kubelet` runs each container's command as a process of this machine, with its rendered environment, a token
of its own ServiceAccount, its own probes, and SIGTERM and its grace period at the end. So `helm upgrade -i --wait`, a
rolling update and a hook Job are what they are elsewhere.

What differs from a cluster of machines, all of it:

- *Images.* `sandbox.local/agentplane` is this checkout, run by this interpreter, with nothing else to import than what
  requirements-production.lock holds. `sandbox.local/redis` is the Redis of this machine. (`images`)
- *Names of Services and the folder of the account's token.* The first lead to this machine, the second elsewhere, by
  what runs at the start of every process of the first image. (`IN_POD`)
- *Values.* What `Cluster.local` and `own_redis` return: the sandbox's control plane and ingress instead of LangSmith's
  and yours, plain HTTP, shorter times.
- *What nobody enforces here*: users, read-only file systems, capabilities, limits, NetworkPolicies, one address per
  pod.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import yaml

from engine.event import Record
from engine.log.redis import RedisLog
from engine.names import LGP_LABEL, deployment_stream
from engine.ports import Manifest
from sandbox.control_plane.server import ControlPlane
from sandbox.kubelet.pod import local_port
from sandbox.kubelet.volumes import SERVICE_ACCOUNT
from sandbox.ports import LOOPBACK, free_port, release
from sandbox.processes import ServerProcess
from sandbox.stack import run, tool
from tests.chart.conftest import make_namespace
from tests.chart.rendering import RELEASE, ROOT, Values, chart, environment, helm, layered, own_secrets
from tests.chart.test_processes import ONLY_PRODUCTION, blocked
from tests.conftest import ApiServer
from tests.integration.operator_stack import until

APPS = ROOT / "sandbox" / "apps"
IMAGES = Path(__file__).parent / "images"

HELM_SECONDS = 240
"""That Helm waits for the pods of a release."""
PATIENCE = 120.0
"""Seconds that a test waits for what must come; the machine may be loaded."""

LGPS = "/apis/apps.langchain.ai/v1alpha1/namespaces/{ns}/lgps"
PODS = "/api/v1/namespaces/{ns}/pods"
WATCHED = (
    LGPS,
    "/apis/apps/v1/namespaces/{ns}/deployments",
    "/apis/apps/v1/namespaces/{ns}/statefulsets",
    "/api/v1/namespaces/{ns}/services",
    "/api/v1/namespaces/{ns}/secrets",
    PODS,
)
"""Kinds that a data plane makes objects of, and the pods that come of them."""

IN_POD = """
import os, socket
resolve = socket.getaddrinfo
def getaddrinfo(host, *arguments, **named):
    service = isinstance(host, str) and host.endswith(".svc.cluster.local")
    return resolve("127.0.0.1" if service else host, *arguments, **named)
socket.getaddrinfo = getaddrinfo

account = os.environ.get("SERVICE_ACCOUNT", "")
if os.path.exists(f"{account}/token"):
    from kubernetes.config import incluster_config
    incluster_config.SERVICE_TOKEN_FILENAME = f"{account}/token"
    incluster_config.SERVICE_CERT_FILENAME = f"{account}/ca.crt"
"""
"""What a pod's name server and mounts do elsewhere."""


def images(folder: Path) -> Path:
    """Make the folder of images that the node has."""
    for image in (*APPS.iterdir(), *IMAGES.iterdir()):
        if image.is_dir():
            (folder / image.name).symlink_to(image)
    agentplane = folder / "agentplane"
    agentplane.mkdir()
    (agentplane / "sitecustomize.py").write_text(ONLY_PRODUCTION.format(blocked=set(blocked())) + IN_POD)
    _image(
        agentplane,
        env={"PYTHONPATH": f"{{home}}{os.pathsep}{ROOT}", "TMPDIR": "/tmp", "SERVICE_ACCOUNT": SERVICE_ACCOUNT},
    )
    (folder / "redis").mkdir()
    _image(folder / "redis")
    return folder


def _image(folder: Path, env: dict[str, str] | None = None) -> None:
    (folder / "image.json").write_text(json.dumps({"env": env or {}}))


@dataclass(frozen=True)
class Workspace:
    """A LangSmith workspace with one listener, as a person sees it."""

    url: str
    """Of the control plane."""
    id: str
    key: str = field(repr=False)
    listener: str
    folder: Path
    http: httpx.Client = field(repr=False)

    def values(self) -> Values:
        """What its data plane must be told of it."""
        return {
            "config": {
                "langsmithApiKey": self.key,
                "langsmithWorkspaceId": self.id,
                "langgraphListenerId": self.listener,
            }
        }

    def langgraph_deploy(self, name: str, image: str, **secret_values: str) -> subprocess.CompletedProcess[str]:
        """Run `langgraph deploy` and wait for its end."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "agent.py").touch()
        config = {"graphs": {"agent": "./agent.py:graph"}, "dependencies": ["."], "env": ".env"}
        (folder / "langgraph.json").write_text(json.dumps(config))
        (folder / ".env").write_text("".join(f"{key}={value}\n" for key, value in secret_values.items()))
        command = [
            tool("langgraph"),
            "deploy",
            "--host-url",
            self.url,
            "--name",
            name,
            "--image-uri",
            image,
            "--no-input",
        ]
        variables = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "LANGGRAPH_CLI_NO_ANALYTICS": "1",
            "LANGSMITH_API_KEY": self.key,
        }
        return run(["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(folder), *command], env=variables, seconds=PATIENCE)

    def create(self, name: str, image: str, namespace: str | None = None) -> str:
        """Create a deployment as the UI does; return its id."""
        form = {
            "name": name,
            "source": "external_docker",
            "source_config": {"listener_id": self.listener, "listener_config": {"k8s_namespace": namespace}},
            "source_revision_config": {"image_uri": image},
            "secrets": [{"name": "MODEL_API_KEY", "value": f"sk-{name}"}],
        }
        if namespace is None:
            form["source_config"] = {}
        created: str = self.http.post("/v2/deployments", json=form).raise_for_status().json()["id"]
        return created

    def update(self, deployment_id: str, image: str) -> str:
        """Ask for another image; return the id of the new revision."""
        form = {"source_revision_config": {"image_uri": image}}
        answer = self.http.patch(f"/v2/deployments/{deployment_id}", json=form).raise_for_status()
        revision: str = answer.json()["latest_revision_id"]
        return revision

    def deployments(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while page := self.http.get("/v2/deployments", params={"limit": 100, "offset": len(found)}).json()["resources"]:
            found += page
        return found

    def deployment(self, name: str) -> dict[str, Any]:
        return next(one for one in self.deployments() if one["name"] == name)

    def status(self, deployment: dict[str, Any]) -> str:
        """Of the latest revision."""
        path = f"/v2/deployments/{deployment['id']}/revisions/{deployment['latest_revision_id']}"
        found: str = self.http.get(path).raise_for_status().json()["status"]
        return found

    def unfinished(self) -> dict[str, str]:
        """Deployments whose latest revision is not the active one, with its status."""
        waiting = [one for one in self.deployments() if one["latest_revision_id"] != one["active_revision_id"]]
        return {one["name"]: self.status(one) for one in waiting}


@dataclass
class Cluster:
    """The API server, its node, and the control plane outside."""

    api: ApiServer
    folder: Path
    ingress: str
    """host:port of the way in."""
    control_plane: ControlPlane
    http: httpx.Client = field(repr=False)
    """To the API server, as administrator."""

    def namespace(self) -> str:
        return make_namespace(self.api)

    def workspace(self, *namespaces: str) -> Workspace:
        """Make a workspace, and a listener of it for `namespaces`, as Deployments > Listeners does."""
        identity, key = str(uuid4()), f"lsv2_pt_{secrets.token_hex(16)}"
        http = httpx.Client(
            base_url=self.control_plane.url, headers=self.control_plane.admit(key, identity), timeout=30
        )
        form = {"compute_type": "k8s", "compute_id": "laptop", "compute_config": {"k8s_namespaces": list(namespaces)}}
        listener: str = http.post("/v2/listeners", json=form).raise_for_status().json()["id"]
        folder = self.folder / "projects" / identity
        return Workspace(self.control_plane.url, identity, key, listener, folder, http)

    def local(self) -> Values:
        """What an installation on this machine says that one elsewhere does not."""
        return {
            "images": {"agentplaneImage": {"repository": "sandbox.local/agentplane", "tag": "checkout"}},
            "config": {
                "hostBackendUrl": self.control_plane.url,
                "smithBackendUrl": f"{self.control_plane.url}/langsmith",
                "settings": {
                    "health_check_address": self.ingress,
                    "poll_seconds": 1,
                    "sweep_seconds": 1,
                    "lock_seconds": 5,
                },
            },
            **{way: {"tlsEnabled": False} for way in ("ingress", "gateway", "istioGateway")},
        }

    def own_redis(self) -> Values:
        """The chart's own Redis, on a port that nobody else has."""
        port = free_port()
        image = {"repository": "sandbox.local/redis", "tag": "local"}
        return {"images": {"redisImage": image}, "redis": {"containerPort": port, "service": {"port": port}}}

    def get(self, url: str) -> httpx.Response:
        """GET as a person outside does, whose names lead to the ingress."""
        parts = urlsplit(url)
        return httpx.get(f"http://{self.ingress}{parts.path}", headers={"Host": parts.netloc}, timeout=30)

    def listed(self, path: str, namespace: str, labels: str = "") -> list[Manifest]:
        answer = self.http.get(path.format(ns=namespace), params={"labelSelector": labels})
        items: list[Manifest] = answer.raise_for_status().json()["items"]
        return items

    def pods(self, namespace: str, labels: str = "") -> list[Manifest]:
        return self.listed(PODS, namespace, labels)

    def uids(self, namespace: str) -> dict[str, str]:
        """`<collection> <name>` → uid, of what a data plane made there."""
        return {
            f"{path.rpartition('/')[2]} {item['metadata']['name']}": item["metadata"]["uid"]
            for path in WATCHED
            for item in self.listed(path, namespace, LGP_LABEL if path != LGPS else "")
        }

    def said(self, namespace: str, pod: str = "") -> str:
        """What the containers of pods whose names start so wrote, gone ones included."""
        logs = sorted((self.folder / "node" / "logs").glob(f"{namespace}_{pod}*/*/*.log"))
        return "\n".join(path.read_text(errors="replace") for path in logs)


@contextmanager
def running(api: ApiServer, folder: Path) -> Iterator[Cluster]:
    """A cluster with a node and a control plane, until the block ends."""
    port, log = free_port(), folder / "kubelet.log"
    (folder / "images").mkdir()
    command = [sys.executable, "-m", "sandbox.kubelet", "--kubeconfig", str(api.kubeconfig)]
    command += [
        "--ingress-port",
        str(port),
        "--images",
        str(images(folder / "images")),
        "--state",
        str(folder / "node"),
    ]
    command += ["--backoff-seconds", "1", "--drain-seconds", "0.2"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    kubelet = ServerProcess(
        "kubelet",
        command,
        log=log,
        ready=lambda: log.exists() and "ready: " in log.read_text(),
        env=variables,
        cwd=folder,
    )
    try:
        kubelet.start()
        with ControlPlane({"nobody": str(uuid4())}, infer_listener=True) as control_plane, api.http() as http:
            yield Cluster(api, folder, f"{LOOPBACK}:{port}", control_plane, http)
    finally:
        kubelet.stop()
        release(port)


@dataclass
class Installation:
    """A release of the chart."""

    cluster: Cluster
    namespace: str
    values: Values
    name: str = RELEASE

    def upgrade(self, *changes: Values) -> str:
        """`helm upgrade -i --wait` with the values and `changes`, which stay; return the notes."""
        self.values = layered(self.values, *changes)
        with self._helm() as config:
            present = self.name in [found["name"] for found in config.list(all_states=True)]
            act = config.upgrade if present else config.install
            try:
                act(chart(), self.name, self.values, wait="watcher", timeout=HELM_SECONDS)
            except helm.HelmError as error:
                raise AssertionError(f"{error}\n{self.told()}") from error
            notes: str = config.get_all(self.name)["info"]["notes"]
            return notes

    def uninstall(self) -> str:
        """`helm uninstall --wait`; return what Helm says."""
        with self._helm() as config:
            said: str = config.uninstall(self.name, wait="watcher", timeout=HELM_SECONDS)["info"]
        until(lambda: not self.pods(), "the pods of the release are gone", PATIENCE)
        return said

    def manifests(self) -> list[Manifest]:
        with self._helm() as config:
            return [found for found in yaml.safe_load_all(config.status(self.name)["manifest"]) if found]

    def environment(self) -> dict[str, str]:
        """What every process of it is told."""
        found = self.manifests()
        beat = next(m for m in found if m["kind"] == "Deployment" and m["metadata"]["name"].endswith("-beat"))
        return environment(beat["spec"]["template"]["spec"], own_secrets(found))

    @contextmanager
    def log(self) -> Iterator[RedisLog]:
        """Its event log."""
        told = self.environment()
        parts = urlsplit(told["AGENTPLANE_REDIS_URL"])
        log = RedisLog.from_url(f"redis://{LOOPBACK}:{parts.port}{parts.path}", told["AGENTPLANE_PREFIX"])
        yield log
        log.close()

    def pods(self) -> list[Manifest]:
        return self.cluster.pods(self.namespace, f"app.kubernetes.io/instance={self.name}")

    def told(self) -> str:
        """The last words of its pods, for a person who asks why it did not come up."""
        words = [self.cluster.said(self.namespace, pod["metadata"]["name"])[-1500:] for pod in self.pods()]
        return "\n".join(words)

    def _helm(self) -> Any:
        return helm.Config(kubeconfig_path=self.cluster.api.kubeconfig, namespace=self.namespace)


class Witness:
    """Watches a namespace and remembers everything that came and went."""

    def __init__(self, cluster: Cluster, namespace: str, collections: Sequence[str] = WATCHED) -> None:
        self.added: Counter[str] = Counter()
        """How often an object of this collection and name came into being."""
        self.gone: dict[str, Manifest] = {}
        """Objects as they were last seen before they went, by collection and name."""
        self._cluster = cluster
        self._paths = [collection.format(ns=namespace) for collection in collections]
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Witness:
        for path in self._paths:
            version = self._cluster.http.get(path).raise_for_status().json()["metadata"]["resourceVersion"]
            self._threads.append(threading.Thread(target=self._watch, args=(path, version), daemon=True))
            self._threads[-1].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(30)

    def ended(self, pod: str) -> list[Manifest]:
        """Pods that went, whose names start so."""
        return [last for name, last in self.gone.items() if name.startswith(f"pods {pod}")]

    def _watch(self, path: str, version: str) -> None:
        kind = path.rpartition("/")[2]
        with self._cluster.api.http() as http:
            while not self._done.is_set():
                params = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "1"}
                with http.stream("GET", path, params=params) as answer:
                    for line in answer.iter_lines():
                        event = json.loads(line)
                        version = event["object"]["metadata"]["resourceVersion"]
                        name = f"{kind} {event['object']['metadata']['name']}"
                        if event["type"] == "ADDED":
                            self.added[name] += 1
                        elif event["type"] == "DELETED":
                            self.gone[name] = event["object"]


@dataclass(frozen=True)
class Ending:
    """How a container of a pod that is gone ended."""

    code: int
    seconds_left: float
    """Of the time that the pod was given."""

    @classmethod
    def of(cls, pod: Manifest) -> Ending:
        (status,) = pod["status"]["containerStatuses"]
        over = status["state"]["terminated"]
        given = datetime.fromisoformat(pod["metadata"]["deletionTimestamp"])
        return cls(over["exitCode"], (given - datetime.fromisoformat(over["finishedAt"])).total_seconds())


def ready(pod: Manifest) -> bool:
    conditions = pod["status"].get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def directly(pod: Manifest, path: str) -> httpx.Response:
    """GET from an Agent Server's pod itself, past every route."""
    return httpx.get(f"http://{LOOPBACK}:{local_port(pod, 8000)}{path}", timeout=30)


def story(log: RedisLog, deployment_id: str) -> Sequence[Record]:
    return log.read(deployment_stream(deployment_id))


def waiting(condition: Callable[[], Any], what: str) -> float:
    """Wait until `condition` holds; return the seconds it took."""
    started = time.monotonic()
    until(condition, what, PATIENCE)
    return time.monotonic() - started
