"""Two data planes in one cluster: one data plane leases each namespace, or several data planes agree to share it."""

from __future__ import annotations

import queue
import threading
from typing import Any
from uuid import uuid4

import httpx
import pytest

from engine import bootstrap
from engine.clock import SystemClock
from engine.dataplane.events import DATA_PLANE_EVENTS, NamespaceLeased, NamespaceRefused
from engine.event import Event
from engine.kubernetes.namespace_lease import SHARED, LeaseRefused, lease_key
from engine.log.memory import MemoryLog
from engine.names import LGP_API_VERSION, LISTENER_LABEL, lgp_stream
from engine.ports import Manifest, ObjectKey
from engine.settings import Settings
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually
from tests.support.operator_stack import install_crd, lgp_manifest
from workers.tasks import sweep
from workers.watcher import watch

DATABASES: dict[str, Any] = {"database": {"enabled": False}, "redis": {"enabled": False}, "ingress": {"enabled": False}}


class DataPlane:
    """An operator with a watcher, a worker and sweeps, as in production, but with the log in memory."""

    def __init__(self, api_server: ApiServer, name: str, *namespaces: str, **given: Any) -> None:
        self.listener_id = str(given.pop("listener_id", uuid4()))
        self.settings = Settings.load(
            listener_enabled=False,
            digest_key="0123456789abcdef0123456789abcdef",
            prefix=name,
            listener_id=self.listener_id,
            watch_namespaces=namespaces,
            ingress_enabled=False,
            kubeconfig=api_server.kubeconfig,
            lease_seconds=5,
            lock_seconds=2,
            sweep_seconds=0.2,
            watch_seconds=10,
            **given,
        )
        self.events = MemoryLog()
        self.engine = bootstrap.build(self.settings, self, events=self.events)
        self.engine.configurations.record()
        self.watcher = watch(self.engine)
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self.watcher.run, self._sweep, self._work)
        ]

    def __enter__(self) -> DataPlane:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.watcher.stop()
        self._queue.put(None)
        for thread in self._threads:
            thread.join(15)
        self.engine.close()

    def dispatch(self, stream: str) -> None:
        self._queue.put(stream)

    def waiting(self) -> dict[str, int]:
        return {}

    def _work(self) -> None:
        while (stream := self._queue.get()) is not None:
            self.engine.advance(stream)

    def _sweep(self) -> None:
        while not self._done.wait(0.2):
            sweep(self.engine, self)

    # --- queries of the tests

    @property
    def name(self) -> str:
        return self.settings.data_plane

    def reported(self) -> list[Event]:
        records = self.events.read(self.engine.own_stream)
        events = [DATA_PLANE_EVENTS.decode(record) for record in records]
        return [event for event in events if isinstance(event, NamespaceLeased | NamespaceRefused)]

    def made(self, namespace: str, name: str) -> bool:
        """Return whether this data plane wrote the Deployment of an LGP."""
        types = [record.type for record in self.events.read(lgp_stream(namespace, name))]
        return "ObjectsApplied" in types and self.deployment(namespace, name) is not None

    def deployment(self, namespace: str, name: str) -> Manifest | None:
        key = ObjectKey(api_version="apps/v1", kind="Deployment", namespace=namespace, name=name)
        return self.engine.ports.cluster.get(key)

    def holder(self, namespace: str) -> str:
        return self.engine.leases.read(namespace).holder


@pytest.fixture
def other_namespace(http: httpx.Client, namespace: str) -> str:
    name = f"{namespace}-b"
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    http.post("/api/v1/namespaces", json=manifest).raise_for_status()
    return name


def put(plane: DataPlane, namespace: str, name: str, listener_id: str = "") -> None:
    """Write an LGP as a user would."""
    manifest = lgp_manifest(namespace, name, **DATABASES)
    if listener_id:
        manifest["metadata"]["labels"] = {LISTENER_LABEL: listener_id}
    plane.engine.ports.cluster.apply(manifest, manager="somebody")


