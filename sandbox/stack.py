"""The whole system on one machine: its processes, their order of start, and their settings.

The infrastructure starts first: Redis, control plane, Kubernetes API, kubelet with the ingress. Then the stack creates
the objects that the chart would install: the namespace, the CustomResourceDefinition of LGPs, the shared Ingress. The
engine's own processes, from the Procfile, start last. All processes listen on loopback and free ports and keep their
state in one folder, so several stacks can run at the same time.

`Cluster` is the choice of Kubernetes: `embedded` (the sandbox's own API server), `envtest` (a real kube-apiserver with
kube-controller-manager) or `current` (the current context of the kubeconfig; the stack neither starts nor stops it).
"""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx
import yaml

from engine.names import SHARED_INGRESS_ANNOTATION
from sandbox.control_plane.rules import seeded_listener_id
from sandbox.envtest import load_crds
from sandbox.kubeconfig import read_kubeconfig
from sandbox.ports import LOOPBACK, free_port, release
from sandbox.processes import ServerProcess, ServerStartError

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "sandbox" / "apps"
CRD = ROOT / "k8s" / "crds" / "lgps.apps.langchain.ai.yaml"
PROCFILE = ROOT / "Procfile"

NAMESPACE = "agents"
COMPUTE_ID = "laptop"
SHARED_INGRESS = "agent-servers"
PREFIX = "sandbox"
"""Prefix of queues and keys in Redis."""


