"""What stops working without each right that the chart grants to the watcher: see `tests/chart/rights.py`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from engine.event import Event
from engine.log.memory import MemoryLog
from engine.names import (
    lgp_stream,
)
from engine.operator.events import DriftDetected, LgpObserved, LgpRemoved, WorkloadObserved, WorkloadStatus
from engine.operator.manifests import without_path
from engine.operator.observation.watches import BUDGETS, EXTERNAL_SERVICES, INGRESSES, watch_of_lgp_objects
from engine.ports import Manifest, WatchEvent
from engine.runtime.observation import LGPS, SECRETS, Watch
from engine.runtime.observation_loop import Appended, Changed
from tests.chart.rights import (
    API_VERSIONS,
    DOUBLED,
    FRONT,
    KINDS,
    LIGHT,
    OWN_ACCOUNT,
    OWN_CLASS,
    SCALED,
    WITH_DATABASE,
    Line,
    Piece,
    Right,
    Stage,
    Work,
    assert_needed,
    claimed,
    name_of,
    posted,
    rights_of,
)
from tests.support.eventually import eventually
from tests.support.operator_stack import lgp_manifest
from workers.watcher import watch

PATIENCE = 60.0
"""Seconds for what must come; a loaded machine is slow."""


class Turn:
    """Takes the place of what the watcher waits on: what others do meanwhile is done in its waits."""

    def __init__(self, ended: Callable[[], bool], waits: Callable[[], None]) -> None:
        self._ended, self._waits = ended, waits

    def is_set(self) -> bool:
        return bool(failing(self._ended))

    def wait(self, seconds: float) -> None:
        failing(self._waits)


def failing(do: Callable[[], Any]) -> Any:
    """Do something of the test whose errors the watcher must not survive, as it does its own."""
    try:
        return do()
    except Exception as error:
        pytest.fail(f"{type(error).__name__}: {error}")


@dataclass(kw_only=True)
class Lookout:
    """The watcher: it follows the kinds of `beside`, then `watched`, and judges what it saw."""

    stage: Stage
    events: MemoryLog
    stream: str
    watched: Watch
    happens: Callable[[Lookout], None]
    is_done: Callable[[], bool]
    beside: tuple[Watch, ...] = (LGPS,)
    where: str = ""
    """Of `watched`; FRONT, or in the watched namespace."""
    later: bool = False
    """What happens does so when `watched` is known whole: only the stream of changes can tell of it."""

    def __post_init__(self) -> None:
        self.watcher = watch(self.stage.engine("watcher", self.events))
        self._now = time.monotonic()
        self._lines: list[Any] = []
        self._mend: Callable[[], None] | None = None

    def run(self, mend: Callable[[], None]) -> None:
        self._mend = mend
        if not self.later:
            self.happens(self)
        http = self.stage.accounts["watcher"]._http
        closed = http.closed
        with capture_logs() as self._lines:
            try:
                for watched in (*self.beside, self.watched):
                    self._follow(watched)
            finally:
                http.closed = closed
            self._judge()
            if self._mend is not None:  # nobody had to wait, so it was the look that confirms what is suspected
                self._meanwhile()
                self._now += 60
                self._judge()

    def done(self) -> bool:
        return self.is_done()

    def told(self) -> list[str]:
        return [f"{line['event']} {line.get('error', '')}" for line in self._lines]

    def see(self, watched: Watch, manifests: Sequence[Manifest]) -> None:
        """Take in what another watch tells."""
        for manifest in manifests:
            event = WatchEvent(type="MODIFIED", object=manifest)
            self.watcher.loop.take(Changed(watched, self.stage.namespace, event), self._now)

    def _follow(self, watched: Watch) -> None:
        deadline = time.monotonic() + PATIENCE
        seen: list[str] = []

        def ended() -> bool:
            before = len(seen)
            while not self.watcher._queue.empty():
                message = self.watcher._queue.get()
                assert isinstance(message, Changed)
                self.watcher.loop.take(message, self._now)
                seen.append(message.event.type)
            if "SYNCED" not in seen or not self.later or watched != self.watched:
                return "SYNCED" in seen
            if "SYNCED" not in seen[:before]:
                self.happens(self)
                return False
            self._judge()
            return self.done()

        def late() -> bool:
            assert time.monotonic() < deadline, f"{watched} tells nothing of it"
            return False

        self.watcher._stop = Turn(ended, self._meanwhile)  # type: ignore[assignment]
        self.stage.accounts["watcher"]._http.closed = Turn(late, self._meanwhile)  # type: ignore[assignment]
        self.watcher._follow(watched, self.stage.space(self.where if watched == self.watched else ""))

    def _meanwhile(self) -> None:
        self._judge()
        mend, self._mend = self._mend, None
        assert mend is not None, f"it waits although nothing is refused: {self.told()}"
        mend()

    def _judge(self) -> None:
        """Judge what is due within a few seconds, which is longer than a suspicion is held."""
        loop, until = self.watcher.loop, self._now + 10
        loop.take(Appended(self.stream), self._now)
        while (due := loop.next_due()) is not None and due <= until:
            loop.compare_due(due)


def looks(work: Work, watched: Watch, verb: str, done: Callable[[Event], bool], **options: Any) -> Lookout:
    """A watcher beside the operator of `work`, on the same log."""
    log, stream = work.engine.events, work.stream
    assert isinstance(log, MemoryLog)
    registry = work.engine.machine_of(stream).events
    return Lookout(
        stage=work.stage,
        events=log,
        stream=stream,
        watched=watched,
        is_done=lambda: any(done(registry.decode(record)) for record in log.read(stream)),
        later=verb == "watch",
        **options,
    )


def drift(stage: Stage, verb: str, resource: str, suffix: str = "", spec: Manifest = LIGHT, where: str = "") -> Piece:
    """An object of an LGP that somebody deletes."""
    work, name = posted(stage, spec)
    work.advance()
    kind = KINDS[resource]
    (live,) = (one for one in stage.of(name, resource, where) if where or one["metadata"]["name"] == f"{name}{suffix}")
    special = {
        "secrets": SECRETS,
        "poddisruptionbudgets": BUDGETS,
        **({"services": EXTERNAL_SERVICES} if where else {}),
    }
    return looks(
        work,
        special.get(resource, watch_of_lgp_objects(API_VERSIONS[resource], kind)),
        verb,
        lambda event: isinstance(event, DriftDetected) and (event.key.kind, event.change) == (kind, "deleted"),
        happens=lambda _: stage.delete(live),
        where=where,
    )


def path_drift(stage: Stage, verb: str, where: str = "") -> Piece:
    """A path on the shared Ingress that somebody takes away."""
    work, name = posted(stage, LIGHT)
    work.advance()
    assert stage.leads_to(name)

    def happens(_: Lookout) -> None:
        ingress = stage.shared_ingress()
        rules = without_path(ingress, f"/lgp/{name}")["spec"]["rules"]
        stage.merge(stage.path("ingresses", ingress["metadata"]["name"], FRONT), {"spec": {"rules": rules}})

    return looks(work, INGRESSES, verb, lambda event: isinstance(event, DriftDetected), happens=happens, where=where)


def somebodys_lgp(stage: Stage, verb: str) -> Piece:
    """An LGP that somebody writes."""
    name = f"by-hand-{uuid.uuid4().hex[:8]}"
    work = Work(stage=stage, engine=stage.engine("operator"), stream=lgp_stream(stage.namespace, name))
    return looks(
        work,
        LGPS,
        verb,
        lambda event: isinstance(event, LgpObserved),
        beside=(),
        happens=lambda _: stage.make(lgp_manifest(stage.namespace, name, **LIGHT)),
    )


def vanished_lgp(stage: Stage) -> Piece:
    """An LGP that went while the watcher was away."""
    work, name = posted(stage, LIGHT)
    return looks(
        work,
        LGPS,
        "get",
        lambda event: isinstance(event, LgpRemoved),
        beside=(),
        happens=lambda _: stage.delete(lgp_manifest(stage.namespace, name)),
    )


DEPLOYMENTS, REPLICA_SETS, PODS = (
    watch_of_lgp_objects(*kind) for kind in (("apps/v1", "Deployment"), ("apps/v1", "ReplicaSet"), ("v1", "Pod"))
)


def rollout(stage: Stage, verb: str, watched: Watch, done: Callable[[WorkloadStatus], bool]) -> Piece:
    """A workload whose image cannot be pulled."""
    work, name = posted(stage, {**LIGHT, "serverSpec": {"image": "registry.example/hello:missing"}})
    others = {"replicasets": REPLICA_SETS, "pods": PODS, "deployments": DEPLOYMENTS}
    others = {resource: one for resource, one in others.items() if one != watched}

    def happens(lookout: Lookout) -> None:
        work.advance()
        eventually(lambda: bool(stage.of(name, "pods")), "controllers make a pod")
        eventually(
            lambda: all("observedGeneration" in one["status"] for one in stage.of(name, "deployments")), "and say so"
        )
        for pod in stage.of(name, "pods"):
            stage.kubelet._report(pod)
        if lookout.later:
            for resource, other in others.items():
                lookout.see(other, stage.of(name, resource))

    return looks(
        work,
        watched,
        verb,
        lambda event: isinstance(event, WorkloadObserved) and done(event.workload),
        beside=(LGPS, *others.values()),
        happens=happens,
    )


def seen(
    resource: str, what: str, suffix: str = "", spec: Manifest = LIGHT, layout: str = "ingress", where: str = ""
) -> dict[Right, Line]:
    """Who watches lists first, and looks once more at what is suspected to have drifted."""
    return watched(
        resource,
        {
            "list": f"a {what} that was deleted while the watcher was away does not come back",
            "watch": f"that a {what} was deleted is only noticed by listing all of them again, seconds later",
            "get": f"a {what} that is missing is suspected, never confirmed, and does not come back",
        },
        lambda verb: partial(drift, verb=verb, resource=resource, suffix=suffix, spec=spec, where=where),
        layout,
        where,
    )


WATCHER_SAYS = {"list": "watch failed", "watch": "watch interrupted", "get": "comparison refused"}


def watched(
    resource: str,
    stops: dict[str, str],
    shown: Callable[[str], Callable[[Stage], Piece]],
    layout: str = "ingress",
    where: str = "",
) -> dict[Right, Line]:
    return {
        Right("watcher", verb, resource, where): Line(
            stops=words, shown=shown(verb), told=WATCHER_SAYS[verb], layout=layout
        )
        for verb, words in stops.items()
    }


PATH_LOST = {
    "list": "a path that was taken from the shared Ingress does not come back",
    "watch": "that a path was taken is only noticed by listing again, seconds later",
}

WATCHER: dict[Right, Line] = {
    Right("watcher", "get", "leases"): Line(
        stops="nothing in the namespace is seen, for nobody knows whose it is",
        shown=claimed(partial(somebodys_lgp, verb="list"), timedelta()),
        told="watch failed",
    ),
    **watched(
        "lgps",
        {
            "list": "no LGP is known",
            "watch": "an LGP that is made is only noticed by listing all of them again, seconds later",
            "get": "an LGP that went while the watcher was away is kept in mind, and what is left of it in the cluster",
        },
        lambda verb: vanished_lgp if verb == "get" else partial(somebodys_lgp, verb=verb),
    ),
    **seen("secrets", "password", "-db", WITH_DATABASE),
    **seen("deployments", "Agent Server"),
    **seen("statefulsets", "database", "-db", WITH_DATABASE),
    **seen("services", "Service"),
    **seen("horizontalpodautoscalers", "autoscaler", spec=SCALED),
    **seen("scaledobjects", "autoscaler", spec=SCALED, layout="gateway and KEDA"),
    **seen("poddisruptionbudgets", "budget of evictions", spec=DOUBLED),
    **seen("serviceaccounts", "account", "-sa", OWN_ACCOUNT, "gateway and KEDA"),
    **seen("secretproviderclasses", "class of secrets", spec=OWN_CLASS, layout="gateway and KEDA"),
    **seen("httproutes", "route", layout="gateway and KEDA"),
    **seen("virtualservices", "route", layout="istio"),
    **watched(
        "replicasets",
        {
            "list": "how a rollout goes is not known, so no revision is ever deployed",
            "watch": "which pods are of the newest revision is only noticed by listing again, seconds later",
        },
        lambda verb: partial(rollout, verb=verb, watched=REPLICA_SETS, done=lambda workload: bool(workload.template)),
    ),
    **watched(
        "pods",
        {
            "list": "how a rollout goes is not known, so no revision is ever deployed, or fails",
            "watch": "why a pod does not come up is only noticed by listing again, seconds later",
        },
        lambda verb: partial(rollout, verb=verb, watched=PODS, done=lambda workload: workload.failure is not None),
    ),
    **watched("ingresses", PATH_LOST, lambda verb: partial(path_drift, verb=verb)),
    **watched(
        "ingresses",
        PATH_LOST,
        lambda verb: partial(path_drift, verb=verb, where=FRONT),
        "ingress elsewhere",
        FRONT,
    ),
    **seen("services", "Service beside the Ingress", layout="ingress elsewhere", where=FRONT),
}


@pytest.mark.parametrize("right", WATCHER, ids=name_of)
def test_what_stops_without(right: Right, stages: Callable[[str], Stage]) -> None:
    assert_needed(right, WATCHER[right], stages)


def test_every_right_of_every_layout_is_in_the_table() -> None:
    assert rights_of("watcher") == WATCHER.keys()
