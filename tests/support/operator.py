"""A cluster in memory and an operator that uses it, with the real `advance`, observation loop and event log."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine import names
from engine.digests import digest
from engine.errors import ClusterUnavailable, LockLost, ObjectRefused
from engine.log.memory import MemoryLog
from engine.operator.config import OperatorConfig, SharedIngress
from engine.operator.machine import OperatorMachine
from engine.operator.observation.observer import OperatorObserver
from engine.operator.scaling import is_autoscaler
from engine.operator.state import OperatorState
from engine.ports import Applied, Manifest, ObjectKey, Ports, WatchEvent, lgp_key
from engine.runtime.advance import Advanced, advance
from engine.runtime.fold import Fold
from engine.runtime.observation_loop import Appended, Changed, ObservationLoop
from engine.runtime.retry import Backoff
from tests.support.clock import FakeClock

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


class FakeCluster:
    """`ports.Cluster` in memory, with uids, generations and just enough field ownership to notice drift."""

    def __init__(self) -> None:
        self.objects: dict[ObjectKey, Manifest] = {}
        self.rejects: Callable[[ObjectKey], ObjectRefused | None] = lambda key: None
        """Returns the error that an apply or create raises, or None."""
        self.forbids: Callable[[ObjectKey], ObjectRefused | None] = lambda key: None
        """Returns the error that any other call raises, or None."""
        self.down = False
        self.autoscales = True
        """Whether `roll_out` makes autoscalers work."""
        self.calls: list[tuple[str, str]] = []
        self._numbers = itertools.count(1)

    # the methods of the port

    def get(self, key: ObjectKey) -> Manifest | None:
        self._called("get", key)
        return copy.deepcopy(self.objects.get(key))

    def list(self, api_version: str, kind: str, namespace: str, *, labels: str = "") -> list[Manifest]:
        self._called("list", ObjectKey(api_version=api_version, kind=kind, namespace=namespace, name=""))
        return copy.deepcopy(
            [
                o
                for k, o in self.objects.items()
                if (k.api_version, k.kind) == (api_version, kind) and k.namespace == namespace and _matches(o, labels)
            ]
        )

    def apply(
        self, manifest: Manifest, *, manager: str, before_write: Callable[[], None] | None = None, seen: Any = ...
    ) -> Applied:
        key = ObjectKey.of(manifest)
        self._called("apply", key)
        if before_write:
            before_write()
        before = self.objects.get(key)
        ours = [{"manager": manager, "operation": "Apply", "fieldsV1": {"f": digest(manifest)}}]
        foreign = [
            entry
            for entry in (before or {}).get("metadata", {}).get("managedFields", [])
            if entry["manager"] != manager
        ]
        theirs = {part: before[part] for part in ("data", "stringData") if before and part in before}
        stored = self.put(theirs | copy.deepcopy(manifest), managed=ours + foreign)
        return Applied(manifest=stored, created=before is None, changed=True)

    def apply_status(
        self, manifest: Manifest, *, manager: str, before_write: Callable[[], None] | None = None
    ) -> Applied:
        key = ObjectKey.of(manifest)
        self._called("apply_status", key)
        if before_write:
            before_write()
        if key not in self.objects:
            raise ObjectRefused(f"{key} not found", reason="NotFound", status=404)
        self.objects[key]["status"] = copy.deepcopy(manifest["status"])
        return Applied(manifest=copy.deepcopy(self.objects[key]), created=False, changed=True)

    def create(self, manifest: Manifest) -> bool:
        self._called("create", ObjectKey.of(manifest))
        if ObjectKey.of(manifest) in self.objects:
            return False
        self.put(copy.deepcopy(manifest))
        return True

    def patch(
        self, key: ObjectKey, patch: Manifest, *, before_write: Callable[[], None] | None = None
    ) -> Manifest | None:
        self._called("patch", key)
        if key not in self.objects:
            return None
        return self.put({**copy.deepcopy(self.objects[key]), "spec": {**self.objects[key]["spec"], **patch["spec"]}})

    def delete(self, key: ObjectKey, *, propagation: str = "Background", uid: str | None = None) -> bool:
        self._called("delete", key)
        there = self.objects.get(key)
        if there is None or (uid is not None and there["metadata"]["uid"] != uid):
            return False
        del self.objects[key]
        return True

    def delete_all(self, api_version: str, kind: str, namespace: str, *, labels: str) -> int:
        return sum(self.delete(ObjectKey.of(found)) for found in self.list(api_version, kind, namespace, labels=labels))

    # the methods for tests

    def put(self, manifest: Manifest, managed: Sequence[Manifest] | None = None) -> Manifest:
        """Store an object as an API server does."""
        key = ObjectKey.of(manifest)
        before = self.objects.get(key)
        metadata = {**manifest["metadata"], "resourceVersion": str(next(self._numbers))}
        metadata["uid"] = before["metadata"]["uid"] if before else f"uid-{next(self._numbers)}"
        moved = before is None or before.get("spec") != manifest.get("spec")
        metadata["generation"] = (before["metadata"]["generation"] if before else 0) + (1 if moved else 0)
        if managed is not None:
            metadata["managedFields"] = managed
        status = {"status": before["status"]} if before and "status" in before else {}
        self.objects[key] = {**manifest, **status, "metadata": metadata}
        return copy.deepcopy(self.objects[key])

    def edit(self, key: ObjectKey) -> None:
        """Change a field of ours as `kubectl edit` does: the field manager of kubectl then owns the field."""
        self.objects[key]["spec"] = {**self.objects[key].get("spec", {}), "edited": next(self._numbers)}
        self.objects[key]["metadata"]["managedFields"] = [{"manager": "kubectl-edit", "operation": "Update"}]

    def roll_out(self) -> None:
        """Do the work of the controllers: every workload becomes ready, and every autoscaler works."""
        for key, manifest in self.objects.items():
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
        return next(key for key in self.objects if (key.kind, key.name) == (kind, name + suffix))

    def _called(self, verb: str, key: ObjectKey) -> None:
        if self.down:
            raise ClusterUnavailable("the API server does not answer")
        self.calls.append((verb, str(key)))
        refusal = self.rejects(key) if verb in ("apply", "create") else self.forbids(key)
        if refusal is not None:
            raise refusal


def _matches(manifest: Manifest, selector: str) -> bool:
    labels = manifest["metadata"].get("labels") or {}
    pairs = [part.partition("=") for part in selector.split(",") if part]
    return all(labels.get(key) == value if equals else key in labels for key, equals, value in pairs)


class NoDispatcher:
    def dispatch(self, stream: str) -> None:
        pass


@dataclass
class World:
    """A cluster, an event log, an operator and an observation loop, all on one clock that only `run` moves."""

    config: OperatorConfig = CONFIG
    clock: FakeClock = field(default_factory=FakeClock)
    cluster: FakeCluster = field(default_factory=FakeCluster)

    def __post_init__(self) -> None:
        self.events = MemoryLog(self.clock)
        self.machine = OperatorMachine(self.config)
        self.observer = OperatorObserver(self.machine, self.cluster, digest_of)  # type: ignore[arg-type]
        self.loop = ObservationLoop([self.observer], self.events, NoDispatcher(), hold=1.0)
        self.ports = Ports(
            control_plane=None,  # type: ignore[arg-type]
            cluster=self.cluster,  # type: ignore[arg-type]
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
            if watching is not None and self._shown.get(key) != manifest and _matches(manifest, watching.labels):
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

    def run(self, seconds: float = 10.0, *, roll_out: bool = True) -> None:
        """Let watcher, operator and controllers work for `seconds` of the world's clock."""
        for _ in range(round(seconds / 0.5)):
            self.watch()
            self.events.take_due(self.clock.at)
            for stream in self.events.dirty():
                self.advance(stream)
            if roll_out:
                self.cluster.roll_out()
            self.clock.move(0.5)


def digest_of(value: bytes) -> str:
    return digest(["keyed", value.decode()])


def _no_lock() -> None:
    raise LockLost("outside of advance")


def started(**spec: Any) -> World:
    """Return a world with a shared Ingress and one LGP that has been rolled out."""
    world = World()
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest(**spec))
    world.run()
    return world
