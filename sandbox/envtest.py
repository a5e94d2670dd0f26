"""A real Kubernetes control plane without nodes: etcd, kube-apiserver, kube-controller-manager on loopback.

It is the reference for the sandbox: the conformance suite must pass here first, and `CLUSTER=envtest` runs the whole
demo on it. The binaries are in the folder KUBEBUILDER_ASSETS, or /usr/local/kubebuilder/bin.

Decisions:

- Certificates: kube-apiserver creates its own serving certificate (`--cert-dir`). The chain file also has the
  certificate authority with which clients verify it. Clients authenticate with a bearer token (`--token-auth-file`) in
  `system:masters`. RBAC is on and anonymous access off, so that a missing token is answered 401 like a wrong one. The
  service-account key is an EC key whose encoding is a constant frame around 32 random bytes; this needs neither the
  openssl command nor the cryptography package.
- The ServiceAccount admission plugin is off: it makes every Pod wait for the `default` account of its namespace, and
  adds a token volume that the sandbox's kubelet cannot mount. Without it, ReplicaSets create Pods at once. The
  controller `serviceaccount` still creates the account, because people expect it.
- Controllers: those that make sense without nodes. `podgc` and `nodelifecycle` are off, because they delete Pods of
  nodes that do not exist, and so is `endpoint`, because the sandbox's ingress reads Pods itself.
- etcd does not fsync: the data is temporary, and start-up and writes are several times faster.
"""

from __future__ import annotations

import argparse
import base64
import concurrent.futures
import contextlib
import http.client
import os
import re
import secrets
import ssl
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from sandbox.ports import LOOPBACK, free_port, release
from sandbox.processes import ServerProcess, until_signal

DEFAULT_ASSETS = "/usr/local/kubebuilder/bin"
BINARIES = ("etcd", "kube-apiserver", "kube-controller-manager")
CONTROLLERS = (
    "deployment",
    "disruption",
    "garbagecollector",
    "job",
    "namespace",
    "pvc-protection",
    "replicaset",
    "serviceaccount",
    "statefulset",
)
DISABLED_ADMISSION = ("ServiceAccount",)
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)


class BinariesNotFoundError(RuntimeError):
    """The binaries of the real API server are not installed; the message says which are missing, and where."""


def assets() -> Path:
    """Return the folder in which the binaries are expected."""
    return Path(os.environ.get("KUBEBUILDER_ASSETS") or DEFAULT_ASSETS)


def available() -> str | None:
    """Return None if the binaries are installed, else which are missing and how to set their folder."""
    missing = [name for name in BINARIES if not os.access(assets() / name, os.X_OK)]
    if missing:
        return f"no {', '.join(missing)} in {assets()} (set KUBEBUILDER_ASSETS to the folder that has them)"
    return None


