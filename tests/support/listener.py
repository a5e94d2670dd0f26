"""A listener in memory with fakes of its peers, and an example deployment of the control plane."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from engine.dataplane.events import ConfigurationRecorded
from engine.dataplane.stream import DataPlaneStream
from engine.digests import digest
from engine.errors import ControlPlaneNotFound
from engine.event import Event
from engine.listener.config import ListenerConfig
from engine.listener.deletions import DeletionGuard
from engine.listener.machine import ListenerMachine
from engine.listener.observation.compare import is_remainder, observe_lgp, observe_secret
from engine.listener.poll import Poller
from engine.listener.resource import changes_to, content_digest, parse_deployment
from engine.log.contract import Lock
from engine.log.memory import MemoryLog
from engine.names import LGP_API_VERSION, data_plane_stream, deployment_stream, lgp_name
from engine.ports import Health, Manifest, ObjectKey, Ports
from engine.runtime.advance import Advanced, advance
from engine.runtime.backoff import Backoff
from tests.support.clock import FakeClock
from tests.support.cluster import FakeCluster

LISTENER = "11111111-1111-4111-8111-111111111111"

WORKSPACE = "22222222-2222-4222-8222-222222222222"

LOCK_TTL = 10.0

DEPLOYMENT = "33333333-3333-4333-8333-333333333333"


def keyed(value: bytes) -> str:
    return hashlib.sha256(b"test key" + value).hexdigest()[:32]


def resource(revision: str = "r1", **changes: Any) -> dict[str, Any]:
    """Return a deployment as the control plane lists it."""
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


class Crash(BaseException):
    """The worker dies; a BaseException, so that the code under test does not handle it."""


@dataclass
class Moments:
    """Counts the moments at which a worker can die: before and after each call of a peer or the log."""

    passed: int = 0
    crash_at: int = 0
    """Number of the moment at which the worker dies; 0 for never."""

    def __call__(self) -> None:
        self.passed += 1
        if self.passed == self.crash_at:
            raise Crash

    def crash_after(self, moments: int) -> None:
        self.crash_at = self.passed + moments


class MortalLog(MemoryLog):
    """A log whose appends are moments. The lock of a dead worker stays until its TTL has passed."""

    def __init__(self, clock: FakeClock, moment: Moments) -> None:
        super().__init__(clock)
        self._moment = moment
        self._graves: list[Any] = []

    def append(self, stream: str, expected_version: int, events: Sequence[Event], **named: Any) -> int:
        self._moment()
        version = super().append(stream, expected_version, events, **named)
        self._moment()
        return version

    @contextmanager
    def lock(self, stream: str, ttl: float) -> Iterator[Lock]:
        held = super().lock(stream, ttl)
        with_lock = held.__enter__()
        try:
            yield with_lock
        except Crash:
            self._graves.append(held)  # kept: the garbage collector would release the lock
            raise
        except BaseException:
            held.__exit__(None, None, None)
            raise
        held.__exit__(None, None, None)


@dataclass
class FakeControlPlane:
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    """Ids that lists omit, as offset paging may."""
    repeated: bool = False
    """Whether lists name every deployment twice, as offset paging may."""
    reports: list[tuple[str, str]] = field(default_factory=list)
    listeners: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {LISTENER: {"compute_config": {"k8s_namespaces": ["agents"]}}}
    )
    versions: list[str] = field(default_factory=list)
    error: Exception | None = None
    late_error: Exception | None = None
    """Raised after the first page."""
    report_error: Exception | None = None
    endpoint_error: Exception | None = None
    endpoint_writes: int = 0
    between_pages: Callable[[], None] = lambda: None
    """Called after a page is read and before the poll uses it."""
    after_get: Callable[[], None] = lambda: None
    """Called after a deployment is read and before the caller uses it."""
    moment: Callable[[], None] = lambda: None

    def deployments(self) -> Iterator[Sequence[dict[str, Any]]]:
        self._read()
        page = [copy.deepcopy(r) for r in self.resources.values() if r["id"] not in self.hidden]
        self.between_pages()
        yield page
        if self.late_error:
            raise self.late_error
        if self.repeated:
            yield [copy.deepcopy(r) for r in page]

    def _read(self) -> None:
        self.moment()
        if self.error:
            raise self.error

    def deployment(self, deployment_id: str) -> dict[str, Any]:
        self._read()
        if deployment_id not in self.resources:
            raise ControlPlaneNotFound(f"deployment {deployment_id} does not exist")
        found = copy.deepcopy(self.resources[deployment_id])
        self.after_get()
        return found

    def listener(self, listener_id: str) -> dict[str, Any]:
        self._read()
        if listener_id not in self.listeners:
            raise ControlPlaneNotFound(listener_id)
        return self.listeners[listener_id]

    def publish_version(self, listener_id: str, version: str) -> None:
        self.versions.append(version)

    def report_revision(self, deployment_id: str, revision_id: str, status: str, **_: Any) -> None:
        self._report(revision_id, status)

    def report_deployment(self, deployment_id: str, status: str, **_: Any) -> None:
        self._report(deployment_id, status)

    def _report(self, subject: str, status: str) -> None:
        self.moment()
        if self.report_error:
            raise self.report_error
        self.reports.append((subject, status))
        self.moment()

    def publish_endpoint(self, deployment_id: str, url: str) -> None:
        self.moment()
        if self.endpoint_error:
            raise self.endpoint_error
        self.endpoint_writes += 1
        self.resources[deployment_id]["source_config"]["custom_url"] = url
        self.moment()


@dataclass
class FakeHealth:
    answers: list[bool] = field(default_factory=list)
    """Results of the next checks, in order; later checks succeed."""
    urls: list[str] = field(default_factory=list)
    moment: Callable[[], None] = lambda: None

    def check(self, url: str) -> Health:
        self.moment()
        self.urls.append(url)
        ok = self.answers.pop(0) if self.answers else True
        return Health(ok=ok, detail="200 {}" if ok else "connection refused")


@dataclass
class ListenerWorld:
    """One listener with its peers and its log, in memory."""

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

    moments: Moments = field(default_factory=Moments)

    def __post_init__(self) -> None:
        self.events = MortalLog(self.clock, self.moments)
        for peer in (self.control_plane, self.cluster, self.health):
            peer.moment = self.moments

    @property
    def machine(self) -> ListenerMachine:
        return ListenerMachine(self.config)

    @property
    def ports(self) -> Ports:
        return Ports(
            control_plane=self.control_plane,
            cluster=self.cluster,
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
        return advance(stream, self.machine, self.events, self.ports, lock_ttl=LOCK_TTL, backoff=Backoff())

    def record_configuration(self) -> None:
        """Append the configuration, as processes do at their start, so that the log can be replayed."""
        config = self.config.model_dump(mode="json")
        recorded = ConfigurationRecorded(component="listener", digest=digest(config), config=config)
        stream = data_plane_stream(LISTENER)
        self.events.append(stream, self.events.version(stream), [recorded], actor="dataplane")

    def poller(self, guard: DeletionGuard | None = None) -> Poller:
        """Return the poller of a new process, which remembers nothing of earlier polls."""
        return Poller(
            control_plane=self.control_plane,
            events=self.events,
            own=DataPlaneStream(self.events, data_plane_stream(LISTENER)),
            clock=self.clock,
            dispatcher=self,
            config=self.config,
            digest=lambda value: self.digest(value),
            guard=guard or DeletionGuard(share=0.5, minimum=2),
            version="1.2.3",
            lock_ttl=30,
            chance=lambda: 1.0,
        )

    def watch(self, deployment_id: str = DEPLOYMENT) -> None:
        """Append what the watcher observes of the deployment's LGP and Secrets."""
        state, stream = self.state(deployment_id), deployment_stream(deployment_id)
        if not state.id:
            return
        version = self.events.version(stream)
        found = observe_lgp(state, self.live("LGP", state.namespace, state.lgp.name, LGP_API_VERSION))
        for key, secret in list(self.cluster.objects.items()) if state.deleted else []:
            if key.kind == "Secret" and is_remainder(state, secret):
                found += observe_secret(state, key.name, secret)[: 1 - len(found)]
        if state.revision is not None and state.revision.secret and not state.deleted:
            name = state.revision.secret
            found += observe_secret(state, name, self.live("Secret", state.namespace, name))
        if found:
            self.events.append(stream, version, found, actor="watcher")

    def live(self, kind: str, namespace: str, name: str, api_version: str = "v1") -> Manifest | None:
        return self.cluster.objects.get(ObjectKey(api_version=api_version, kind=kind, namespace=namespace, name=name))

    def state(self, deployment_id: str = DEPLOYMENT) -> Any:
        state: Any = self.machine.initial
        for record in self.events.read(deployment_stream(deployment_id)):
            state = self.machine.evolve(state, self.machine.events.decode(record), record.at)
        return state

    def types(self, deployment_id: str = DEPLOYMENT) -> list[str]:
        return [record.type for record in self.events.read(deployment_stream(deployment_id))]


