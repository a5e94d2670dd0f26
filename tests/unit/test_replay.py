"""Replay: it agrees with every log of a real run, and with no log that was tampered with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from engine.dataplane.events import ConfigurationRecorded
from engine.digests import digest
from engine.errors import ClusterUnavailable, ConcurrencyConflict, FutureEvent, ObjectRefused
from engine.event import Record
from engine.listener.events import DEPLOYMENT_EVENTS, Paused
from engine.listener.machine import ListenerMachine
from engine.names import deployment_stream
from engine.operator.events import LGP_EVENTS
from engine.replay import CHANGEOVER, MATCHES, SKEW, Replay, ReplayError, replay
from tests.support.clock import FakeClock
from tests.support.listener import DEPLOYMENT, ListenerWorld, deploy, operator_says, resource, see

STREAM = deployment_stream(DEPLOYMENT)


@pytest.fixture
def world() -> ListenerWorld:
    world = ListenerWorld(clock=FakeClock(tick=timedelta(microseconds=1)))
    world.record_configuration()
    return world


def records(world: ListenerWorld) -> list[Record]:
    return world.events.read_all(limit=100_000)


def replayed(world: ListenerWorld) -> Replay:
    return replay(records(world))


def problems(found: Iterable[Record]) -> list[str]:
    return [divergence.problem for divergence in replay(found).divergences]


def changed(world: ListenerWorld, type_: str, number: int = 0, **change: Any) -> list[Record]:
    """Return the log with one changed record: fields of the record, or of its data."""
    found = records(world)
    target = [record for record in found if record.type == type_][number]
    outer = {name: value for name, value in change.items() if hasattr(target, name)}
    data = {name: value for name, value in change.items() if name not in outer}
    return [replace(r, data={**r.data, **data}, **outer) if r.id == target.id else r for r in found]


# --- logs that were really made


def test_a_whole_life_agrees_and_is_compared_act_by_act(world: ListenerWorld) -> None:
    deploy(world)
    deploy(world, "r2")
    see(world, resource("r2", status="AWAITING_DELETE"))
    world.advance()
    world.clock.move(11)
    world.advance()

    result = replayed(world)

    assert result.divergences == []
    mine = [record for record in records(world) if record.actor == "listener"]
    assert result.checked >= len(mine)
    assert result.streams == 1
    assert result.manifests == 0  # it was deleted


def test_two_replays_are_equal_byte_for_byte_and_another_log_is_not(world: ListenerWorld) -> None:
    deploy(world)
    one, other = replayed(world), replayed(world)
    deploy(world, "r2")

    assert one.transcript == other.transcript
    assert one.digest == other.digest != replayed(world).digest


def test_timed_decisions_are_made_at_their_time(world: ListenerWorld) -> None:
    """Health checks, the grace of a failing pod, the deadline of a rollout: acts that only the time causes."""
    world.health.answers = [False] * 4
    see(world, resource("r1"))
    world.advance()
    operator_says(world, available=True)
    for _ in range(10):
        world.advance()
        world.clock.move(3)
    see(world, resource("r2"))
    world.advance()
    operator_says(world, available=False, reason="CrashLoopBackOff")
    world.advance()
    world.clock.move(15)
    world.advance()
    see(world, resource("r3"))
    world.advance()
    world.clock.move(1000)
    world.advance()

    types = world.types()
    assert types.count("HealthChecked") == 5
    assert types.count("RevisionFailed") == 2
    assert replayed(world).divergences == []


def test_timed_acts_are_not_decided_before_their_time(world: ListenerWorld) -> None:
    see(world, resource("r1"))
    world.advance()
    world.clock.move(301)
    world.advance()
    failed = next(record for record in records(world) if record.type == "RevisionFailed")

    early = changed(world, "RevisionFailed", at=failed.at - timedelta(seconds=100))

    assert any("RevisionFailed was caused by FailRevision" in problem for problem in problems(early))


def test_clocks_that_differ_are_no_divergence_up_to_a_limit(world: ListenerWorld) -> None:
    see(world, resource("r1"))
    world.advance()
    world.clock.move(301)
    world.advance()
    deadline = next(r.at for r in records(world) if r.type == "LgpApplied") + timedelta(seconds=300)

    near = changed(world, "RevisionFailed", at=deadline - SKEW / 2)
    far = changed(world, "RevisionFailed", at=deadline - 2 * SKEW)

    assert problems(near) == []
    assert problems(far) != []


@pytest.mark.parametrize("act", ["ApplySecrets", "ApplyLgp", "CheckHealth", "CompleteRevision", "ReportStatus"])
def test_events_of_others_that_come_during_an_act_are_no_divergence(world: ListenerWorld, act: str) -> None:
    """Another actor appends between an act and its events, so the act was decided for an earlier state."""
    original = world.events.append
    done: list[str] = []

    def interrupted(stream: str, expected: int, events: Any, **named: Any) -> int:
        if named.get("cause") == act and not done:
            done.append(act)
            raw = resource("r2", secrets=[{"name": "OPENAI_API_KEY", "value": "sk-second"}])
            see(world, raw)
            raise ConcurrencyConflict(stream, expected, world.events.version(stream))
        return original(stream, expected, events, **named)

    world.events.append = interrupted  # type: ignore[method-assign,assignment]
    deploy(world)
    world.advance()
    operator_says(world, available=True)
    world.advance()

    assert done == [act]
    assert world.state().revisions.serving == "r2"
    assert replayed(world).divergences == []


def test_failures_and_refusals_agree(world: ListenerWorld) -> None:
    see(world, resource("r1"))
    for error in (ClusterUnavailable("away"), ObjectRefused("forbidden", status=403), None):
        world.cluster.write_error = error
        world.clock.move(40)
        world.advance()

    assert {"ActDeferred", "LgpRejected", "LgpApplied"} <= set(world.types())
    assert replayed(world).divergences == []


def test_a_change_of_configuration_is_in_force_from_its_place_on(world: ListenerWorld) -> None:
    deploy(world)
    world.config = world.config.model_copy(update={"hostname": "other.example", "tracing": False})
    world.record_configuration()
    world.events.mark_dirty(STREAM)
    world.advance()

    assert world.types().count("LgpApplied") == 2
    assert replayed(world).divergences == []


def test_a_process_that_is_being_replaced_may_go_on_for_a_while(world: ListenerWorld) -> None:
    old = world.config
    new = old.model_copy(update={"tracing": False})
    deploy(world)
    world.config = new
    world.record_configuration()
    world.config = old  # this process does not know yet
    deploy(world, "r2")
    assert replayed(world).divergences == []

    world.clock.move(CHANGEOVER.total_seconds() + 60)
    deploy(world, "r3")
    assert any("manifest" in divergence.problem for divergence in replayed(world).divergences)


# --- logs that were tampered with


@pytest.mark.parametrize(
    ("type_", "change", "told"),
    [
        ("LgpApplied", {"manifest_digest": "0" * 16}, "manifest of digest 0000000000000000"),
        ("LgpApplied", {"revision_id": "r9"}, "LgpApplied has"),
        ("SecretsApplied", {"revision_id": "r9"}, "SecretsApplied has"),
        ("RevisionDeployed", {"revision_id": "r9"}, "RevisionDeployed has"),
        ("RevisionDeployed", {"cause": "FailRevision"}, "the current code decides CompleteRevision"),
        ("HealthChecked", {"url": "https://elsewhere/ok"}, "HealthChecked has"),
        ("HealthChecked", {"attempt": 7}, "HealthChecked has"),
        ("StatusReported", {"status": "DEPLOYED"}, "StatusReported has"),
        ("SecretsPruned", {"kept": "another"}, "SecretsPruned has"),
        ("EndpointPublished", {"url": "https://elsewhere"}, "EndpointPublished has"),
    ],
)
def test_an_event_that_says_something_else_diverges(
    world: ListenerWorld, type_: str, change: dict[str, Any], told: str
) -> None:
    deploy(world)

    assert any(told in problem for problem in problems(changed(world, type_, **change)))


def test_another_reason_than_the_current_code_gives_diverges(world: ListenerWorld) -> None:
    see(world, resource("r1", secrets=[{"name": "PORT", "value": "1"}]))
    world.advance()

    assert replayed(world).divergences == []
    other = changed(world, "RevisionFailed", message="the moon was full")
    assert any("the moon was full" in problem for problem in problems(other))


def test_an_act_without_its_cause_in_the_log_diverges(world: ListenerWorld) -> None:
    """With another input, the current code does not decide the act that was done."""
    deploy(world)
    otherwise = changed(world, "RolloutObserved", available=False)

    assert any("HealthChecked was caused by CheckHealth" in problem for problem in problems(otherwise))


def test_a_log_with_a_hole_is_refused(world: ListenerWorld) -> None:
    deploy(world)
    without = [record for record in records(world) if record.type != "RolloutObserved"]

    with pytest.raises(ReplayError, match="events are missing"):
        replay(without)


def test_an_act_that_was_done_twice_diverges(world: ListenerWorld) -> None:
    deploy(world)
    found = records(world)
    deployed = next(record for record in found if record.type == "RevisionDeployed")
    again = replace(deployed, id="again", version=found[-1].version + 1, position=found[-1].position + 1)
    again = replace(again, at=found[-1].at + timedelta(seconds=1))

    assert any("RevisionDeployed was caused by CompleteRevision" in problem for problem in problems([*found, again]))


def test_one_act_of_several_events_is_one_batch(world: ListenerWorld) -> None:
    see(world, resource("r1"))
    world.cluster.write_error = ObjectRefused("spec.image: Required value", status=422)
    world.advance()
    assert world.types()[-3:-1] == ["LgpRejected", "RevisionFailed"]
    assert replayed(world).divergences == []

    second = next(record for record in records(world) if record.type == "RevisionFailed")
    apart = changed(world, "RevisionFailed", at=second.at + timedelta(seconds=1))
    assert problems(apart) != []


# --- logs that cannot be replayed


def test_a_log_without_a_configuration_is_refused() -> None:
    world = ListenerWorld()
    deploy(world)

    with pytest.raises(ReplayError, match="no configuration"):
        replayed(world)


def test_a_stream_without_a_component_is_refused(world: ListenerWorld) -> None:
    world.events.append("moon/1", 0, [Paused(by="me")], actor="cli")

    with pytest.raises(ReplayError, match="moon/1"):
        replayed(world)


def test_an_event_of_a_newer_program_is_refused(world: ListenerWorld) -> None:
    deploy(world)

    with pytest.raises(FutureEvent, match="upgrade"):
        replay(changed(world, "LgpApplied", type="LgpTeleported"))


def test_configurations_of_the_log_are_the_ones_that_are_used(world: ListenerWorld) -> None:
    """A configuration that was not in force at the time of an act does not explain the act."""
    deploy(world)
    other = world.config.model_copy(update={"smith_url": "https://other.example"}).model_dump(mode="json")
    recorded = ConfigurationRecorded(component="listener", digest=digest(other), config=other)

    wrong = changed(world, "ConfigurationRecorded", **recorded.model_dump(mode="json"))

    assert any("manifest of digest" in problem for problem in problems(wrong))


# --- the table


def test_every_match_is_for_a_known_event() -> None:
    assert set(MATCHES) <= DEPLOYMENT_EVENTS.classes | LGP_EVENTS.classes


def test_every_event_of_an_act_is_compared_or_reports_what_the_outside_world_answered(world: ListenerWorld) -> None:
    answers = {"LgpGone", "DeletionStarted", "DeletionPending", "DeploymentDeleted", "RevisionRequested"}
    answers |= {"RevisionSuperseded"}
    deploy(world)
    deploy(world, "r2")
    see(world, resource("r2", status="AWAITING_DELETE"))
    world.advance()

    left = {record.type for record in records(world) if record.actor == ListenerMachine.name}
    assert left <= {event.__name__ for event in MATCHES} | answers
