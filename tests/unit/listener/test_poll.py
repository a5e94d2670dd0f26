"""One poll: what becomes an event, what does not, and what is never deleted."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from engine.dataplane.events import DeletionGuardReleased
from engine.errors import ControlPlaneDenied, ControlPlaneThrottled, ControlPlaneUnavailable
from engine.listener.poll import Poller
from engine.listener.poll_context import PollMemory
from engine.log.memory import MemoryLog
from engine.names import data_plane_stream, deployment_stream
from tests.support.listener import DEPLOYMENT, LISTENER, WORKSPACE, ListenerWorld, resource

ENGINE = data_plane_stream(LISTENER)


@pytest.fixture
def poller(world: ListenerWorld) -> Poller:
    return world.poller()


def engine_types(world: ListenerWorld) -> list[str]:
    return [record.type for record in world.events.read(ENGINE)]


def identified(number: int) -> str:
    return f"{number:08d}-0000-4000-8000-000000000000"


def fill(world: ListenerWorld, count: int, **changes: Any) -> None:
    for number in range(count):
        world.control_plane.resources[identified(number)] = resource(id=identified(number), **changes)


def test_a_new_deployment_becomes_events_and_is_dispatched(world: ListenerWorld, poller: Poller) -> None:
    world.control_plane.resources[DEPLOYMENT] = resource()

    assert poller.poll().changed == [deployment_stream(DEPLOYMENT)]
    assert world.types() == ["DeploymentRegistered", "RevisionRequested"]
    assert world.dispatched == [deployment_stream(DEPLOYMENT)]
    assert world.control_plane.versions == ["1.2.3"]


def test_an_unchanged_list_adds_nothing_even_to_a_process_without_memory(world: ListenerWorld, poller: Poller) -> None:
    fill(world, 5)
    poller.poll()
    head = world.events.head()

    assert poller.poll().changed == []
    poller.memory = PollMemory(handshake_done=True)
    assert poller.poll().changed == []
    assert world.events.head() == head


def test_what_a_process_remembers_is_forgotten_with_the_history_of_the_log(
    world: ListenerWorld, poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request for a revision was lost, and another event has its version: the version alone would not tell."""
    world.control_plane.resources[DEPLOYMENT] = resource()
    poller.poll()
    registered, requested = world.events.read(deployment_stream(DEPLOYMENT))
    taken_back = MemoryLog(world.clock)
    taken_back.restore([registered, dataclasses.replace(requested, type="Paused", schema_version=1, data={"by": "x"})])
    poller.events = taken_back
    monkeypatch.setattr(taken_back, "history", lambda: "another")

    assert poller.poll().changed == [deployment_stream(DEPLOYMENT)]
    assert [r.type for r in taken_back.read(deployment_stream(DEPLOYMENT))][2:] == ["RevisionRequested"]
    assert poller.poll().changed == []


@pytest.mark.parametrize(
    "change",
    [
        {"tenant_id": "99999999-9999-4999-8999-999999999999"},
        {"source": "github"},
        {"source_config": {"listener_id": "another", "listener_config": {"k8s_namespace": "agents"}}},
        {"source_config": None},
    ],
)
def test_what_is_not_addressed_to_us_is_never_touched(
    world: ListenerWorld, poller: Poller, change: dict[str, Any]
) -> None:
    world.control_plane.resources[DEPLOYMENT] = resource(**change)

    assert poller.poll().listed == 0
    assert world.types() == []


def test_a_malformed_deployment_is_named_once_and_the_others_go_on(world: ListenerWorld, poller: Poller) -> None:
    fill(world, 2)
    world.control_plane.resources[DEPLOYMENT] = resource(source_revision_config={"image_uri": None})
    for _ in range(3):
        poller.poll()

    rejections = [r.data for r in world.events.read(ENGINE) if r.type == "ResourceRejected"]
    assert [(r["resource"], r["field"]) for r in rejections] == [
        (f"deployment {DEPLOYMENT}", "source_revision_config.image_uri")
    ]
    assert len(world.events.streams("deployment/")) == 2


def test_a_failing_control_plane_leaves_two_edges(world: ListenerWorld, poller: Poller) -> None:
    world.control_plane.error = ControlPlaneUnavailable("GET /v2/deployments: 503")
    for _ in range(5):
        poller.poll()
        world.clock.move(400)
    world.control_plane.error = None
    poller.poll()
    poller.poll()

    assert [t for t in engine_types(world) if t.startswith("Poll")] == ["PollFailed", "PollRecovered"]


