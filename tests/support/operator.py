"""A cluster in memory and an operator that uses it, with the real `advance`, observation loop and event log."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from engine import names
from engine.digests import digest
from engine.errors import LockLost
from engine.log.memory import MemoryLog
from engine.operator.config import OperatorConfig, SharedIngress
from engine.operator.machine import OperatorMachine
from engine.operator.observation.observer import OperatorObserver
from engine.operator.scaling import is_autoscaler
from engine.operator.state import OperatorState
from engine.ports import Manifest, ObjectKey, Ports, WatchEvent, lgp_key
from engine.runtime.advance import Advanced, advance
from engine.runtime.backoff import Backoff
from engine.runtime.fold import Fold
from engine.runtime.observation_loop import Appended, Changed, ObservationLoop
from tests.support.clock import FakeClock
from tests.support.cluster import FakeCluster, matches

NAMESPACE = "team"
NAME = "hello-0123456789abcdef0123456789abcdef"
STREAM = names.lgp_stream(NAMESPACE, NAME)
CONFIG = OperatorConfig(ingress=SharedIngress(hostname="agents.example.com"))


def lgp_manifest(revision: str = "r1", name: str = NAME, **spec: Any) -> Manifest:
    server = {
        "image": f"registry.example/hello:{revision}",
        "replicas": 1,
        "env": [
            {"name": "LANGSMITH_HOST_REVISION_ID", "value": revision},
            {"name": "TOKEN", "value": "hunter2-hunter2"},
        ],
    }
    spec = {
        "serverSpec": {**server, **spec.pop("serverSpec", {})},
        "database": {"enabled": True, "secretName": f"{name}-db"},
        "redis": {"enabled": True},
        "ingress": {"enabled": True},
        **spec,
    }
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": names.LGP_API_VERSION, "kind": names.LGP_KIND, "metadata": metadata, "spec": spec}


def shared_ingress(namespace: str = NAMESPACE) -> Manifest:
    metadata = {"name": "shared", "namespace": namespace, "annotations": {names.SHARED_INGRESS_ANNOTATION: "true"}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": metadata,
        "spec": {"rules": [{"host": "agents.example.com"}]},
    }


class NoDispatcher:
    def dispatch(self, stream: str) -> None:
        pass


@dataclass
class OperatorWorld:
    """A cluster, an event log, an operator and an observation loop, all on one clock that only `run` moves."""

    config: OperatorConfig = CONFIG
    clock: FakeClock = field(default_factory=FakeClock)
    cluster: FakeCluster = field(default_factory=FakeCluster)
    autoscales: bool = True
    """Whether `roll_out` makes autoscalers work."""

    def __post_init__(self) -> None:
        self.events = MemoryLog(self.clock)
        self.machine = OperatorMachine(self.config)
        self.observer = OperatorObserver(self.machine, self.cluster, digest_of)
        self.loop = ObservationLoop([self.observer], self.events, NoDispatcher(), hold=1.0)
        self.ports = Ports(
            control_plane=None,  # type: ignore[arg-type]
            cluster=self.cluster,
            health=None,  # type: ignore[arg-type]
            clock=self.clock,
            keep_lock=_no_lock,
            digest=digest_of,
            api_key="",
        )
        self._shown: dict[ObjectKey, Manifest] = {}
        self._position = 0
        self._synced: set[tuple[Any, str]] = set()

    def advance(self, stream: str = STREAM) -> Advanced:
        return advance(stream, self.machine, self.events, self.ports, lock_ttl=60.0, backoff=Backoff())

    def state(self, stream: str = STREAM) -> OperatorState:
        fold = Fold(self.machine, self.events, stream)
        fold.catch_up()
        return fold.state

    def types(self, stream: str = STREAM) -> list[str]:
        return [record.type for record in self.events.read(stream)]

    def condition(self, kind: str, name: str = NAME) -> Manifest:
        status = self.cluster.objects[lgp_key(NAMESPACE, name)]["status"]
        return next(c for c in status["conditions"] if c["type"] == kind)

    def watch(self) -> None:
        """Tell the loop everything that changed in cluster and log since the last time, and let the loop compare."""
        now = self.clock.at.timestamp()
        messages: Iterator[Changed | Appended] = itertools.chain(self._changes(), self._appended())
        for message in messages:
            self.loop.take(message, now)
        self.loop.compare_due(now)

    def _changes(self) -> Iterator[Changed]:
        places = [*((watched, NAMESPACE) for watched in self.observer.watches()), *self.observer.external_watches()]
        places += [place for place in self.loop.extra_watches if place not in places and place[1] == NAMESPACE]
        watches = {(namespace, watched.api_version, watched.kind): watched for watched, namespace in places}
        for key, manifest in list(self._shown.items()):
            there = self.cluster.objects.get(key)
            if there is None or there["metadata"]["uid"] != manifest["metadata"]["uid"]:
                del self._shown[key]
                watched = watches[(key.namespace, key.api_version, key.kind)]
                yield Changed(watched, key.namespace, WatchEvent(type="DELETED", object=manifest))
        for key, manifest in list(self.cluster.objects.items()):
            watching = watches.get((key.namespace, key.api_version, key.kind))
            if watching is not None and self._shown.get(key) != manifest and matches(manifest, watching.labels):
                self._shown[key] = copy.deepcopy(manifest)
                yield Changed(watching, key.namespace, WatchEvent(type="MODIFIED", object=copy.deepcopy(manifest)))
        for watched, namespace in places:
            if (watched, namespace) not in self._synced:
                self._synced.add((watched, namespace))
                yield Changed(watched, namespace, WatchEvent(type="SYNCED", object={}))

    def _appended(self) -> Iterator[Appended]:
        for record in self.events.read_all(self._position):
            self._position = record.position
            yield Appended(record.stream)

    def roll_out(self) -> None:
        """Do the work of the controllers: every workload becomes ready, and every autoscaler works."""
        for key, manifest in self.cluster.objects.items():
            if is_autoscaler(key) and self.autoscales:
                kinds = ("AbleToScale", "ScalingActive", "Ready")
                manifest["status"] = {"conditions": [{"type": kind, "status": "True"} for kind in kinds]}
            if key.kind in ("Deployment", "StatefulSet"):
                count = manifest["spec"].get("replicas", 1)
                manifest["status"] = {
                    "observedGeneration": manifest["metadata"]["generation"],
                    **dict.fromkeys(("replicas", "readyReplicas", "updatedReplicas", "availableReplicas"), count),
                }

    def find(self, kind: str, suffix: str = "", name: str = NAME) -> ObjectKey:
        """Return the key of the first object of that kind and name. Raises StopIteration."""
        return next(key for key in self.cluster.objects if (key.kind, key.name) == (kind, name + suffix))

    def run(self, seconds: float = 10.0, *, roll_out: bool = True) -> None:
        """Let watcher, operator and controllers work for `seconds` of the world's clock."""
        for _ in range(round(seconds / 0.5)):
            self.watch()
            self.events.take_due(self.clock.at)
            for stream in self.events.dirty():
                self.advance(stream)
            if roll_out:
                self.roll_out()
            self.clock.move(0.5)


def digest_of(value: bytes) -> str:
    return digest(["keyed", value.decode()])


def _no_lock() -> None:
    raise LockLost("outside of advance")


def started(**spec: Any) -> OperatorWorld:
    """Return a world with a shared Ingress and one LGP that has been rolled out."""
    world = OperatorWorld()
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest(**spec))
    world.run()
    return world
