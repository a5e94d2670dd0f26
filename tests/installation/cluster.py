"""A cluster in which Helm installs the chart and the pods of the release really run.

A real kube-apiserver with RBAC and a real kube-controller-manager make Pods of Deployments, StatefulSets and Jobs.
`sandbox.kubelet` runs the command of each container as a process of this machine. The process gets its rendered
environment, a token of its own ServiceAccount and its own probes; it ends with SIGTERM and its grace period. So
`helm upgrade -i --wait`, a rolling update and a hook Job work as in any cluster.

These are all differences from a cluster of machines:

- *Images.* `sandbox.local/agentplane` is this checkout, run by this interpreter; it can import only what
  requirements-production.lock holds. `sandbox.local/redis` is the Redis of this machine. (`images`)
- *Names of Services and the folder of the account's token.* Code at the start of every agentplane process resolves
  Service names to this machine, and reads the token from another folder. (`IN_POD`)
- *Values.* `Cluster.local` and `own_redis` set the control plane and ingress of the sandbox, plain HTTP and shorter
  times.
- *Not enforced*: users, read-only file systems, capabilities, limits, NetworkPolicies, one address per pod.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import yaml

from engine.log.redis import RedisLog
from engine.names import LGP_LABEL
from engine.ports import Manifest
from sandbox import envtest
from sandbox.control_plane.server import ControlPlane
from sandbox.kubelet.pod import local_port
from sandbox.kubelet.volumes import SERVICE_ACCOUNT
from sandbox.ports import LOOPBACK, free_port, release
from sandbox.processes import ServerProcess
from sandbox.stack import run, tool
from tests.chart.rendering import RELEASE, ROOT, Values, chart, environment, helm, layered, own_secrets
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually
from tests.support.namespaces import make_namespace
from tests.support.production import ONLY_PRODUCTION, blocked

APPS = ROOT / "sandbox" / "apps"
IMAGES = Path(__file__).parent / "images"
EXAMPLES = ROOT / "k8s" / "examples"

HELM_SECONDS = 240
"""Seconds that Helm waits for the pods of a release."""
PATIENCE = 120.0
"""Seconds that a test waits for a result; the machine may be loaded."""

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/lgps.apps.langchain.ai"
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
"""Collections of the kinds that a data plane makes, and of the resulting pods."""

IN_POD = """
import importlib.machinery, os, socket, sys

resolve = socket.getaddrinfo
def getaddrinfo(host, *arguments, **named):
    service = isinstance(host, str) and host.endswith(".svc.cluster.local")
    return resolve("127.0.0.1" if service else host, *arguments, **named)
socket.getaddrinfo = getaddrinfo

class Account:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "kubernetes.config.incluster_config":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            module.SERVICE_TOKEN_FILENAME = os.path.join(os.environ["SERVICE_ACCOUNT"], "token")
            module.SERVICE_CERT_FILENAME = os.path.join(os.environ["SERVICE_ACCOUNT"], "ca.crt")
        spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Account)
