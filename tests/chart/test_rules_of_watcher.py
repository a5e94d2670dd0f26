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
    name_of,
    posted,
    rights_of,
    with_lease,
)
from tests.support.eventually import eventually
from tests.support.operator_stack import lgp_manifest
from workers.watcher import watch

PATIENCE = 60.0
"""Seconds that a test waits for a result; a loaded machine is slow."""


class Turn:
    """Replaces an event that the watcher waits on; the work of other processes happens during the wait."""

    def __init__(self, ended: Callable[[], bool], waits: Callable[[], None]) -> None:
        self._ended, self._waits = ended, waits

    def is_set(self) -> bool:
        return bool(failing(self._ended))

    def wait(self, seconds: float) -> None:
        failing(self._waits)


def failing(do: Callable[[], Any]) -> Any:
    """Call a function of the test; turn its error into a failed test, because the watcher survives ordinary errors."""
    try:
        return do()
    except Exception as error:
        pytest.fail(f"{type(error).__name__}: {error}")


@dataclass(kw_only=True)
class Lookout:
    """The watcher: follows the watches of `beside`, then `watched`, and compares the observed objects with the log."""

    stage: Stage
    events: MemoryLog
    stream: str
    watched: Watch
    happens: Callable[[Lookout], None]
    is_done: Callable[[], bool]
    beside: tuple[Watch, ...] = (LGPS,)
    where: str = ""
    """Where `watched` is followed: empty for the watched namespace, or FRONT."""
    later: bool = False
    """Whether `happens` is called after `watched` has synced, so that only the watch stream can report the change."""

    def __post_init__(self) -> None:
        self.watcher = watch(self.stage.engine("watcher", self.events))
        self._now = time.monotonic()
        self._lines: list[Any] = []
        self._fix: Callable[[], None] | None = None

    def run(self, fix: Callable[[], None]) -> None:
        self._fix = fix
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
            self._compare()
            if self._fix is not None:  # no watch was refused, so the read that confirms the drift was
                self._meanwhile()
                self._now += 60
                self._compare()

    def done(self) -> bool:
        return self.is_done()

    def reports(self) -> list[str]:
        return [f"{line['event']} {line.get('error', '')}" for line in self._lines]

    def deliver(self, watched: Watch, manifests: Sequence[Manifest]) -> None:
        """Give the observation loop objects that another watch would report."""
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
            self._compare()
            return self.done()

        def late() -> bool:
            assert time.monotonic() < deadline, f"{watched} does not report the change"
            return False

        self.watcher._stop = Turn(ended, self._meanwhile)  # type: ignore[assignment]
        self.stage.accounts["watcher"]._http.closed = Turn(late, self._meanwhile)  # type: ignore[assignment]
        self.watcher._follow(watched, self.stage.space(self.where if watched == self.watched else ""))

    def _meanwhile(self) -> None:
        self._compare()
        fix, self._fix = self._fix, None
        assert fix is not None, f"the watcher waits although nothing is refused: {self.reports()}"
        fix()

    def _compare(self) -> None:
        """Compare everything that is due within 10 seconds, which is longer than the debounce time."""
        loop, until = self.watcher.loop, self._now + 10
        loop.take(Appended(self.stream), self._now)
        while (due := loop.next_due()) is not None and due <= until:
            loop.compare_due(due)


def watcher_of(work: Work, watched: Watch, verb: str, done: Callable[[Event], bool], **options: Any) -> Lookout:
    """Return a watcher that shares the log with the operator of `work`."""
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
    """An object of an LGP is deleted by hand."""
    work, name = posted(stage, spec)
    work.advance()
    kind = KINDS[resource]
    (live,) = (one for one in stage.of(name, resource, where) if where or one["metadata"]["name"] == f"{name}{suffix}")
    special = {
        "secrets": SECRETS,
        "poddisruptionbudgets": BUDGETS,
        **({"services": EXTERNAL_SERVICES} if where else {}),
    }
    return watcher_of(
        work,
        special.get(resource, watch_of_lgp_objects(API_VERSIONS[resource], kind)),
        verb,
        lambda event: isinstance(event, DriftDetected) and (event.key.kind, event.change) == (kind, "deleted"),
        happens=lambda _: stage.delete(live),
        where=where,
    )


def path_drift(stage: Stage, verb: str, where: str = "") -> Piece:
    """The path of an LGP on the shared Ingress is removed by hand."""
    work, name = posted(stage, LIGHT)
    work.advance()
    assert stage.leads_to(name)

    def happens(_: Lookout) -> None:
        ingress = stage.shared_ingress()
        rules = without_path(ingress, f"/lgp/{name}")["spec"]["rules"]
        stage.merge(stage.path("ingresses", ingress["metadata"]["name"], FRONT), {"spec": {"rules": rules}})

    return watcher_of(
        work, INGRESSES, verb, lambda event: isinstance(event, DriftDetected), happens=happens, where=where
    )