def test_a_second_data_plane_leaves_a_leased_namespace_alone_and_works_in_its_own(
    api_server: ApiServer, namespace: str, other_namespace: str
) -> None:
    install_crd(api_server)
    with DataPlane(api_server, "first", namespace) as first:
        eventually(lambda: first.holder(namespace) == first.name, "the first has leased its namespace")
        with DataPlane(api_server, "second", namespace, other_namespace) as second:
            put(first, namespace, "contested")
            put(second, other_namespace, "own")
            eventually(lambda: first.made(namespace, "contested"), "the first works where it was first")
            eventually(lambda: second.made(other_namespace, "own"), "the second works on its own namespace")
            eventually(lambda: len(second.reported()) == 2, "the second data plane reports one lease and one refusal")

            assert second.reported() == [
                NamespaceRefused(namespace=namespace, holder=first.name),
                NamespaceLeased(namespace=other_namespace),
            ]
            assert second.events.streams("lgp/") == [lgp_stream(other_namespace, "own")]
            assert first.reported() == [NamespaceLeased(namespace=namespace)]


def test_the_namespace_of_a_dead_data_plane_changes_its_holder_only_by_command(
    api_server: ApiServer, namespace: str
) -> None:
    install_crd(api_server)
    with DataPlane(api_server, "dead", namespace) as dead:
        eventually(lambda: dead.holder(namespace) == dead.name, "the data plane has leased its namespace")
    with DataPlane(api_server, "heir", namespace) as heir:
        put(heir, namespace, "orphan")
        eventually(lambda: bool(heir.reported()), "the second data plane reports the holder of the namespace")
        with pytest.raises(LeaseRefused, match="is alive"):
            heir.engine.leases.take(namespace)
        now = SystemClock().now
        eventually(lambda: heir.engine.leases.read(namespace).expired(now()), "the lease has expired")
        assert heir.deployment(namespace, "orphan") is None
        assert heir.holder(namespace) == dead.name

        assert heir.engine.leases.take(namespace).holder == dead.name
        eventually(lambda: heir.made(namespace, "orphan"), "the heir goes to work without a restart")

        with DataPlane(api_server, "dead", namespace, listener_id=dead.listener_id) as risen:
            eventually(lambda: bool(risen.reported()), "the restarted data plane reports that its lease is lost")
            assert risen.reported() == [NamespaceRefused(namespace=namespace, holder=heir.name)]


def test_leases_survive_a_restart_and_are_released_by_command(api_server: ApiServer, namespace: str) -> None:
    install_crd(api_server)
    with DataPlane(api_server, "one", namespace) as one:
        eventually(lambda: one.holder(namespace) == one.name, "the data plane has leased its namespace")
        lease = one.engine.ports.cluster.get(lease_key(namespace))
        assert lease is not None
    with DataPlane(api_server, "one", namespace, listener_id=one.listener_id) as again:
        put(again, namespace, "app")
        eventually(lambda: again.made(namespace, "app"), "the restarted data plane goes on")
        kept = again.engine.ports.cluster.get(lease_key(namespace))
        assert kept is not None
        assert kept["metadata"]["uid"] == lease["metadata"]["uid"]
        assert kept["spec"]["acquireTime"] == lease["spec"]["acquireTime"]
    assert DataPlane(api_server, "one", namespace, listener_id=one.listener_id).engine.leases.release(namespace)
    with DataPlane(api_server, "two", namespace) as two:
        eventually(lambda: two.holder(namespace) == two.name, "the next one has it")


def test_two_workspaces_share_a_namespace_each_touching_its_own(api_server: ApiServer, namespace: str) -> None:
    install_crd(api_server)
    sharing = {"share_namespaces": True}
    with (
        DataPlane(api_server, "a", namespace, **sharing) as a,
        DataPlane(api_server, "b", namespace, **sharing) as b,
    ):
        eventually(lambda: a.holder(namespace) == SHARED, "those that share hold it")
        put(a, namespace, "of-a", a.listener_id)
        put(b, namespace, "of-b", b.listener_id)
        put(b, namespace, "of-nobody")
        eventually(lambda: a.made(namespace, "of-a"), "each makes its own")
        eventually(lambda: b.made(namespace, "of-b"), "each makes its own")

        key = ObjectKey(api_version=LGP_API_VERSION, kind="LGP", namespace=namespace, name="of-a")
        b.engine.ports.cluster.delete(key)
        eventually(lambda: a.deployment(namespace, "of-a") is None, "what a made goes with its LGP")

        assert a.events.streams("lgp/") == [lgp_stream(namespace, "of-a")]
        assert b.events.streams("lgp/") == [lgp_stream(namespace, "of-b")]
        assert b.deployment(namespace, "of-b") is not None
        assert b.deployment(namespace, "of-nobody") is None
        with DataPlane(api_server, "alone", namespace) as alone:
            eventually(lambda: bool(alone.reported()), "a data plane that does not share is refused")
            assert alone.reported() == [NamespaceRefused(namespace=namespace, holder=SHARED)]