LGP = ObjectKey(api_version=LGP_API_VERSION, kind="LGP", namespace="agents", name=lgp_name("hello", DEPLOYMENT))

STREAM = deployment_stream(DEPLOYMENT)


def see(world: ListenerWorld, raw: dict[str, Any]) -> None:
    """Change a deployment of the control plane, and append what a poll reports of it."""
    world.control_plane.resources[raw["id"]] = raw
    content = content_digest(raw, world.digest)
    append(world, *changes_to(world.state(), parse_deployment(raw), content, world.digest))


def append(world: ListenerWorld, *events: Event) -> None:
    world.events.append(STREAM, world.events.version(STREAM), events, actor="test")


def status(available: bool, generation: int, reason: str = "", since: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    degraded = {"type": "Degraded", "status": "True" if reason else "False", "reason": reason, "message": "pod p: why"}
    return {
        "observedGeneration": generation,
        "conditions": [
            {"type": "Available", "status": str(available)},
            {"type": "Progressing", "status": str(not available)},
            {"type": "DatabaseReady", "status": "True"},
            {**degraded, "lastTransitionTime": since},
        ],
    }


def operator_says(world: ListenerWorld, **kwargs: Any) -> None:
    """Write the status of the LGP as the operator does, and append what the watcher observes of it."""
    lgp = world.cluster.objects[LGP]
    lgp["status"] = status(generation=lgp["metadata"]["generation"], **kwargs)
    append(world, *observe_lgp(world.state(), world.cluster.get(LGP)))


def deploy(world: ListenerWorld, revision: str = "r1") -> None:
    see(world, resource(revision))
    world.advance()
    operator_says(world, available=True)
    world.advance()