class Cluster(StrEnum):
    """The Kubernetes cluster of a stack."""

    EMBEDDED = "embedded"
    ENVTEST = "envtest"
    CURRENT = "current"


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of all processes, on loopback."""

    redis: int
    control_plane: int
    kubernetes: int
    ingress: int
    ingress_tls: int
    flower: int

    @classmethod
    def reserve(cls) -> Ports:
        """Reserve free ports. Raises OSError when there are none."""
        return cls(*(free_port() for _ in fields(cls)))

    def give_back(self) -> None:
        """Release the reserved ports."""
        for port in astuple(self):
            release(port)


@dataclass
class Stack:
    """One running system. Use `running()`."""

    cluster: Cluster
    directory: Path
    """Folder for state, logs and kubeconfig of all processes."""
    ports: Ports
    namespace: str = NAMESPACE
    workspace: str = "6e1a7a6e-0000-4000-8000-000000000001"
    api_key: str = field(default_factory=lambda: f"lsv2_sandbox_{secrets.token_hex(16)}", repr=False)
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Settings of the engine that override those of `environment`, by name without AGENTPLANE_."""
    kubelet: bool = True
    """Whether there is a kubelet. Without one, objects are applied but no pod runs."""
    images: Path = IMAGES
    """Folder with the images of the node."""
    certificate: Path | None = None
    """PEM file with key and certificate; if given, the ingress also serves HTTPS."""
    without: frozenset[str] = frozenset()
    """Names of Procfile processes that do not start."""
    infrastructure: list[ServerProcess] = field(default_factory=list)
    engine: dict[str, ServerProcess] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    """How often each engine process was restarted after it died."""
    _stopping: threading.Event = field(default_factory=threading.Event)
    _supervisor: threading.Thread | None = None

    # --- addresses and settings

    @property
    def control_plane_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.control_plane}"

    @property
    def hostname(self) -> str:
        return f"localhost:{self.ports.ingress}"

    @property
    def flower_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.flower}"

    @property
    def redis_url(self) -> str:
        return f"redis://{LOOPBACK}:{self.ports.redis}/0"

    @property
    def listener_id(self) -> str:
        return seeded_listener_id(self.workspace, COMPUTE_ID)

    @property
    def kubeconfig(self) -> Path:
        if self.cluster is Cluster.CURRENT:
            return Path(os.environ.get("KUBECONFIG", "~/.kube/config")).expanduser()
        return self.directory / "kubeconfig"

    def environment(self) -> dict[str, str]:
        """Return the environment of the engine's processes: settings, and PATH, HOME and the like."""
        settings = {
            "LANGSMITH_API_KEY": self.api_key,
            "WORKSPACE_ID": self.workspace,
            "LISTENER_ID": self.listener_id,
            "HOST_BACKEND_URL": self.control_plane_url,
            "SMITH_BACKEND_URL": f"{self.control_plane_url}/langsmith",
            "WATCH_NAMESPACES": self.namespace,
            "REDIS_URL": self.redis_url,
            "PREFIX": PREFIX,
            "POLL_SECONDS": "1",
            "SWEEP_SECONDS": "1",
            # Short, so that the lock of a killed worker soon expires.
            "LOCK_SECONDS": "3",
            "FAILURE_GRACE_SECONDS": "3",
            "INGRESS_HOSTNAME": self.hostname,
            "INGRESS_TLS_ENABLED": "false",
            "KUBECONFIG": str(self.kubeconfig),
            "LOG_FORMAT": "json",
            **self.overrides,
        }
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        # `python` and `celery` in the Procfile are those of this installation.
        inherited["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', '')}"
        return {
            **inherited,
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.directory),
            "FLOWER_PORT": str(self.ports.flower),
            "FLOWER_ADDRESS": LOOPBACK,
            **{f"AGENTPLANE_{name}": value for name, value in settings.items()},
        }

    # --- starting and stopping

    def start(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Start all processes in order and wait until they serve; call `progress` with the name of each.

        Raises ServerStartError.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "logs").mkdir(exist_ok=True)
        self.start_infrastructure(progress)
        self.start_engine(progress)

    def start_engine(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Start the engine's own processes, and restart those that die."""
        for name, command in procfile().items():
            if name not in self.without:
                self._start_engine(name, command)
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._supervisor.start()
        progress(", ".join(self.engine))

    def start_infrastructure(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Start Redis, control plane, Kubernetes and kubelet; create the objects that the chart would install."""
        (self.directory / "logs").mkdir(parents=True, exist_ok=True)
        waves = [[self._redis(), self._control_plane(), *self._kubernetes()]]
        waves += [[self._kubelet()]] if self.kubelet else []
        for wave in waves:
            for server in wave:
                self.infrastructure.append(server)
                server.launch()
            for server in wave:
                server.wait_ready(timeout=60)
                progress(server.name)
            if wave is waves[0]:
                prepare(self.kubeconfig, self.namespace, CRD)

    def stop(self) -> None:
        """End all processes, in reverse order."""
        self._stopping.set()
        if self._supervisor is not None:
            self._supervisor.join(5)
        for server in (*self.engine.values(), *reversed(self.infrastructure)):
            server.terminate()
        for server in (*self.engine.values(), *reversed(self.infrastructure)):
            server.stop()

    def stop_engine(self) -> None:
        """End the engine's processes for good; the infrastructure keeps running."""
        self._stopping.set()
        if self._supervisor is not None:
            self._supervisor.join(5)
        for server in self.engine.values():
            server.terminate()
        for server in self.engine.values():
            server.stop()

    def kill(self, name: str) -> int:
        """Send SIGKILL to an engine process and all its children; return its process id."""
        pid = self.engine[name].pid
        self.engine[name].kill_group()
        return pid

    def _supervise(self) -> None:
        """Restart engine processes that died, as a cluster does."""
        while not self._stopping.wait(0.2):
            for name, server in self.engine.items():
                if not server.running and not self._stopping.is_set():
                    self.restarts[name] = self.restarts.get(name, 0) + 1
                    server.stop()
                    server.launch()

    def _start_engine(self, name: str, command: str) -> None:
        environment = self.environment()
        words = shlex.split(os.path.expandvars(expand(command, environment)))
        self.engine[name] = ServerProcess(
            name, words, log=self.log(name), ready=lambda: True, env=environment, cwd=self.directory
        )
        self.engine[name].launch()

    # --- single servers

    def log(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"

    def _server(self, name: str, arguments: list[str], ready: Callable[[], bool]) -> ServerProcess:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", *arguments]
        return ServerProcess(name, command, log=self.log(name), ready=ready, env=environment, cwd=self.directory)

    def _redis(self) -> ServerProcess:
        arguments = ["sandbox.redis", "--port", str(self.ports.redis), "--dir", str(self.directory / "redis")]
        return self._server("redis", arguments, lambda: announced(self.log("redis")))

    def _control_plane(self) -> ServerProcess:
        arguments = [
            "sandbox.control_plane",
            *("--port", str(self.ports.control_plane)),
            *("--db", str(self.directory / "control-plane.sqlite")),
            *("--workspace", self.workspace),
            *("--api-key", self.api_key),
            *("--seed-listener", f"{self.workspace}:{COMPUTE_ID}:{self.namespace}"),
            "--infer-listener",
        ]
        return self._server("control plane", arguments, lambda: answers(f"{self.control_plane_url}/ok"))

    def _kubernetes(self) -> list[ServerProcess]:
        shared = ["--port", str(self.ports.kubernetes), "--kubeconfig", str(self.directory / "kubeconfig")]
        match self.cluster:
            case Cluster.EMBEDDED:
                arguments = ["sandbox.kubernetes", *shared, "--state", str(self.directory / "kubernetes.sqlite")]
            case Cluster.ENVTEST:
                arguments = ["sandbox.envtest", *shared, "--dir", str(self.directory / "envtest")]
            case Cluster.CURRENT:
                return []
        return [self._server("kubernetes", arguments, lambda: announced(self.log("kubernetes")))]

    def _kubelet(self) -> ServerProcess:
        arguments = [
            "sandbox.kubelet",
            *("--kubeconfig", str(self.kubeconfig)),
            *("--ingress-port", str(self.ports.ingress)),
            *("--images", str(self.images)),
            *("--state", str(self.directory / "kubelet")),
            *("--backoff-seconds", "1"),
        ]
        if self.certificate is not None:
            arguments += ["--ingress-tls-port", str(self.ports.ingress_tls)]
            arguments += ["--ingress-certificate", str(self.certificate)]
        return self._server("kubelet", arguments, lambda: announced(self.log("kubelet")))


@contextmanager
def running(
    cluster: Cluster,
    directory: Path,
    progress: Callable[[str], None] = lambda _: None,
    overrides: Mapping[str, str] | None = None,
) -> Iterator[Stack]:
    """Yield a running stack; stop it after the block. Raises ServerStartError."""
    stack = Stack(cluster=cluster, directory=directory, ports=Ports.reserve(), overrides=overrides or {})
    try:
        stack.start(progress)
        yield stack
    finally:
        stack.stop()
        stack.ports.give_back()


def procfile(path: Path = PROCFILE) -> dict[str, str]:
    """Return the commands of a Procfile by name."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return {name.strip(): command.strip() for name, command in (line.split(":", 1) for line in lines)}


def expand(command: str, environment: Mapping[str, str]) -> str:
    """Return a Procfile command with `$NAME` and `${NAME}` replaced by their values, as a shell does it."""
    for name in sorted(environment, key=len, reverse=True):
        command = command.replace(f"${{{name}}}", environment[name]).replace(f"${name}", environment[name])
    return command


def prepare(kubeconfig: Path, namespace: str, crd: Path) -> None:
    """Create the namespace, the CRD and the shared Ingress, as the chart does. Raises ServerStartError."""
    try:
        _prepare(kubeconfig, namespace, crd)
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise ServerStartError(
            f"cannot create namespace, CRD and Ingress in the cluster of kubeconfig {kubeconfig}: {error}"
        ) from error


def _prepare(kubeconfig: Path, namespace: str, crd: Path) -> None:
    ingress: dict[str, Any] = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {
            "name": SHARED_INGRESS,
            "namespace": namespace,
            "annotations": {SHARED_INGRESS_ANNOTATION: "true"},
        },
        "spec": {"defaultBackend": {"service": {"name": SHARED_INGRESS, "port": {"number": 80}}}},
    }
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        *load_crds(crd),
        ingress,
    ]
    with kubernetes_client(kubeconfig) as client:
        for manifest in objects:
            _apply(client, manifest)
        _wait_for_crd(client)


PATHS = {
    "Namespace": "/api/v1/namespaces/{name}",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}",
    "Ingress": "/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/{name}",
}


def _apply(client: httpx.Client, manifest: Mapping[str, Any]) -> None:
    metadata = manifest["metadata"]
    path = PATHS[manifest["kind"]].format(name=metadata["name"], namespace=metadata.get("namespace", ""))
    response = client.patch(
        path,
        params={"fieldManager": "agentplane-sandbox", "force": "true"},
        content=yaml.safe_dump(dict(manifest)),
        headers={"Content-Type": "application/apply-patch+yaml"},
    )
    if response.is_error:
        raise ServerStartError(f"the API server refused {manifest['kind']} {metadata['name']}: {response.text}")


def _wait_for_crd(client: httpx.Client, seconds: float = 20) -> None:
    """Wait until the API server serves LGPs."""
    deadline = time.monotonic() + seconds
    while client.get("/apis/apps.langchain.ai/v1alpha1/lgps").status_code != 200:
        if time.monotonic() > deadline:
            raise ServerStartError(f"the API server did not serve LGPs within {seconds:g} s after the CRD was applied")
        time.sleep(0.05)


def kubernetes_client(kubeconfig: Path) -> httpx.Client:
    """Return an HTTP client for the current context of a kubeconfig."""
    server, headers, verify = read_kubeconfig(kubeconfig)
    return httpx.Client(base_url=server, headers=headers, verify=verify, timeout=20)


def announced(log: Path) -> bool:
    """Whether a server has printed `ready` to its log."""
    return log.exists() and b"ready" in log.read_bytes()


def answers(url: str) -> bool:
    """Whether a GET of a URL is answered with 200."""
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.HTTPError:
        return False


def tool(name: str) -> str:
    """Return the path of a program of this Python environment (langgraph, honcho, celery)."""
    return str(Path(sys.executable).parent / name)


def run(command: list[str], *, env: Mapping[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and capture its output as text. Raises subprocess.TimeoutExpired after `seconds`."""
    return subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=seconds, check=False)
