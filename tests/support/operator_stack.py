"""A running operator against a real API: watcher, worker, and a stand-in for kubelets that marks pods ready."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.clock import SystemClock
from engine.digests import keyed_digest
from engine.errors import LockLost, LogUnavailable
from engine.kubernetes.cluster import KubernetesCluster
from engine.log.contract import EventLog
from engine.log.memory import MemoryLog
from engine.names import LGP_API_VERSION, LGP_KIND, SHARED_INGRESS_ANNOTATION, lgp_stream
from engine.operator.config import OperatorConfig, SharedIngress
from engine.operator.machine import OperatorMachine
from engine.operator.observation.observer import OperatorObserver
from engine.operator.state import OperatorState
from engine.ports import Manifest, ObjectKey, Ports
from engine.runtime.advance import advance
from engine.runtime.backoff import Backoff
from engine.runtime.fold import Fold
from sandbox import envtest
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually
from workers.watcher import Watcher

CRD = Path(__file__).resolve().parents[2] / "k8s" / "crds" / "lgps.apps.langchain.ai.yaml"
CONFIG = OperatorConfig(ingress=SharedIngress(hostname="agents.example.com"))
PATIENCE = 60.0
"""Seconds that a test waits for a result; a loaded machine is slow."""


def install_crd(api_server: ApiServer) -> None:
    """Make the API server serve LGPs by our definition; replaces a definition that another test left."""
    (crd,) = envtest.load_crds(CRD)
    with api_server.http() as http:
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        answer = http.post(path, json=crd)
        if answer.status_code == 409:
            at = f"{path}/{crd['metadata']['name']}"
            version = http.get(at).raise_for_status().json()["metadata"]["resourceVersion"]
            answer = http.put(at, json={**crd, "metadata": {**crd["metadata"], "resourceVersion": version}})
        assert answer.is_success, answer.text
        eventually(lambda: http.get(f"/apis/{LGP_API_VERSION}/lgps").status_code == 200, "LGPs are served")


class Requests:
    """Records the requests to the API server, by method and path, without watches."""

    def __init__(self, cluster: KubernetesCluster) -> None:
        self.made: list[tuple[str, str]] = []
        call = cluster._http.call

        def counted(method: str, path: str, *args: Any, **kwargs: Any) -> Any:
            self.made.append((method, path))
            return call(method, path, *args, **kwargs)

        cluster._http.call = counted  # type: ignore[method-assign]

    def writes(self) -> Counter[str]:
        return Counter(path for method, path in self.made if method != "GET")

    def reads(self) -> Counter[str]:
        return Counter(path for method, path in self.made if method == "GET")


class Operator:
    """The running operator of one namespace: watcher, workers and sweeps as threads. The default log is in memory."""

    def __init__(
        self,
        kubeconfig: Path,
        namespace: str,
        events: EventLog | None = None,
        workers: int = 2,
        config: OperatorConfig = CONFIG,
        api_key: str = "key",
    ) -> None:
        self.namespace = namespace
        self.events: EventLog = events or MemoryLog()
        self.cluster = KubernetesCluster.load(kubeconfig, watch_seconds=10)
        self.requests = Requests(self.cluster)
        self.watching = KubernetesCluster.load(kubeconfig, watch_seconds=10)
        self.machine = OperatorMachine(config)
        self.ports = Ports(
            control_plane=None,  # type: ignore[arg-type]
            cluster=self.cluster,
            health=None,  # type: ignore[arg-type]
            clock=SystemClock(),
            keep_lock=_no_lock,
            digest=keyed_digest(api_key),
            api_key="",
        )
        self._queue: queue.Queue[str | None] = queue.Queue()
        observer = OperatorObserver(self.machine, self.watching, self.ports.digest)
        self.watcher = Watcher([observer], [namespace], self.events, self.watching, self)
        self._threads = [threading.Thread(target=self.watcher.run, daemon=True)]
        self._threads += [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        self._threads += [threading.Thread(target=self._sweep, daemon=True)]
        self._done = threading.Event()

    def dispatch(self, stream: str) -> None:
        self._queue.put(stream)

    def __enter__(self) -> Operator:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.watcher.stop()
        for _worker in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(10)
        self.cluster.close()
        self.watching.close()

    def _work(self) -> None:
        while (stream := self._queue.get()) is not None:
            with contextlib.suppress(LogUnavailable):  # the stream stays dirty
                advance(stream, self.machine, self.events, self.ports, lock_ttl=30.0, backoff=Backoff(cap=2.0))

    def _sweep(self) -> None:
        while not self._done.wait(0.2):
            with contextlib.suppress(LogUnavailable):
                self.events.take_due(SystemClock().now())
                for stream in self.events.take_dirty(older_than=0.5):
                    self.dispatch(stream)

    # queries and actions of tests

    def stream(self, name: str) -> str:
        return lgp_stream(self.namespace, name)

    def state(self, name: str) -> OperatorState:
        fold = Fold(self.machine, self.events, self.stream(name))
        fold.catch_up()
        return fold.state

    def types(self, name: str) -> list[str]:
        return [record.type for record in self.events.read(self.stream(name))]

    def drifts(self, name: str) -> list[tuple[str, str]]:
        found = [record.data for record in self.events.read(self.stream(name)) if record.type == "DriftDetected"]
        return [(d["key"]["kind"], d["change"]) for d in found]

    def key(self, kind: str, name: str, api_version: str = "apps/v1") -> ObjectKey:
        return ObjectKey(api_version=api_version, kind=kind, namespace=self.namespace, name=name)

    def lgp(self, name: str) -> Manifest:
        return self.cluster.get(self.key(LGP_KIND, name, LGP_API_VERSION)) or {}

    def condition(self, name: str, kind: str) -> Manifest:
        conditions = self.lgp(name).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {})

    def available(self, name: str, generation: int = 1) -> bool:
        observed = self.lgp(name).get("status", {}).get("observedGeneration")
        return observed == generation and self.condition(name, "Available").get("status") == "True"

    def uid(self, key: ObjectKey) -> str | None:
        found = self.cluster.get(key)
        return found["metadata"]["uid"] if found is not None else None

    def put(self, manifest: Manifest) -> Manifest:
        """Write an object as a person would."""
        return self.watching.apply(manifest, manager="somebody").manifest

    def quiet(self, name: str, seconds: float = 2.0) -> None:
        """Wait until nothing has been appended to the stream of an LGP for `seconds`."""
        version, since = -1, time.monotonic()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() - since < seconds:
            assert time.monotonic() < deadline, f"{name} never comes to rest: {self.types(name)[-10:]}"
            now = self.events.version(self.stream(name))
            if now != version:
                version, since = now, time.monotonic()
            time.sleep(0.1)


def lgp_manifest(namespace: str, name: str, revision: str = "r1", **spec: Any) -> Manifest:
    server = {
        "image": f"registry.example/hello:{revision}",
        "replicas": 1,
        "env": [
            {"name": "LANGSMITH_HOST_REVISION_ID", "value": revision},
            {"name": "TOKEN", "value": "hunter2-hunter2"},
        ],
    }
    return {
        "apiVersion": LGP_API_VERSION,
        "kind": LGP_KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "serverSpec": {**server, **spec.pop("serverSpec", {})},
            "database": {"enabled": True, "secretName": f"{name}-db"},
            "redis": {"enabled": True},
            "ingress": {"enabled": True},
            **spec,
        },
    }


def shared_ingress(namespace: str) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "shared", "namespace": namespace, "annotations": {SHARED_INGRESS_ANNOTATION: "true"}},
        "spec": {"rules": [{"host": "agents.example.com"}]},
    }


class Kubelet:
    """Marks every pod of a namespace ready; a pod whose image contains `missing` reports ErrImagePull instead."""

    def __init__(self, api_server: ApiServer, namespace: str) -> None:
        self._http = api_server.http()
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Kubelet:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(30)
        self._http.close()

    def _run(self) -> None:
        while not self._done.wait(0.1):
            with contextlib.suppress(Exception):  # the API server may restart meanwhile
                for pod in self._http.get(self._path).json()["items"]:
                    if "conditions" not in pod["status"]:
                        self._report(pod)

    def _report(self, pod: Manifest) -> None:
        name = pod["metadata"]["name"]
        containers = pod["spec"]["containers"]
        missing = any("missing" in container["image"] for container in containers)
        pulling = {"waiting": {"reason": "ErrImagePull", "message": "image not found"}}
        running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        statuses = [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": not missing,
                "restartCount": 0,
                "state": pulling if missing else running,
            }
            for container in containers
        ]
        ready = {
            "type": "Ready",
            "status": "False" if missing else "True",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        status = {"phase": "Pending" if missing else "Running", "conditions": [ready], "containerStatuses": statuses}
        merge = {"Content-Type": "application/merge-patch+json"}
        self._http.patch(f"{self._path}/{name}/status", json={"status": status}, headers=merge).raise_for_status()


def _no_lock() -> None:
    raise LockLost("outside of advance")


@contextlib.contextmanager
def at_work(api_server: ApiServer, namespace: str, **options: Any) -> Iterator[Operator]:
    """Run an operator and a `Kubelet`, in a namespace with a shared Ingress, until the block ends."""
    install_crd(api_server)
    with Operator(api_server.kubeconfig, namespace, **options) as operator, Kubelet(api_server, namespace):
        if operator.cluster.get(operator.key("Ingress", "shared", "networking.k8s.io/v1")) is None:
            operator.put(shared_ingress(namespace))
        yield operator


__all__ = ["Kubelet", "Operator", "at_work", "install_crd", "lgp_manifest", "shared_ingress"]