def test_retry_after_is_honoured(world: ListenerWorld, poller: Poller) -> None:
    world.control_plane.error = ControlPlaneThrottled("429", retry_after=120)
    assert poller.poll().outcome == "failed"
    world.control_plane.error = None

    world.clock.move(119)
    assert poller.poll().outcome == "resting"
    world.clock.move(2)
    assert poller.poll().outcome == "polled"


def test_a_denied_key_is_an_error_that_names_the_setting(world: ListenerWorld, poller: Poller) -> None:
    world.control_plane.error = ControlPlaneDenied("401: check AGENTPLANE_LANGSMITH_API_KEY")

    assert "AGENTPLANE_LANGSMITH_API_KEY" in poller.poll().error


def test_absence_from_a_list_deletes_nothing(world: ListenerWorld, poller: Poller) -> None:
    world.control_plane.resources[DEPLOYMENT] = resource()
    poller.poll()
    world.control_plane.hidden.add(DEPLOYMENT)
    for _ in range(5):
        poller.poll()

    assert not world.state().deletion


def test_a_404_in_two_polls_running_deletes(world: ListenerWorld, poller: Poller) -> None:
    world.control_plane.resources[DEPLOYMENT] = resource()
    poller.poll()
    del world.control_plane.resources[DEPLOYMENT]

    poller.poll()
    assert not world.state().deletion
    poller.poll()
    assert "404" in world.state().deletion.reason


def test_a_404_in_between_does_not_count(world: ListenerWorld, poller: Poller) -> None:
    raw = resource()
    world.control_plane.resources[DEPLOYMENT] = raw
    poller.poll()
    for _ in range(3):
        del world.control_plane.resources[DEPLOYMENT]
        poller.poll()
        world.control_plane.resources[DEPLOYMENT] = raw
        poller.poll()

    assert not world.state().deletion


def test_too_many_deletions_at_once_wait_for_a_person(world: ListenerWorld, poller: Poller) -> None:
    fill(world, 10)
    poller.poll()
    fill(world, 8, status="AWAITING_DELETE")
    poller.poll()
    poller.poll()

    assert engine_types(world).count("DeletionGuardTripped") == 1
    assert not any(world.state(identified(n)).deletion for n in range(10))

    release = DeletionGuardReleased(deployments=tuple(identified(n) for n in range(8)), by="me")
    world.events.append(ENGINE, world.events.version(ENGINE), [release], actor="cli")
    poller.poll()

    assert [bool(world.state(identified(n)).deletion) for n in range(10)] == [True] * 8 + [False] * 2


def test_a_few_deletions_go_at_once(world: ListenerWorld, poller: Poller) -> None:
    fill(world, 3)
    poller.poll()
    fill(world, 2, status="AWAITING_DELETE")
    poller.poll()

    assert [bool(world.state(identified(n)).deletion) for n in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("listeners", "told"),
    [
        ({}, "knows no listener"),
        ({LISTENER: {"compute_config": {"k8s_namespaces": ["agents", "more"]}}}, "[agents, more]"),
    ],
)
def test_a_listener_that_does_not_fit_is_refused_once_and_nothing_is_polled(
    world: ListenerWorld, poller: Poller, listeners: dict[str, Any], told: str
) -> None:
    world.control_plane.resources[DEPLOYMENT] = resource()
    world.control_plane.listeners = listeners
    assert told in poller.poll().error
    poller.poll()

    assert engine_types(world) == ["ListenerRefused"]
    assert world.types() == []


def test_two_polls_do_not_run_at_once(world: ListenerWorld, poller: Poller) -> None:
    with world.events.lock(f"poll/{LISTENER}", 60):
        assert poller.poll().outcome == "busy"


def test_a_restored_deployment_starts_anew(world: ListenerWorld, poller: Poller) -> None:
    world.control_plane.resources[DEPLOYMENT] = resource()
    poller.poll()
    world.control_plane.resources[DEPLOYMENT] = resource(status="AWAITING_DELETE")
    poller.poll()
    world.advance()
    assert world.state().deleted

    world.control_plane.resources[DEPLOYMENT] = resource("r2", tenant_id=WORKSPACE)
    poller.poll()

    assert not world.state().deleted
    assert world.state().revision.id == "r2"


