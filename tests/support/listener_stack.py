"""A running listener against a real control plane of the sandbox and an API server."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any

import httpx

from engine import bootstrap
from engine.dataplane.events import DATA_PLANE_EVENTS
from engine.listener.state import Phase
from engine.log.memory import MemoryLog
from engine.names import LGP_API_VERSION, LGP_KIND, data_plane_stream, deployment_stream, lgp_name
from engine.ports import Health, Manifest, ObjectKey
from engine.settings import Settings
from sandbox.control_plane.server import ControlPlane, seed
from tests.support.api_servers import ApiServer
from tests.support.operator_stack import install_crd
from workers.watcher import watch

KEY = "lsv2_pt_0123456789abcdef_0123456789"

WORKSPACE = "11111111-2222-4333-8444-555555555555"

SECRET = "sk-not-to-be-logged"

IMAGE = "registry.example/hello"


class Healthy:
    """Every Agent Server answers."""

    def check(self, url: str) -> Health:
        return Health(ok=True, detail="200 {}")


class Listener:
    """The running listener: polls, workers, watcher and sweeps are threads; the log is in memory."""

    def __init__(
        self, plane: ControlPlane, listener_id: str, api_server: ApiServer, namespace: str, **given: Any
    ) -> None:
        self.namespace = namespace
        self.settings = Settings.load(
            **{
                "langsmith_api_key": KEY,
                "workspace_id": WORKSPACE,
                "listener_id": listener_id,
                "watch_namespaces": (namespace,),
                "operator_enabled": False,
                "host_backend_url": plane.url,
                "smith_backend_url": f"{plane.url}/langsmith",
                "ingress_hostname": "agents.example.com",
                "kubeconfig": api_server.kubeconfig,
                "watch_seconds": 10,
                **given,
            }
        )
        self.events = MemoryLog()
        self.engine = bootstrap.build(self.settings, self, events=self.events, health=Healthy())
        self.engine.configurations.record()
        self.http = httpx.Client(base_url=plane.url, headers=plane.headers(), timeout=30)
        self.watcher = watch(self.engine)
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=target, daemon=True)
            for target in (self.watcher.run, self._poll, self._sweep, self._work, self._work)
        ]

    def __enter__(self) -> Listener:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.watcher.stop()
        for _thread in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(15)
        self.engine.close()
        self.http.close()

    def dispatch(self, stream: str) -> None:
        self._queue.put(stream)

    def _poll(self) -> None:
        while not self._done.wait(0.2):
            # Skip the pause after a failed poll, so that tests are quick.
            self.engine.poller.memory.failures = 0
            self.engine.poll()

    def _work(self) -> None:
        while (stream := self._queue.get()) is not None:
            self.engine.advance(stream)

    def _sweep(self) -> None:
        while not self._done.wait(0.2):
            for stream in (*self.events.take_due(self.engine.ports.clock.now()), *self.events.take_dirty(1.0)):
                self.dispatch(stream)

    # --- actions of users

    def deploy(self, name: str = "hello", version: str = "v1", **changes: Any) -> str:
        """Create a deployment; return its id."""
        placement = {
            "listener_id": self.engine.settings.stream_name,
            "listener_config": {"k8s_namespace": self.namespace},
            "resource_spec": {"cpu": 0.5, "memory_mb": 512},
        }
        body = {
            "name": name,
            "source": "external_docker",
            "source_config": placement,
            "source_revision_config": {"image_uri": f"{IMAGE}:{version}"},
            "secrets": [{"name": "OPENAI_API_KEY", "value": SECRET}],
            **changes,
        }
        answer = self.http.post("/v2/deployments", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def update(self, deployment_id: str, version: str) -> str:
        """Request a revision with another image; return the id of the revision."""
        body = {"source_revision_config": {"image_uri": f"{IMAGE}:{version}"}}
        answer = self.http.patch(f"/v2/deployments/{deployment_id}", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["latest_revision_id"])

    def operator_says(self, deployment_id: str, status: dict[str, Any]) -> None:
        """Write the LGP's status as another operator does."""
        lgp = self.lgp(deployment_id)
        self.engine.ports.cluster.apply_status(
            {
                "apiVersion": LGP_API_VERSION,
                "kind": LGP_KIND,
                "metadata": {"name": lgp["metadata"]["name"], "namespace": self.namespace},
                "status": status,
            },
            manager="another-operator",
        )

    # --- observations

    def shown(self, deployment_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/v2/deployments/{deployment_id}").json()
        return found

    def revision_status(self, deployment_id: str, revision_id: str) -> str:
        answer = self.http.get(f"/v2/deployments/{deployment_id}/revisions/{revision_id}")
        return str(answer.json()["status"])

    def state(self, deployment_id: str) -> Any:
        machine = self.engine.machine_of("deployment/")
        state = machine.initial
        for record in self.events.read(deployment_stream(deployment_id)):
            state = machine.evolve(state, machine.events.decode(record), record.at)
        return state

    def types(self, deployment_id: str) -> list[str]:
        return [record.type for record in self.events.read(deployment_stream(deployment_id))]

    def engine_events(self) -> list[Any]:
        return [DATA_PLANE_EVENTS.decode(r) for r in self.events.read(data_plane_stream(self.settings.stream_name))]

    def key(self, deployment_id: str, name: str = "hello") -> ObjectKey:
        lgp = lgp_name(name, deployment_id)
        return ObjectKey(api_version=LGP_API_VERSION, kind=LGP_KIND, namespace=self.namespace, name=lgp)

    def lgp(self, deployment_id: str) -> Manifest:
        return self.engine.ports.cluster.get(self.key(deployment_id)) or {}

    def image(self, deployment_id: str) -> str:
        server: dict[str, str] = self.lgp(deployment_id).get("spec", {}).get("serverSpec", {})
        return server.get("image", "")

    def secrets(self) -> list[Manifest]:
        return self.engine.ports.cluster.list(
            "v1", "Secret", self.namespace, labels="app.kubernetes.io/managed-by=agentplane"
        )

    def phase(self, deployment_id: str) -> Phase | None:
        revision = self.state(deployment_id).revision
        return revision.phase if revision is not None else None


@contextlib.contextmanager
def at_work(plane: ControlPlane, api_server: ApiServer, namespace: str, **given: Any) -> Iterator[Listener]:
    install_crd(api_server)
    listener_id = seed(plane.store, WORKSPACE, namespace, [namespace])["id"]
    with Listener(plane, listener_id, api_server, namespace, **given) as listener:
        yield listener
