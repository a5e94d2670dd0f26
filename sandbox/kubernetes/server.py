"""The API server as a process: `serve` runs it in this process, `KubernetesServer` starts and stops another one.

Tests use `KubernetesServer`:

    with KubernetesServer(folder) as cluster:
        cluster.url, cluster.kubeconfig, cluster.token
        cluster.restart()          # same port, same objects, same resourceVersions
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import secrets
import signal
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import httpx
import uvicorn
import yaml

from sandbox.kubernetes.app import App
from sandbox.kubernetes.certificates import certificate_files
from sandbox.kubernetes.collector import Collector
from sandbox.kubernetes.controllers import run as run_controllers
from sandbox.kubernetes.registry import Registry
from sandbox.kubernetes.store import Store
from sandbox.ports import free_port, release
from sandbox.processes import ServerProcess

log = logging.getLogger(__name__)


def write_kubeconfig(path: Path, url: str, token: str, authority: bytes = b"") -> None:
    """Write a kubeconfig with one context, `sandbox`; only its owner may read it. `authority`: CA certificate, PEM."""
    cluster: dict[str, str] = {"server": url}
    if authority:
        cluster["certificate-authority-data"] = base64.b64encode(authority).decode()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sandbox", "cluster": cluster}],
        "users": [{"name": "sandbox", "user": {"token": token} if token else {}}],
        "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": "sandbox", "namespace": "default"}}],
        "current-context": "sandbox",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        yaml.safe_dump(config, file, sort_keys=False)
    draft.replace(path)


def known_token(kubeconfig: Path) -> str:
    """Return the token in an earlier kubeconfig, so that clients survive a restart; "" when there is none."""
    try:
        found: str = yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]["token"]
    except (OSError, KeyError, IndexError, TypeError, yaml.YAMLError):
        return ""
    return found


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: `serve` closes the watches and the store itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    port: int, state: Path, kubeconfig: Path, token: str, tls: bool = True, controllers: bool = True
) -> None:
    """Serve on 127.0.0.1 until SIGTERM or SIGINT; print `ready` on stderr once the server accepts requests."""
    state.parent.mkdir(parents=True, exist_ok=True)
    certificate, key = certificate_files(state) if tls else (None, None)
    address = f"127.0.0.1:{port}"
    write_kubeconfig(
        kubeconfig, f"{'https' if tls else 'http'}://{address}", token, certificate.read_bytes() if certificate else b""
    )
    store = Store(state)
    registry = Registry(store)
    app = App(registry, token, address)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=1 << 20,
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        app.stopping.set()
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    background = [asyncio.create_task(Collector(registry).run(), name="garbage collector")]
    if controllers:
        background.append(asyncio.create_task(run_controllers(registry), name="controllers"))

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled():  # without its loops, the server would seem healthy but delete and roll out nothing
            log.critical("the %s ended; stopping", task.get_name(), exc_info=task.exception())
            stop()

    for task in background:
        task.add_done_callback(ended)
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        print(f"ready: Kubernetes API on {address}, kubeconfig {kubeconfig}", file=sys.stderr, flush=True)
    try:
        await serving
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        store.close()


class KubernetesServer:
    """An API server process with its state in `folder`; as a context manager, it starts and ends the process."""

    def __init__(
        self, folder: Path, *, port: int | None = None, token: str = "", tls: bool = True, controllers: bool = True
    ) -> None:
        self._own_port = port is None
        self.port = free_port() if port is None else port
        self.token = token or secrets.token_urlsafe(16)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.state = folder / "kubernetes.db"
        self.kubeconfig = folder / "kubeconfig"
        self.log = folder / "kubernetes.log"
        flags = ([] if tls else ["--no-tls"]) + ([] if controllers else ["--no-controllers"])
        self.process = ServerProcess(
            "sandbox.kubernetes",
            [
                *(sys.executable, "-m", "sandbox.kubernetes", "--port", str(self.port), "--state", str(self.state)),
                *("--kubeconfig", str(self.kubeconfig), *flags),
            ],
            log=self.log,
            ready=self._ready,
            env={**os.environ, "SANDBOX_KUBERNETES_TOKEN": self.token},
        )

    def verify(self) -> ssl.SSLContext | bool:
        """Return the `verify` argument with which httpx trusts the server."""
        certificate = self.state.with_name(self.state.name + ".crt")
        return ssl.create_default_context(cafile=str(certificate)) if self.url.startswith("https") else True

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", verify=self.verify(), timeout=2).text == "ok"
        except (httpx.HTTPError, OSError):
            return False

    def client(self, **options: object) -> httpx.Client:
        """Return an HTTP client with the base URL and the token."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.url, verify=self.verify(), headers=headers, timeout=30)

    def start(self) -> KubernetesServer:
        self.process.start()
        return self

    def stop(self) -> None:
        self.process.stop()

    def restart(self, kill: bool = False) -> None:
        """End the process (with SIGKILL if `kill`) and start it again with the same state."""
        if kill:
            self.process.kill()
        self.process.stop()
        self.process.start()

    def __enter__(self) -> KubernetesServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._own_port:
            release(self.port)