def lgp_by_hand(stage: Stage, verb: str) -> Piece:
    """An LGP is created by hand."""
    name = f"by-hand-{uuid.uuid4().hex[:8]}"
    work = Work(stage=stage, engine=stage.engine("operator"), stream=lgp_stream(stage.namespace, name))
    return watcher_of(
        work,
        LGPS,
        verb,
        lambda event: isinstance(event, LgpObserved),
        beside=(),
        happens=lambda _: stage.make(lgp_manifest(stage.namespace, name, **LIGHT)),
    )


def vanished_lgp(stage: Stage) -> Piece:
    """An LGP is deleted while the watcher does not run."""
    work, name = posted(stage, LIGHT)
    return watcher_of(
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
        eventually(lambda: bool(stage.of(name, "pods")), "the controllers have made a pod")
        eventually(
            lambda: all("observedGeneration" in one["status"] for one in stage.of(name, "deployments")),
            "the controllers have reported it",
        )
        for pod in stage.of(name, "pods"):
            stage.kubelet._report(pod)
        if lookout.later:
            for resource, other in others.items():
                lookout.deliver(other, stage.of(name, resource))

    return watcher_of(
        work,
        watched,
        verb,
        lambda event: isinstance(event, WorkloadObserved) and done(event.workload),
        beside=(LGPS, *others.values()),
        happens=happens,
    )


def observed(
    resource: str, what: str, suffix: str = "", spec: Manifest = LIGHT, layout: str = "ingress", where: str = ""
) -> dict[Right, Line]:
    """Return the rights on a kind that the watcher observes.

    A watch begins with a list. Before the watcher reports drift, it reads the object again.
    """
    return watched(
        resource,
        {
            "list": f"a {what} that was deleted while the watcher did not run does not come back",
            "watch": f"the deletion of a {what} is noticed only by the next list, seconds later",
            "get": f"the deletion of a {what} stays unconfirmed, so it does not come back",
        },
        lambda verb: partial(drift, verb=verb, resource=resource, suffix=suffix, spec=spec, where=where),
        layout,
        where,
    )


LOG_LINES = {"list": "watch failed", "watch": "watch interrupted", "get": "comparison refused"}


def watched(
    resource: str,
    stops: dict[str, str],
    shown: Callable[[str], Callable[[Stage], Piece]],
    layout: str = "ingress",
    where: str = "",
) -> dict[Right, Line]:
    return {
        Right("watcher", verb, resource, where): Line(
            stops=words, shown=shown(verb), reported_as=LOG_LINES[verb], layout=layout
        )
        for verb, words in stops.items()
    }


PATH_LOST = {
    "list": "a path that was removed from the shared Ingress does not come back",
    "watch": "the removal of a path is noticed only by the next list, seconds later",
}

WATCHER: dict[Right, Line] = {
    Right("watcher", "get", "leases"): Line(
        stops="nothing in the namespace is observed, because its holder is unknown",
        shown=with_lease(partial(lgp_by_hand, verb="list"), timedelta()),
        reported_as="watch failed",
    ),
    **watched(
        "lgps",
        {
            "list": "no LGP is known",
            "watch": "a new LGP is noticed only by the next list, seconds later",
            "get": "an LGP that was deleted while the watcher did not run is never recorded as removed; leftovers stay",
        },
        lambda verb: vanished_lgp if verb == "get" else partial(lgp_by_hand, verb=verb),
    ),
    **observed("secrets", "password", "-db", WITH_DATABASE),
    **observed("deployments", "Agent Server"),
    **observed("statefulsets", "database", "-db", WITH_DATABASE),
    **observed("services", "Service"),
    **observed("horizontalpodautoscalers", "autoscaler", spec=SCALED),
    **observed("scaledobjects", "autoscaler", spec=SCALED, layout="gateway and KEDA"),
    **observed("poddisruptionbudgets", "PodDisruptionBudget", spec=DOUBLED),
    **observed("serviceaccounts", "ServiceAccount", "-sa", OWN_ACCOUNT, "gateway and KEDA"),
    **observed("secretproviderclasses", "SecretProviderClass", spec=OWN_CLASS, layout="gateway and KEDA"),
    **observed("httproutes", "route", layout="gateway and KEDA"),
    **observed("virtualservices", "route", layout="istio"),
    **watched(
        "replicasets",
        {
            "list": "the progress of a rollout is unknown, so no revision is ever deployed",
            "watch": "which pods belong to the newest revision is noticed only by the next list, seconds later",
        },
        lambda verb: partial(rollout, verb=verb, watched=REPLICA_SETS, done=lambda workload: bool(workload.template)),
    ),
    **watched(
        "pods",
        {
            "list": "the progress of a rollout is unknown, so no revision is ever deployed or failed",
            "watch": "the reason why a pod does not start is noticed only by the next list, seconds later",
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
    **observed("services", "Service in the namespace of the Ingress", layout="ingress elsewhere", where=FRONT),
}


@pytest.mark.parametrize("right", WATCHER, ids=name_of)
def test_what_stops_without(right: Right, stages: Callable[[str], Stage]) -> None:
    assert_needed(right, WATCHER[right], stages)


def test_every_right_of_every_layout_is_in_the_table() -> None:
    assert rights_of("watcher") == WATCHER.keys()
