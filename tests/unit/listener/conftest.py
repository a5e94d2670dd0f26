"""Fakes that fit on a screen, and a deployment of the control plane to play with."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.errors import ControlPlaneNotFound
from engine.listener.config import ListenerConfig
from engine.listener.machine import ListenerMachine
from engine.log.memory import MemoryLog
from engine.loop import Advanced, advance
from engine.names import deployment_stream
from engine.ports import Applied, Health, Manifest, ObjectKey, Ports
from engine.retry import Backoff

LISTENER = "11111111-1111-4111-8111-111111111111"
WORKSPACE = "22222222-2222-4222-8222-222222222222"
DEPLOYMENT = "33333333-3333-4333-8333-333333333333"


def keyed(value: bytes) -> str:
    return hashlib.sha256(b"test key" + value).hexdigest()[:32]


def resource(revision: str = "r1", **changes: Any) -> dict[str, Any]:
    """A deployment as the control plane lists it."""
    base: dict[str, Any] = {
        "id": DEPLOYMENT,
        "name": "hello",
        "tenant_id": WORKSPACE,
        "source": "external_docker",
        "status": "AWAITING_DATABASE",
        "latest_revision_id": revision,
        "active_revision_id": None,
        "updated_at": "2026-01-01T00:00:00Z",
        "source_config": {
            "listener_id": LISTENER,
            "listener_config": {"k8s_namespace": "agents"},
            "resource_spec": {},
        },
        "source_revision_config": {"image_uri": f"registry.example/hello:{revision}"},
        "secrets": [{"name": "OPENAI_API_KEY", "value": "sk-first"}],
        "secret_references": None,
    }
    return {**base, **changes}


@dataclass
class FakeClock:
    time: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def pass_seconds(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@dataclass
class FakeControlPlane:
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    """Left out of lists, as offset paging may."""
    reports: list[tuple[str, str]] = field(default_factory=list)
    listeners: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {LISTENER: {"compute_config": {"k8s_namespaces": ["agents"]}}}
    )
    versions: list[str] = field(default_factory=list)
    error: Exception | None = None
    report_error: Exception | None = None

    def deployments(self) -> Iterator[Sequence[dict[str, Any]]]:
        if self.error:
            raise self.error
        yield [copy.deepcopy(r) for r in self.resources.values() if r["id"] not in self.hidden]

    def deployment(self, deployment_id: str) -> dict[str, Any]:
        if self.error:
            raise self.error
        if deployment_id not in self.resources:
            raise ControlPlaneNotFound(f"deployment {deployment_id} does not exist")
        return copy.deepcopy(self.resources[deployment_id])

    def listener(self, listener_id: str) -> dict[str, Any]:
        if listener_id not in self.listeners:
            raise ControlPlaneNotFound(listener_id)
        return self.listeners[listener_id]

    def publish_version(self, listener_id: str, version: str) -> None:
        self.versions.append(version)

    def report_revision(self, deployment_id: str, revision_id: str, status: str, **_: Any) -> None:
        if self.report_error:
            raise self.report_error
        self.reports.append((revision_id, status))

    def report_deployment(self, deployment_id: str, status: str, **_: Any) -> None:
        if self.report_error:
            raise self.report_error
        self.reports.append((deployment_id, status))


@dataclass
class FakeCluster:
    """Server-side apply of whole objects, uid and generation kept."""

    objects: dict[ObjectKey, Manifest] = field(default_factory=dict)
    writes: int = 0
    refuse: Exception | None = None
    on_write: Callable[[], None] = lambda: None

    def get(self, key: ObjectKey) -> Manifest | None:
        return copy.deepcopy(self.objects.get(key))

    def list(self, api_version: str, kind: str, namespace: str, *, labels: str = "") -> list[Manifest]:
        wanted = dict(pair.split("=") for pair in labels.split(",") if pair)
        return [
            copy.deepcopy(o)
            for k, o in self.objects.items()
            if k.kind == kind and wanted.items() <= o["metadata"].get("labels", {}).items()
        ]

    def apply(self, manifest: Manifest, *, manager: str, before_write: Any = None) -> Applied:
        if self.refuse:
            raise self.refuse
        key = key_of(manifest)
        old = self.objects.get(key)
        if before_write:
            before_write()
        self.on_write()
        self.writes += 1
        new = copy.deepcopy(manifest)
        spec = new.get("spec", new.get("stringData"))
        generation = 1 if old is None else old["metadata"]["generation"]
        if old is not None and old.get("spec", old.get("stringData")) != spec:
            generation += 1
        uid = old["metadata"]["uid"] if old else f"uid-{self.writes}"
        owned = {"manager": manager, "operation": "Apply", "fieldsV1": {"f:spec": sorted(spec or {})}}
        new["metadata"] |= {"uid": uid, "generation": generation, "managedFields": [owned]}
        if old and "status" in old:
            new["status"] = old["status"]
        self.objects[key] = new
        return Applied(manifest=copy.deepcopy(new), created=old is None, changed=True)

    def delete(self, key: ObjectKey, *, propagation: str = "Background", uid: str | None = None) -> bool:
        return self.objects.pop(key, None) is not None

    def delete_all(self, api_version: str, kind: str, namespace: str, *, labels: str) -> int:
        found = [key_of(o) for o in self.list(api_version, kind, namespace, labels=labels)]
        for key in found:
            del self.objects[key]
        return len(found)


def key_of(manifest: Manifest) -> ObjectKey:
    metadata = manifest["metadata"]
    return ObjectKey(
        api_version=manifest["apiVersion"],
        kind=manifest["kind"],
        namespace=metadata["namespace"],
        name=metadata["name"],
    )


@dataclass
class FakeHealth:
    answers: list[bool] = field(default_factory=list)
    """Consumed first to last; healthy once they run out."""
    urls: list[str] = field(default_factory=list)

    def check(self, url: str) -> Health:
        self.urls.append(url)
        ok = self.answers.pop(0) if self.answers else True
        return Health(ok=ok, detail="200 {}" if ok else "connection refused")


@dataclass
class World:
    """One listener with everything round it, in memory."""

    clock: FakeClock = field(default_factory=FakeClock)
    control_plane: FakeControlPlane = field(default_factory=FakeControlPlane)
    cluster: FakeCluster = field(default_factory=FakeCluster)
    health: FakeHealth = field(default_factory=FakeHealth)
    dispatched: list[str] = field(default_factory=list)
    digest: Callable[[bytes], str] = keyed
    config: ListenerConfig = field(
        default_factory=lambda: ListenerConfig(
            listener_id=LISTENER,
            workspace_id=WORKSPACE,
            namespaces=("agents",),
            smith_url="https://smith.example",
            hostname="agents.example",
            failure_grace=10,
            rollout_deadline=300,
            health_deadline=60,
        )
    )

    def __post_init__(self) -> None:
        self.events = MemoryLog(clock=self.clock)

    @property
    def machine(self) -> ListenerMachine:
        return ListenerMachine(self.config)

    @property
    def ports(self) -> Ports:
        return Ports(
            control_plane=self.control_plane,
            cluster=self.cluster,  # type: ignore[arg-type]
            health=self.health,
            clock=self.clock,
            keep_lock=lambda: None,
            digest=self.digest,
            api_key="lsv2-key",
        )

    def dispatch(self, stream: str) -> None:
        self.dispatched.append(stream)

    def advance(self, deployment_id: str = DEPLOYMENT) -> Advanced:
        stream = deployment_stream(deployment_id)
        return advance(stream, self.machine, self.events, self.ports, lock_term=10, backoff=Backoff())

    def state(self, deployment_id: str = DEPLOYMENT) -> Any:
        state: Any = self.machine.initial
        for record in self.events.read(deployment_stream(deployment_id)):
            state = self.machine.evolve(state, self.machine.events.decode(record), record.at)
        return state

    def types(self, deployment_id: str = DEPLOYMENT) -> list[str]:
        return [record.type for record in self.events.read(deployment_stream(deployment_id))]


@pytest.fixture
def world() -> World:
    return World()
