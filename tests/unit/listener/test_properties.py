"""Whatever happens, in whatever order: once things are quiet, what exists is what the control plane asks for.

Hypothesis makes up histories out of the moves below, crashes and races among them. Promises that hold at every moment
are checked as it goes (`Simulation._deleting`, `Simulation.advance`), the others when everything has come to rest.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import structlog.testing
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from engine.dataplane.events import DeletionGuardReleased
from engine.digests import canonical
from engine.errors import (
    ClusterUnavailable,
    ControlPlaneDenied,
    ControlPlaneThrottled,
    ControlPlaneUnavailable,
    ObjectRefused,
    ReportRefused,
    ReportsUnsupported,
)
from engine.listener.decide import RANK
from engine.listener.deletions import DeletionGuard
from engine.listener.events import Paused, Resumed
from engine.listener.poll import Poller
from engine.listener.state import Phase
from engine.names import DEPLOYMENT_LABEL, LGP_API_VERSION, data_plane_stream, deployment_stream, lgp_name
from engine.ports import Manifest, ObjectKey
from engine.replay import replay
from tests.support.clock import FakeClock
from tests.support.listener import LISTENER, LOCK_TTL, Crash, ListenerWorld, keyed, resource

ONE, OTHER = (f"{number}0000000-0000-4000-8000-000000000000" for number in (1, 2))
DEPLOYMENTS = (ONE, OTHER)
ELSEWHERE = "99999999-9999-4999-8999-999999999999"
MOST_ACTS = 40
"""Acts in one call; a revision needs about a dozen."""
MOST_ROUNDS = 80
ROUNDS_AT_REST = 8
"""The locks of the dead, and two polls of either worker, are over by then."""


class Defect(Exception):
    """What a bug raises."""


@dataclass
class Simulation:
    """A control plane, two workers, a watcher, an operator and people, all doing what they are told."""

    world: ListenerWorld = field(default_factory=lambda: ListenerWorld(clock=FakeClock(tick=timedelta(microseconds=1))))
    revisions: int = 0
    doomed: set[str] = field(default_factory=set)
    """Deployments that the control plane wanted gone, or did not have, at some time."""
    away: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Resources that vanished."""
    broken: list[str] = field(default_factory=list)
    """Promises that were not kept."""

    def __post_init__(self) -> None:
        world = self.world
        world.config = world.config.model_copy(update={"failure_grace": 5.0, "health_deadline": 20.0})
        world.record_configuration()
        world.cluster.on_delete = self._deleting
        self.pollers = [self._poller(), self._poller()]

    def _poller(self) -> Poller:
        return self.world.poller(DeletionGuard(share=0.5, minimum=1))

    @property
    def resources(self) -> dict[str, dict[str, Any]]:
        return self.world.control_plane.resources

    # --- the control plane

    def deploy(self, which: str, secret: int = 0, **changes: Any) -> None:
        """A new deployment, or a new revision of it."""
        self.revisions += 1
        before = self.resources.get(which)
        if before is not None and before["status"] == "AWAITING_DELETE":
            return
        raw = resource(
            f"rev-{self.revisions}",
            id=which,
            name=f"agent-{which[0]}",
            secrets=[{"name": "OPENAI_API_KEY", "value": f"sk-secret-{secret}"}],
            **changes,
        )
        if before is not None:
            raw["source_config"] = copy.deepcopy(before["source_config"])
        self.away.pop(which, None)
        self.resources[which] = raw

    def redeploy(self, which: str) -> None:
        """The same content under a new revision."""
        if which in self.resources and self.resources[which]["status"] != "AWAITING_DELETE":
            self.revisions += 1
            self.resources[which]["latest_revision_id"] = f"rev-{self.revisions}"

    def edit(self, which: str, memory: int) -> None:
        """Other content of the same revision."""
        if which in self.resources:
            self.resources[which]["source_config"]["resource_spec"] = {"memory_mb": memory}

    def delete(self, which: str) -> None:
        if which in self.resources:
            self.resources[which]["status"] = "AWAITING_DELETE"
            self.doomed.add(which)

    def undelete(self, which: str) -> None:
        if which in self.resources:
            self.resources[which]["status"] = "READY"

    def vanish(self, which: str) -> None:
        if which in self.resources:
            self.away[which] = self.resources.pop(which)
            self.doomed.add(which)

    def come_back(self, which: str) -> None:
        if which in self.away:
            self.resources[which] = self.away.pop(which)

    def malform(self, which: str, field_: str) -> None:
        if which in self.resources:
            source = self.resources[which]["source_config"]
            source["resource_spec"] = {field_: "many"}

    def mend(self, which: str) -> None:
        if which in self.resources:
            source = self.resources[which]["source_config"]
            source["resource_spec"] = {}
            source["listener_id"] = LISTENER
            source["listener_config"] = {"k8s_namespace": "agents"}

    def move(self, which: str, listener: bool) -> None:
        """What the control plane promises never to do."""
        if which in self.resources and self.world.state(which).namespace == "agents":
            source = self.resources[which]["source_config"]
            source |= {"listener_id": ELSEWHERE} if listener else {"listener_config": {"k8s_namespace": "elsewhere"}}

    def page(self, which: str, skipped: bool, repeated: bool) -> None:
        hidden = self.world.control_plane.hidden
        (hidden.add if skipped else hidden.discard)(which)
        self.world.control_plane.repeated = repeated

    def fail_reads(self, error: Exception | None, late: bool) -> None:
        plane = self.world.control_plane
        plane.error, plane.late_error = (None, error) if late else (error, None)

    def fail_reports(self, error: Exception | None) -> None:
        self.world.control_plane.report_error = self.world.control_plane.endpoint_error = error

    # --- the cluster

    def fail_writes(self, error: Exception | None) -> None:
        self.world.cluster.write_error = error

    def operate(self, which: str, said: str) -> None:
        """The operator, ours or another one, says how the LGP is."""
        lgp = self._lgp(which)
        if lgp is None:
            return
        generation = lgp["metadata"]["generation"] - (said == "stale")
        if said == "counts":
            lgp["status"] = {"deploymentStatus": {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}}
            return
        available, failing = said in ("available", "stale"), said == "failing"
        degraded = {"type": "Degraded", "status": str(failing), "reason": "CrashLoopBackOff", "message": "why"}
        since = self.world.clock.at.isoformat()
        lgp["status"] = {
            "observedGeneration": generation,
            "conditions": [
                {"type": "Available", "status": str(available)},
                {"type": "DatabaseReady", "status": "True"},
                {**degraded, "lastTransitionTime": since},
            ],
        }

    def answer(self, healthy: int, unhealthy: int) -> None:
        self.world.health.answers = [False] * unhealthy + [True] * healthy

    def edit_lgp(self, which: str) -> None:
        lgp = self._lgp(which)
        if lgp is not None:
            self.world.cluster.put({**lgp, "spec": {"serverSpec": {"image": "somebody/else"}}})

    def delete_lgp(self, which: str) -> None:
        self.world.cluster.objects.pop(self._key(which), None)

    def delete_secret(self, which: str) -> None:
        for key, _ in self._objects(which, "Secret")[-1:]:
            del self.world.cluster.objects[key]

    # --- people

    def pause(self, which: str) -> None:
        self._say(which, Paused(by="me"))

    def resume(self, which: str) -> None:
        self._say(which, Resumed(by="me"))

    def _say(self, which: str, event: Any) -> None:
        if self.world.state(which).id:
            stream = deployment_stream(which)
            self.world.events.append(stream, self.world.events.version(stream), [event], actor="cli")

    def rotate_key(self, key: int) -> None:
        self.world.digest = lambda value: keyed(f"key {key}".encode() + value)

    def release_deletions(self) -> None:
        release = DeletionGuardReleased(deployments=DEPLOYMENTS, by="me")
        stream = data_plane_stream(LISTENER)
        self.world.events.append(stream, self.world.events.version(stream), [release], actor="cli")

    # --- time and work

    def pass_seconds(self, seconds: float) -> None:
        self.world.clock.move(seconds)

    def poll(self, worker: int, crash_after: int = 0) -> None:
        def work() -> None:
            assert self.pollers[worker].poll().outcome != "refused"

        if not self._mortal(work, crash_after):
            self.pollers[worker] = self._poller()

    def advance(self, which: str, crash_after: int = 0) -> None:
        def work() -> None:
            done = self.world.advance(which)
            if done.outcome == "set_aside" or done.acts > MOST_ACTS:
                self.broken.append(f"{which}: {done} {self.world.types(which)[-12:]}")

        self._mortal(work, crash_after)

    def _mortal(self, work: Callable[[], None], crash_after: int) -> bool:
        """Do `work`, and die at that moment of it; return False if so."""
        if crash_after:
            self.world.moments.crash_after(crash_after)
        try:
            work()
        except Crash:
            return False
        finally:
            self.world.moments.crash_at = 0
        return True

    def race(self, which: str, meanwhile: str) -> None:
        """A worker sleeps through its lock between proof and write, and another one does its work."""
        cluster = self.world.cluster

        def sleep() -> None:
            cluster.on_write = lambda: None
            self.pass_seconds(2 * LOCK_TTL)
            if meanwhile == "new revision":
                self.deploy(which, secret=3)
            elif meanwhile == "deletion":
                self.delete(which)
            self.poll(1)
            self.advance(which)

        cluster.on_write = sleep
        self.advance(which)
        cluster.on_write = lambda: None

    def stale_page(self, which: str) -> None:
        """The list is read, then a newer revision comes, is fetched by an act, and only then is the page looked at."""

        def meanwhile() -> None:
            plane.between_pages = lambda: None
            self.deploy(which, secret=4)
            self.advance(which)

        plane = self.world.control_plane
        self.deploy(which, secret=5)
        self.poll(1)
        self.pollers[0] = self._poller()
        plane.between_pages = meanwhile
        self.poll(0)
        plane.between_pages = lambda: None

    def overtake(self, which: str) -> None:
        """An act fetches a newer revision, and before it can say so, a poll sees one that is newer still."""

        def meanwhile() -> None:
            plane.after_get = lambda: None
            self.deploy(which, secret=7)
            self.poll(1)

        plane = self.world.control_plane
        self.deploy(which, secret=5)
        self.poll(1)
        self.deploy(which, secret=6)
        plane.after_get = meanwhile
        self.advance(which)
        plane.after_get = lambda: None

    def fail_unexpectedly(self, which: str) -> None:
        """An act meets a defect."""
        self.world.cluster.write_error = Defect("sk-secret-0 must not be repeated")
        self.advance(which)
        self.world.cluster.write_error = None

    def watch(self, which: str) -> None:
        self.world.watch(which)

    # --- promises that hold at every moment

    def _deleting(self, key: ObjectKey) -> None:
        labels = self.world.cluster.objects[key]["metadata"]["labels"]
        which = labels[DEPLOYMENT_LABEL]
        if key.kind == "LGP" and which not in self.doomed:
            self.broken.append(f"{key} deleted, though nobody asked for it")
        state = self.world.state(which)
        if key.kind == "Secret" and not state.deletion:
            revision = state.revision
            if revision is None or revision.phase is not Phase.DEPLOYED or revision.secret == key.name:
                self.broken.append(f"{key} deleted, though no successor is deployed: {self.world.types(which)[-8:]}")

    # --- coming to rest

    def calm(self) -> None:
        """Everything works again and nobody changes anything any more."""
        self.fail_reads(None, late=False)
        self.fail_reads(None, late=True)
        self.fail_reports(None)
        self.fail_writes(None)
        self.world.health.answers = []
        self.world.control_plane.hidden.clear()
        for which in DEPLOYMENTS:
            self.resume(which)
        self.release_deletions()

    def acknowledge(self) -> None:
        """Poll, sweep, watch and operate until nothing is left to do. Only what is dirty or due is advanced."""
        events, quiet = self.world.events, 0
        for number in range(MOST_ROUNDS):
            before = self._cost()
            self.pass_seconds(4000 if number % 4 == 3 else 12)
            self.poll(number % 2)
            events.take_due(self.world.clock.now())
            for which in DEPLOYMENTS:
                if deployment_stream(which) in events.dirty():
                    self.advance(which)
                self.operate(which, "available")
                self.watch(which)
            quiet = quiet + 1 if self._cost() == before else 0
            if quiet == ROUNDS_AT_REST:
                return
        raise AssertionError(f"never comes to rest: {[self.world.types(which)[-8:] for which in DEPLOYMENTS]}")

    def _cost(self) -> tuple[int, int, int]:
        """Events, writes and reports so far. What cannot be understood is asked for once an hour: that is no change."""
        records = self.world.events.read_all(limit=1_000_000)
        events = sum(record.type != "ActRefused" for record in records)
        return events, len(self.world.cluster.writes), len(self.world.control_plane.reports)

    # --- looking

    def _key(self, which: str) -> ObjectKey:
        name = lgp_name(f"agent-{which[0]}", which)
        return ObjectKey(api_version=LGP_API_VERSION, kind="LGP", namespace="agents", name=name)

    def _lgp(self, which: str) -> Manifest | None:
        return self.world.cluster.objects.get(self._key(which))

    def _objects(self, which: str, kind: str) -> list[tuple[ObjectKey, Manifest]]:
        found = self.world.cluster.objects.items()
        return [(k, o) for k, o in found if k.kind == kind and o["metadata"]["labels"][DEPLOYMENT_LABEL] == which]

    def wanted(self, which: str) -> dict[str, Any] | None:
        """What the control plane asks for, as far as it is for us and can be understood."""
        raw = self.resources.get(which)
        if raw is None or raw["status"] == "AWAITING_DELETE":
            return None
        return raw

    def understood(self, which: str) -> bool:
        raw = self.resources.get(which)
        if raw is None:
            return True
        source = raw["source_config"]
        ours = source["listener_id"] == LISTENER and source["listener_config"]["k8s_namespace"] == "agents"
        return ours and not any(isinstance(value, str) for value in source["resource_spec"].values())