"""
"""Code that replaces the name server and the token mount of a real pod."""


def images(folder: Path) -> Path:
    """Fill `folder` with the images of the node; return `folder`."""
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
    """A LangSmith workspace with one listener, as its user sees it."""

    url: str
    """URL of the control plane."""
    id: str
    key: str = field(repr=False)
    listener: str
    folder: Path
    http: httpx.Client = field(repr=False)

    def values(self) -> Values:
        """Return the values that connect a data plane to this workspace."""
        return {
            "config": {
                "langsmithApiKey": self.key,
                "langsmithWorkspaceId": self.id,
                "langgraphListenerId": self.listener,
            }
        }

    def langgraph_deploy(self, name: str, image: str, **secret_values: str) -> subprocess.CompletedProcess[str]:
        """Run `langgraph deploy` to its end."""
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
        """Return the status of the latest revision of a deployment."""
        path = f"/v2/deployments/{deployment['id']}/revisions/{deployment['latest_revision_id']}"
        found: str = self.http.get(path).raise_for_status().json()["status"]
        return found

    def wait_until_deployed(self) -> None:
        """Wait until the latest revision of every deployment is the active one."""
        unfinished: dict[str, str] = {}

        def none() -> bool:
            nonlocal unfinished
            unfinished = self.unfinished()
            return not unfinished

        try:
            waiting(none, "every deployment is deployed")
        except AssertionError as error:
            raise AssertionError(f"{error}, but {unfinished}") from None

    def unfinished(self) -> dict[str, str]:
        """Return the deployments whose latest revision is not the active one: name → status of the latest revision."""
        waiting = [one for one in self.deployments() if one["latest_revision_id"] != one["active_revision_id"]]
        return {one["name"]: self.status(one) for one in waiting}


@dataclass
class Cluster:
    """The API server, its node, and a control plane outside the cluster."""

    api: ApiServer
    folder: Path
    ingress: str
    """host:port of the ingress."""
    control_plane: ControlPlane
    http: httpx.Client = field(repr=False)
    """Client of the API server, as administrator."""

    def namespace(self) -> str:
        return make_namespace(self.api)

    def serve(self, group: str, version: str, kind: str) -> None:
        """Make the API server serve a kind with a schema that accepts any fields."""
        plural = f"{kind.lower()}s"
        schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
        approved = {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/2466"}
        definition = {
            "metadata": {"name": f"{plural}.{group}", "annotations": approved},
            "spec": {
                "group": group,
                "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
                "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
            },
        }
        answer = self.http.post(CRD.rpartition("/")[0], json=definition)
        assert answer.status_code in (201, 409), answer.text
        waiting(lambda: self.http.get(f"/apis/{group}/{version}/{plural}").is_success, f"{plural} are served")

    def make(self, namespace: str, secrets: Mapping[str, Mapping[str, str]] | None = None) -> None:
        """Make a namespace, unless it exists, and Secrets in it."""
        answer = self.http.post("/api/v1/namespaces", json={"metadata": {"name": namespace}})
        assert answer.status_code in (201, 409), answer.text
        for name, content in (secrets or {}).items():
            body = {"metadata": {"name": name}, "stringData": dict(content)}
            self.http.post(f"/api/v1/namespaces/{namespace}/secrets", json=body).raise_for_status()

    def workspace(self, *namespaces: str) -> Workspace:
        """Make a workspace and its listener for `namespaces`, as the page Deployments > Listeners does."""
        identity, key = str(uuid4()), f"lsv2_pt_{secrets.token_hex(16)}"
        http = httpx.Client(
            base_url=self.control_plane.url, headers=self.control_plane.admit(key, identity), timeout=30
        )
        form = {"compute_type": "k8s", "compute_id": "laptop", "compute_config": {"k8s_namespaces": list(namespaces)}}
        listener: str = http.post("/v2/listeners", json=form).raise_for_status().json()["id"]
        folder = self.folder / "projects" / identity
        return Workspace(self.control_plane.url, identity, key, listener, folder, http)

    def local(self) -> Values:
        """Return the values that only an installation on this machine needs."""
        return {
            "images": {"agentplaneImage": {"repository": "sandbox.local/agentplane", "tag": "checkout"}},
            "config": {
                "region": "",
                "hostBackendUrl": self.control_plane.url,
                "smithBackendUrl": f"{self.control_plane.url}/langsmith",
                "settings": {
                    "health_check_address": self.ingress,
                    "poll_seconds": 1,
                    "sweep_seconds": 1,
                },
            },
            **{way: {"tlsEnabled": False} for way in ("ingress", "gateway", "istioGateway")},
        }

    def own_redis(self) -> Values:
        """Return values for the chart's own Redis on a free port."""
        port = free_port()
        image = {"repository": "sandbox.local/redis", "tag": "local"}
        return {"images": {"redisImage": image}, "redis": {"containerPort": port, "service": {"port": port}}}

    def get(self, url: str) -> httpx.Response:
        """GET a URL through the ingress, as a client outside the cluster does."""
        parts = urlsplit(url)
        return httpx.get(f"http://{self.ingress}{parts.path}", headers={"Host": parts.netloc}, timeout=30)

    def listed(self, path: str, namespace: str, labels: str = "") -> list[Manifest]:
        answer = self.http.get(path.format(ns=namespace), params={"labelSelector": labels})
        items: list[Manifest] = answer.raise_for_status().json()["items"]
        return items

    def pods(self, namespace: str, labels: str = "") -> list[Manifest]:
        return self.listed(PODS, namespace, labels)

    def uids(self, namespace: str) -> dict[str, str]:
        """Return the uids of all objects that data planes made in a namespace, by `<collection> <name>`."""
        return {
            f"{path.rpartition('/')[2]} {item['metadata']['name']}": item["metadata"]["uid"]
            for path in WATCHED
            for item in self.listed(path, namespace, LGP_LABEL if path != LGPS else "")
        }

    def agents(self, namespace: str) -> dict[str, Manifest]:
        """Return the pods of Agent Servers and of their databases and Redis, by uid."""
        return {pod["metadata"]["uid"]: pod for pod in self.pods(namespace, LGP_LABEL)}

    def rolled_out(self, namespace: str) -> bool:
        """Whether no pod is being deleted and every Deployment has only pods of its newest template."""
        pods, deployments = self.pods(namespace), self.listed("/apis/apps/v1/namespaces/{ns}/deployments", namespace)
        return not any("deletionTimestamp" in pod["metadata"] for pod in pods) and all(
            found["status"].get("replicas") == found["status"].get("updatedReplicas") for found in deployments
        )

    def forget_lgps(self) -> None:
        """Delete the CustomResourceDefinition of LGPs with all LGPs, as if it had never been installed."""
        merge = {"Content-Type": "application/merge-patch+json"}
        found = self.http.get("/apis/apps.langchain.ai/v1alpha1/lgps")
        for lgp in found.json()["items"] if found.is_success else ():
            path = f"{LGPS.format(ns=lgp['metadata']['namespace'])}/{lgp['metadata']['name']}"
            self.http.patch(path, json={"metadata": {"finalizers": None}}, headers=merge)
        self.http.delete(CRD)
        waiting(lambda: self.http.get(CRD).status_code == 404, "the CustomResourceDefinition of LGPs is gone")

    def output(self, namespace: str, pod: str = "") -> str:
        """Return the logs of all containers of pods whose name starts with `pod`, deleted pods included."""
        logs = sorted((self.folder / "node" / "logs").glob(f"{namespace}_{pod}*/*/*.log"))
        return "\n".join(path.read_text(errors="replace") for path in logs)


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Run a cluster with a node, and a control plane outside of it, until the block ends."""
    control_plane = ControlPlane({"nobody": str(uuid4())}, infer_listener=True)
    with envtest.RealControlPlane() as server, node(server.kubeconfig, folder) as ingress, control_plane:
        api = ApiServer(
            name="real",
            kubeconfig=server.kubeconfig,
            url=server.url,
            token=server.token,
            verify=ssl.create_default_context(cafile=str(server.ca)),
            restart=server.restart_api_server,
        )
        with api.http() as http:
            yield Cluster(api, folder, ingress, control_plane, http)


@contextmanager
def node(kubeconfig: Path, folder: Path) -> Iterator[str]:
    """Run pods until the block ends; yields host:port of the ingress."""
    port, log = free_port(), folder / "kubelet.log"
    (folder / "images").mkdir()
    command = [sys.executable, "-m", "sandbox.kubelet", "--kubeconfig", str(kubeconfig), "--ingress-port", str(port)]
    command += ["--images", str(images(folder / "images")), "--state", str(folder / "node")]
    command += ["--backoff-seconds", "1", "--drain-seconds", "0.2"]
    kubelet = ServerProcess(
        "kubelet",
        command,
        log=log,
        ready=lambda: log.exists() and "ready: " in log.read_text(),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
    )
    try:
        kubelet.start()
        yield f"{LOOPBACK}:{port}"
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
    notes: str = ""
    """The notes of Helm's last install or upgrade."""

    def upgrade(self, *changes: Values) -> None:
        """Run `helm upgrade -i --wait` with the values and `changes`; later upgrades keep `changes`."""
        self.values = layered(self.values, *changes)
        with self._helm() as config:
            present = self.name in [found["name"] for found in config.list(all_states=True)]
            act = config.upgrade if present else config.install
            try:
                act(chart(), self.name, self.values, wait="watcher", timeout=HELM_SECONDS)
            except helm.HelmError as error:
                raise AssertionError(f"{error}\n{self.diagnostics()}") from error
            self.notes = config.get_all(self.name)["info"]["notes"]

    def uninstall(self) -> None:
        """Run `helm uninstall --wait --ignore-not-found`; wait until the pods are gone."""
        with self._helm() as config:
            config.uninstall(self.name, wait="watcher", timeout=HELM_SECONDS, ignore_not_found=True)
        eventually(lambda: not self.pods(), "the pods of the release are gone", PATIENCE)

    def manifests(self) -> list[Manifest]:
        with self._helm() as config:
            return [found for found in yaml.safe_load_all(config.status(self.name)["manifest"]) if found]

    def environment(self) -> dict[str, str]:
        """Return the environment of beat, which holds the settings of every process of the release."""
        found = self.manifests()
        beat = next(m for m in found if m["kind"] == "Deployment" and m["metadata"]["name"].endswith("-beat"))
        held = self.cluster.listed("/api/v1/namespaces/{ns}/secrets", self.namespace)
        secrets = own_secrets({**secret, "kind": "Secret"} for secret in held if secret.get("data"))
        return environment(beat["spec"]["template"]["spec"], secrets)

    def _redis(self) -> tuple[str, str]:
        """Return the URL of the release's Redis as this machine reaches it, and the prefix of its keys."""
        found = self.environment()
        parts = urlsplit(found["AGENTPLANE_REDIS_URL"])
        return f"redis://{LOOPBACK}:{parts.port}{parts.path}", found["AGENTPLANE_PREFIX"]

    @contextmanager
    def log(self) -> Iterator[RedisLog]:
        """Open the event log of the release until the block ends."""
        log = RedisLog.from_url(*self._redis())
        yield log
        log.close()

    def agentplane(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of `agentplane` that needs only the event log, as in a pod of the release."""
        url, prefix = self._redis()
        environment = {**os.environ, "AGENTPLANE_REDIS_URL": url, "AGENTPLANE_PREFIX": prefix, "COLUMNS": "200"}
        command = [sys.executable, "-m", "cli.main", *arguments]
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)

    def wait_until_idle(self, *namespaces: str) -> None:
        """Wait until no stream is dirty and every rollout in these namespaces is complete."""
        with self.log() as log:
            waiting(
                lambda: not log.dirty() and all(map(self.cluster.rolled_out, namespaces)),
                "no stream is dirty and every rollout is complete",
            )

    def pods(self) -> list[Manifest]:
        return self.cluster.pods(self.namespace, f"app.kubernetes.io/instance={self.name}")

    def diagnostics(self) -> str:
        """Return the end of the log of each pod, for the message of a failed installation."""
        words = [self.cluster.output(self.namespace, pod["metadata"]["name"])[-1500:] for pod in self.pods()]
        return "\n".join(words)

    def _helm(self) -> Any:
        return helm.Config(kubeconfig_path=self.cluster.api.kubeconfig, namespace=self.namespace)


class Witness:
    """Watches a namespace, and counts created and keeps deleted objects."""

    def __init__(self, cluster: Cluster, namespace: str, collections: Sequence[str] = WATCHED) -> None:
        self.added: Counter[str] = Counter()
        """How often an object was created, by `<collection> <name>`."""
        self._last: dict[str, Manifest] = {}
        self.gone: dict[str, Manifest] = {}
        """The last state of deleted objects, by `<collection> <name>`."""
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
        """Return the deleted pods whose name starts with `pod`."""
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
                        if event["type"] == "DELETED":
                            self.gone[name] = self._last.pop(name, event["object"])
                            continue
                        if kind == "pods" and event["object"]["metadata"].get("deletionGracePeriodSeconds") == 0:
                            continue  # the kubelet removes the pod: the event before has its grace period
                        self._last[name] = event["object"]
                        self.added[name] += event["type"] == "ADDED"


@dataclass(frozen=True)
class Ending:
    """How the container of a deleted pod ended."""

    code: int
    seconds: float
    """Seconds from the request to delete the pod to the end of the container."""
    granted: float
    """Grace period of the pod, seconds."""

    @classmethod
    def of(cls, pod: Manifest) -> Ending:
        (status,) = pod["status"]["containerStatuses"]
        over, meta = status["state"]["terminated"], pod["metadata"]
        finished, deadline = (datetime.fromisoformat(at) for at in (over["finishedAt"], meta["deletionTimestamp"]))
        since = (finished - deadline).total_seconds() + meta["deletionGracePeriodSeconds"]
        return cls(over["exitCode"], since, pod["spec"]["terminationGracePeriodSeconds"])


def example(name: str) -> Values:
    """Return the values of a file in k8s/examples."""
    return dict(yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8")))


def placed(name: str) -> tuple[str, str]:
    """Return name and namespace of the release in the install command at the head of an example file."""
    command = rf"#   helm upgrade -i (\S+) k8s/chart -n (\S+) --values k8s/examples/{name}\.yaml --wait\n"
    found = re.search(command, (EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
    assert found, f"{name}.yaml does not say how to install it"
    return found[1], found[2]


def stub(version: int) -> str:
    """Return the reference of a stand-in for an Agent Server; each version has its own digest."""
    return f"sandbox.local/stub@sha256:{version:064d}"


def ready(pod: Manifest) -> bool:
    conditions = pod["status"].get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def directly(pod: Manifest, path: str) -> httpx.Response:
    """GET from the pod of an Agent Server directly, without ingress or route."""
    return httpx.get(f"http://{LOOPBACK}:{local_port(pod, 8000)}{path}", timeout=30)


def waiting(condition: Callable[[], Any], what: str) -> float:
    """Wait until `condition` holds; return the seconds it took."""
    started = time.monotonic()
    eventually(condition, what, PATIENCE)
    return time.monotonic() - started