class RealControlPlane:
    """etcd, kube-apiserver and kube-controller-manager; `start` and `close` start and end them, and so does `with`.

    Clients need `url`, `token` and `ca` (PEM file), or the file `kubeconfig`, which has all three. Data and logs are in
    `directory`, by default a temporary folder that `close` deletes. Raises BinariesNotFoundError.
    """

    def __init__(
        self,
        directory: Path | None = None,
        port: int | None = None,
        kubeconfig: Path | None = None,
        token: str | None = None,
        admission_plugins: Sequence[str] = (),
        controllers: Sequence[str] = CONTROLLERS,
    ) -> None:
        """`admission_plugins` are additional plugins; `controllers` are all controllers that the manager runs."""
        if reason := available():
            raise BinariesNotFoundError(f"real API server: {reason}")
        self._cleanup = contextlib.ExitStack()
        if directory is None:
            temporary = tempfile.TemporaryDirectory(prefix="agentplane-envtest-")
            directory = Path(self._cleanup.enter_context(temporary))
        self.directory = directory.absolute()
        self.port = self._own_port() if port is None else port
        self.url = f"https://{LOOPBACK}:{self.port}"
        self.token = token or secrets.token_urlsafe(24)
        self.kubeconfig = (kubeconfig or self.directory / "kubeconfig").absolute()
        self.ca = self.directory / "ca.crt"
        self._admission_plugins = tuple(admission_plugins)
        self._controllers = tuple(controllers)
        self._client_port, self._peer_port, self._manager_port = (self._own_port() for _ in range(3))
        self._etcd_url = f"http://{LOOPBACK}:{self._client_port}"
        self.etcd = self._server("etcd", self._etcd_flags(), self._etcd_ready)
        self.api_server = self._server("kube-apiserver", self._api_server_flags(), self._api_server_ready)
        self.manager = self._server("kube-controller-manager", self._manager_flags(), self._manager_ready)

    def start(self) -> RealControlPlane:
        """Start all three and wait until the API answers and the controllers run (3 to 5 s)."""
        self.directory.mkdir(parents=True, exist_ok=True)
        _write_private(self.directory / "tokens.csv", f'{self.token},admin,admin,"system:masters"\n')
        key = self.directory / "service-account.key"
        if not key.exists():
            _write_private(key, service_account_key())
        self.etcd.launch()
        try:
            self.api_server.launch()  # kube-apiserver itself waits for etcd
            self.etcd.wait_ready()
            self.api_server.wait_ready()
            _write_private(self.kubeconfig, yaml.safe_dump(self._kubeconfig()))
            self.manager.start()
        except BaseException:
            self.stop()
            raise
        return self

    def restart_api_server(self) -> None:
        """Kill kube-apiserver, which ends all watches, and start it on the same port with the same data (2 s)."""
        self.api_server.kill()  # after SIGTERM it would wait a minute for its watches
        self.api_server.start()

    def stop(self) -> None:
        """End all three, clients first. Does nothing if they do not run."""
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            # Both are stopped at the same time: the API server waits for its watches, and the manager has many.
            list(pool.map(lambda server: server.stop(timeout=3), (self.manager, self.api_server)))
        self.etcd.stop()

    def close(self) -> None:
        """Stop all three, release the ports and delete the temporary folder."""
        self.stop()
        self._cleanup.close()

    def __enter__(self) -> RealControlPlane:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _own_port(self) -> int:
        port = free_port()
        self._cleanup.callback(release, port)
        return port

    def _server(self, name: str, flags: Mapping[str, object], ready: Callable[[], bool]) -> ServerProcess:
        command = [str(assets() / name), *(f"--{flag}={value}" for flag, value in flags.items())]
        # etcd refuses to start when a flag is also set by an ETCD_… variable.
        env = {key: value for key, value in os.environ.items() if not key.startswith("ETCD_")}
        return ServerProcess(name, command, log=self.directory / f"{name}.log", ready=ready, env=env)

    def _etcd_flags(self) -> dict[str, object]:
        peer = f"http://{LOOPBACK}:{self._peer_port}"
        return {
            "name": "envtest",
            "data-dir": self.directory / "etcd",
            "listen-client-urls": self._etcd_url,
            "advertise-client-urls": self._etcd_url,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"envtest={peer}",
            "unsafe-no-fsync": "true",
            "log-level": "warn",
        }

    def _api_server_flags(self) -> dict[str, object]:
        key = self.directory / "service-account.key"
        return {
            "etcd-servers": self._etcd_url,
            "cert-dir": self.directory / "certificates",
            "bind-address": LOOPBACK,
            "advertise-address": LOOPBACK,
            "secure-port": self.port,
            "token-auth-file": self.directory / "tokens.csv",
            "anonymous-auth": "false",
            "authorization-mode": "RBAC",
            "service-account-issuer": self.url,
            "service-account-key-file": key,
            "service-account-signing-key-file": key,
            "service-cluster-ip-range": "10.0.0.0/20",
            "disable-admission-plugins": ",".join(DISABLED_ADMISSION),
            **({"enable-admission-plugins": ",".join(self._admission_plugins)} if self._admission_plugins else {}),
            "allow-privileged": "true",
            "profiling": "false",
        }

    def _manager_flags(self) -> dict[str, object]:
        return {
            "kubeconfig": self.kubeconfig,
            "controllers": ",".join(self._controllers),
            "service-account-private-key-file": self.directory / "service-account.key",
            "cert-dir": self.directory / "certificates-manager",
            "bind-address": LOOPBACK,
            "secure-port": self._manager_port,
            "leader-elect": "false",
            "kube-api-qps": 500,
            "kube-api-burst": 1000,
            "profiling": "false",
        }

    def _etcd_ready(self) -> bool:
        return _answers(f"{self._etcd_url}/health")

    def _api_server_ready(self) -> bool:
        chain = self.directory / "certificates" / "apiserver.crt"
        if not chain.exists():
            return False
        found = CERTIFICATE.findall(chain.read_text())
        if len(found) < 2:
            return False  # the file is incomplete: it is being written
        self.ca.write_text(found[-1])
        # The flow-control bootstrap hook updates its objects for some seconds more; requests work meanwhile.
        return _answers(f"{self.url}/readyz", self.ca, self.token)

    def _manager_ready(self) -> bool:
        # The manager answers as soon as its HTTP server runs. The last controllers start a moment later; as they are
        # level-based, they miss nothing.
        return _answers(f"https://{LOOPBACK}:{self._manager_port}/healthz", insecure=True)

    def _kubeconfig(self) -> dict[str, Any]:
        authority = base64.b64encode(self.ca.read_bytes()).decode()
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "envtest", "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [
                {
                    "name": "envtest",
                    "context": {"cluster": "envtest", "user": "admin", "namespace": "default"},
                }
            ],
            "current-context": "envtest",
        }