WHICH = st.sampled_from(DEPLOYMENTS)
CRASH = st.one_of(st.just(0), st.integers(1, 12))
READ_ERRORS = st.sampled_from(
    [None, ControlPlaneUnavailable("503"), ControlPlaneThrottled("429", 30.0), ControlPlaneDenied("401")]
)
REPORT_ERRORS = st.sampled_from(
    [None, ControlPlaneUnavailable("503"), ReportRefused("409"), ReportsUnsupported("405"), ControlPlaneDenied("401")]
)
WRITE_ERRORS = st.sampled_from(
    [None, ClusterUnavailable("away"), ObjectRefused("no", status=403), ObjectRefused("wrong", status=422)]
)


def move(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(st.just(name), *arguments)


WORK = [
    move("poll", st.integers(0, 1), CRASH),
    move("advance", WHICH, CRASH),
    move("watch", WHICH),
    move("operate", WHICH, st.sampled_from(["available", "failing", "stale", "counts"])),
    move("pass_seconds", st.sampled_from([1, 6, 11, 40, 400, 4000])),
]
CONTROL_PLANE = [
    move("deploy", WHICH, st.integers(0, 2)),
    move("redeploy", WHICH),
    move("edit", WHICH, st.integers(1, 3)),
    move("delete", WHICH),
    move("undelete", WHICH),
    move("vanish", WHICH),
    move("come_back", WHICH),
    move("malform", WHICH, st.sampled_from(["cpu", "min_scale", "volumes"])),
    move("mend", WHICH),
    move("move", WHICH, st.booleans()),
    move("page", WHICH, st.booleans(), st.booleans()),
]
TROUBLE = [
    move("fail_reads", READ_ERRORS, st.booleans()),
    move("fail_reports", REPORT_ERRORS),
    move("fail_writes", WRITE_ERRORS),
    move("fail_unexpectedly", WHICH),
    move("answer", st.integers(0, 2), st.integers(0, 6)),
    move("edit_lgp", WHICH),
    move("delete_lgp", WHICH),
    move("delete_secret", WHICH),
    move("pause", WHICH),
    move("resume", WHICH),
    move("rotate_key", st.integers(0, 2)),
    move("release_deletions"),
    move("race", WHICH, st.sampled_from(["new revision", "deletion", "nothing"])),
    move("stale_page", WHICH),
    move("overtake", WHICH),
    move("pass_seconds", st.just(-30)),
]
MOVES = st.lists(st.one_of(*WORK, *WORK, *WORK, *CONTROL_PLANE, *TROUBLE), min_size=10, max_size=60)
"""Moves by name; work is likelier than trouble."""
BEGINNINGS = st.sampled_from([[], [("deploy", ONE, 0), ("deploy", OTHER, 0), ("acknowledge",)]])
HISTORIES = st.builds(lambda beginning, moves: [*beginning, *moves], BEGINNINGS, MOVES)

EXAMPLES = os.environ.get("EXAMPLES")
"""How many histories to make up, other ones each time; unset: the same few as ever."""
THOROUGH = settings(
    max_examples=int(EXAMPLES or 100),
    derandomize=EXAMPLES is None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def lived(history: list[tuple[Any, ...]]) -> Simulation:
    simulation = Simulation()
    note(f"history: {history}")
    for name, *arguments in history:
        getattr(simulation, name)(*arguments)
    return simulation


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[None]:
    """Histories are long; hypothesis prints the one that matters."""
    with structlog.testing.capture_logs() as _:
        yield


@THOROUGH
@given(HISTORIES)
def test_once_things_are_quiet_the_cluster_is_as_the_control_plane_asks(history: list[tuple[Any, ...]]) -> None:
    simulation = lived(history)
    simulation.calm()
    simulation.acknowledge()

    assert simulation.broken == []
    for which in DEPLOYMENTS:
        if simulation.understood(which):
            check_outcome(simulation, which)
    check_reports(simulation)
    check_log(simulation)


@THOROUGH
@given(HISTORIES)
def test_the_newest_revision_wins_when_it_is_healthy(history: list[tuple[Any, ...]]) -> None:
    simulation = lived(history)
    simulation.calm()
    for which in simulation.resources:
        simulation.mend(which)
        simulation.deploy(which, secret=9)
    simulation.acknowledge()

    assert simulation.broken == []
    for which in DEPLOYMENTS:
        state = simulation.world.state(which)
        raw = simulation.wanted(which)
        check_outcome(simulation, which)
        if raw is not None:
            assert state.revisions.serving == raw["latest_revision_id"]
            assert state.revision.phase is Phase.DEPLOYED
    check_reports(simulation)
    check_log(simulation)


@THOROUGH
@given(HISTORIES)
def test_unchanged_input_costs_nothing(history: list[tuple[Any, ...]]) -> None:
    simulation = lived(history)
    simulation.calm()
    simulation.acknowledge()
    world = simulation.world
    before = simulation._cost()

    simulation.pollers = [simulation._poller(), simulation._poller()]
    for worker in (0, 1, 0):
        simulation.pass_seconds(10)
        simulation.poll(worker)
        for which in DEPLOYMENTS:
            world.events.mark_dirty(deployment_stream(which))
            simulation.advance(which)
            simulation.watch(which)

    assert simulation._cost() == before


def check_outcome(simulation: Simulation, which: str) -> None:
    raw, state = simulation.wanted(which), simulation.world.state(which)
    lgp, secrets = simulation._lgp(which), simulation._objects(which, "Secret")
    if raw is None:
        assert lgp is None
        assert secrets == []
        assert state.deleted or not state.id
        return
    revision = state.revision
    assert revision.id == raw["latest_revision_id"]
    if revision.phase is not Phase.DEPLOYED:
        assert revision.phase is Phase.DEPLOY_FAILED
        assert revision.reason
        assert (lgp is not None) == (state.lgp.applied is not None)
        return
    assert lgp is not None
    assert lgp["spec"]["serverSpec"]["image"] == raw["source_revision_config"]["image_uri"]
    env = {entry["name"]: entry for entry in lgp["spec"]["serverSpec"]["env"]}
    assert env["LANGSMITH_HOST_REVISION_ID"]["value"] == revision.id
    reference = env["OPENAI_API_KEY"]["valueFrom"]["secretKeyRef"]
    assert [key.name for key, _ in secrets] == [reference["name"]]
    assert secrets[0][1]["stringData"][reference["key"]] == raw["secrets"][0]["value"]


def check_reports(simulation: Simulation) -> None:
    """No report of a revision is below the one before, and the last one is the truth."""
    last: dict[str, str] = {}
    for subject, said in simulation.world.control_plane.reports:
        if subject not in DEPLOYMENTS:
            assert RANK[said] > RANK[last.get(subject, "QUEUED")] or last[subject] == said, (subject, last, said)
        last[subject] = said
    for which in DEPLOYMENTS:
        state = simulation.world.state(which)
        revision = state.revision
        refused = any(kind == "StatusReportRejected" for kind in simulation.world.types(which))
        if revision is None or refused or state.deletion:
            continue
        told = last.get(revision.id, "QUEUED")
        # A report cannot be taken back, so content that changes without a new revision is told of once it gets further.
        assert told == revision.phase or (told not in CLOSED and RANK[revision.phase] <= RANK[told])


CLOSED = (Phase.SKIPPED, Phase.INTERRUPTED)


def check_log(simulation: Simulation) -> None:
    events = simulation.world.events
    records = events.read_all(limit=1_000_000)
    text = b"".join(canonical(record.data) for record in records)
    assert b"sk-secret" not in text
    assert b"lsv2-key" not in text
    assert replay(records).divergences == []
    now = simulation.world.clock.at
    for which in DEPLOYMENTS:
        check_order(simulation, which)
        one, other = simulation.world.state(which), simulation.world.state(which)
        assert one == other
        machine = simulation.world.machine
        assert machine.decide(one, now) == machine.decide(other, now)


def check_order(simulation: Simulation, which: str) -> None:
    """The current revision is never followed by an older one."""
    machine, newest = simulation.world.machine, 0
    state = machine.initial
    for record in simulation.world.events.read(deployment_stream(which)):
        state = machine.evolve(state, machine.events.decode(record), record.at)
        if state.revision is not None:
            number = int(state.revision.id.removeprefix("rev-"))
            assert number >= newest
            newest = number


def test_the_simulation_can_break_a_promise() -> None:
    """The checks would notice: a Secret deleted behind our back counts, and so does an LGP."""
    simulation = Simulation()
    simulation.deploy(ONE)
    simulation.calm()
    simulation.acknowledge()
    (key, _), *_ = simulation._objects(ONE, "Secret")

    simulation.world.cluster.delete(key)
    simulation.world.cluster.delete(simulation._key(ONE))

    assert len(simulation.broken) == 2