def test_a_deployment_that_was_mended_is_skipped_no_more(world: ListenerWorld, poller: Poller) -> None:
    raw = resource()
    raw["source_config"]["resource_spec"] = {"cpu": "much"}
    world.control_plane.resources[DEPLOYMENT] = raw
    poller.poll()
    poller.poll()
    world.control_plane.resources[DEPLOYMENT] = resource()
    poller.poll()
    poller.poll()

    told = [t for t in engine_types(world) if t.startswith("Resource")]
    assert told == ["ResourceRejected", "ResourceAccepted"]
    assert world.state().revision.id == "r1"


def test_a_skipped_deployment_that_is_listed_no_more_is_forgotten(world: ListenerWorld, poller: Poller) -> None:
    world.control_plane.resources[DEPLOYMENT] = resource(name="")
    poller.poll()
    raw = world.control_plane.resources.pop(DEPLOYMENT)
    poller.poll()
    world.control_plane.resources[DEPLOYMENT] = raw
    poller.poll()

    told = [t for t in engine_types(world) if t.startswith("Resource")]
    assert told == ["ResourceRejected", "ResourceAccepted", "ResourceRejected"]


def test_a_deployment_without_an_id_is_named_and_the_others_go_on(world: ListenerWorld, poller: Poller) -> None:
    fill(world, 2)
    nameless = resource(id=None, name="nameless")
    world.control_plane.deployments = lambda: iter(  # type: ignore[method-assign]
        [[nameless, *world.control_plane.resources.values()]]
    )
    for _ in range(3):
        poller.poll()

    rejections = [r.data for r in world.events.read(ENGINE) if r.type == "ResourceRejected"]
    assert [(r["resource"], r["field"]) for r in rejections] == [("deployment (no id) nameless", "id")]
    assert len(world.events.streams("deployment/")) == 2


def test_what_is_wrong_with_a_deployment_does_not_keep_it_from_being_deleted(
    world: ListenerWorld, poller: Poller
) -> None:
    world.control_plane.resources[DEPLOYMENT] = resource()
    poller.poll()
    world.advance()
    world.control_plane.resources[DEPLOYMENT] = resource(status="AWAITING_DELETE", source_revision_config=None)
    poller.poll()

    assert world.state().deletion.reason == "AWAITING_DELETE"


def test_a_guard_that_holds_nothing_any_more_lets_go(world: ListenerWorld, poller: Poller) -> None:
    fill(world, 10)
    poller.poll()
    fill(world, 8, status="AWAITING_DELETE")
    poller.poll()
    fill(world, 10)
    poller.poll()
    poller.poll()

    assert [t for t in engine_types(world) if "Guard" in t] == ["DeletionGuardTripped", "DeletionGuardReleased"]
    assert not any(world.state(identified(n)).deletion for n in range(10))


def test_a_listener_that_is_mended_is_polled(world: ListenerWorld, poller: Poller) -> None:
    world.control_plane.resources[DEPLOYMENT] = resource()
    fitting = dict(world.control_plane.listeners)
    world.control_plane.listeners = {}
    assert poller.poll().outcome == "refused"
    world.control_plane.listeners = fitting

    assert poller.poll().outcome == "polled"
    assert engine_types(world) == ["ListenerRefused", "ListenerPublished"]
    assert world.state().id == DEPLOYMENT


def test_a_page_that_fails_after_others_loses_nothing_and_deletes_nothing(world: ListenerWorld, poller: Poller) -> None:
    world.control_plane.resources[DEPLOYMENT] = resource()
    poller.poll()
    del world.control_plane.resources[DEPLOYMENT]
    world.control_plane.late_error = ControlPlaneUnavailable("page 2: 503")
    for _ in range(3):
        assert poller.poll().outcome == "failed"
        world.clock.move(400)
    assert not world.state().deletion

    world.control_plane.late_error = None
    poller.poll()
    assert not world.state().deletion
    poller.poll()
    assert world.state().deletion


def test_a_defect_in_one_deployment_does_not_stop_the_others(world: ListenerWorld, poller: Poller) -> None:
    """What goes wrong with one is not allowed to be more than that, whatever it is."""
    deep: Any = {}
    for _ in range(800):
        deep = {"a": deep}
    fill(world, 1)
    raw = resource()
    raw["source_config"]["resource_spec"] = {"volumes": [{"name": "v", "deep": deep}]}
    world.control_plane.resources = {DEPLOYMENT: raw, **world.control_plane.resources}
    world.control_plane.deployments = lambda: iter(  # type: ignore[method-assign]
        [list(world.control_plane.resources.values())]
    )
    assert poller.poll().outcome == "polled"

    assert world.state(identified(0)).id == identified(0)