def service_account_key() -> str:
    """Return a new P-256 private key in PEM (RFC 5915), without the optional public key."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    scalar = (secrets.randbelow(order - 1) + 1).to_bytes(32, "big")
    frame = bytes.fromhex("30310201010420"), bytes.fromhex("a00a06082a8648ce3d030107")
    text = base64.encodebytes(frame[0] + scalar + frame[1]).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{text}-----END EC PRIVATE KEY-----\n"


def load_crds(*paths: Path) -> list[dict[str, Any]]:
    """Return the CustomResourceDefinitions in YAML files, or in folders of YAML files, without their status."""
    files = [file for path in paths for file in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]
    documents = [item for file in files for item in yaml.safe_load_all(file.read_text()) if item]
    definitions = [item for item in documents if item["kind"] == "CustomResourceDefinition"]
    return [{key: value for key, value in item.items() if key != "status"} for item in definitions]


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _answers(url: str, ca: Path | None = None, token: str | None = None, insecure: bool = False) -> bool:
    context: ssl.SSLContext | None = None
    if insecure:
        context = ssl._create_unverified_context()
    elif ca is not None:
        context = ssl.create_default_context(cafile=str(ca))
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run in the foreground until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.envtest", description="A real Kubernetes control plane on 127.0.0.1."
    )
    parser.add_argument("--port", type=int, required=True, help="port of kube-apiserver on 127.0.0.1")
    parser.add_argument("--dir", type=Path, required=True, help="folder for data, certificates and logs")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="kubeconfig file to write")
    parser.add_argument("--token", help="bearer token of the administrator (default: a random one)")
    options = parser.parse_args(arguments)
    try:
        cluster = RealControlPlane(options.dir, options.port, options.kubeconfig, options.token)
    except BinariesNotFoundError as problem:
        print(problem, file=sys.stderr)
        return 1
    try:
        cluster.start()
        print(f"ready: {cluster.url} (kubeconfig {cluster.kubeconfig})", file=sys.stderr, flush=True)
        return until_signal([cluster.etcd, cluster.api_server, cluster.manager])
    finally:
        cluster.close()


if __name__ == "__main__":
    sys.exit(main())
