"""A revision that fails for ever, with none deployed before it, is scaled to nothing; everything else is left alone."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import ObjectRefused
from engine.listener.events import Paused, Resumed
from engine.listener.state import Phase
from engine.ports import Manifest
from engine.queries import find
from engine.replay import replay
from tests.support.listener import DEPLOYMENT, LGP, ListenerWorld, append, deploy, operator_says, resource, see

GROWING = {"cpu": 1, "min_scale": 2, "max_scale": 5}
REASON, MESSAGE = "agentplane.dev/stopped", "agentplane.dev/stopped-message"


@pytest.fixture
def world(world: ListenerWorld) -> ListenerWorld:
    world.config = world.config.model_copy(update={"stop_failed": True})
    world.record_configuration()
    return world


def asked(revision: str = "r1", **changes: Any) -> dict[str, Any]:
    raw = resource(revision, **changes)
    raw["source_config"]["resource_spec"] = GROWING
    return raw


def fail(world: ListenerWorld, reason: str = "CrashLoopBackOff", revision: str = "r1") -> None:
    see(world, asked(revision))
    world.advance()
    operator_says(world, available=False, reason=reason)
    world.clock.move(11)
    world.advance()
    assert world.state().revision.phase is Phase.DEPLOY_FAILED


def lgp(world: ListenerWorld) -> Manifest:
    found: Manifest = world.cluster.objects[LGP]
    return found


def is_stopped(world: ListenerWorld) -> bool:
    spec, annotations = lgp(world)["spec"], lgp(world)["metadata"].get("annotations", {})
    stopped: bool = spec["serverSpec"]["replicas"] == 0
    assert stopped == (REASON in annotations) == ("autoscaling" not in spec), "all of it, or nothing"
    assert spec["database"]["enabled"], "the database stays in any case"
    return stopped


@pytest.mark.parametrize("reason", ["CrashLoopBackOff", "ImagePullBackOff", "InvalidImageName"])
def test_a_first_revision_that_fails_for_ever_is_scaled_to_nothing_and_stays_told(
    world: ListenerWorld, reason: str
) -> None:
    fail(world, reason)

    assert is_stopped(world)
    assert lgp(world)["metadata"]["annotations"] == {REASON: reason, MESSAGE: "pod p: why"}
    assert world.control_plane.reports[-1] == ("r1", "DEPLOY_FAILED")
    view = find(world.events, DEPLOYMENT)
    assert (view.phase, view.stopped, view.failed) == ("DEPLOY_FAILED", True, True)
    assert view.reason == f"{reason}: pod p: why"
    (applied,) = [r.data for r in world.events.read(f"deployment/{DEPLOYMENT}") if r.data.get("stopped")]
    assert applied["revision_id"] == "r1"
    assert world.advance().acts == 0
    assert replay(world.events.read_all(limit=1000)).divergences == []


@pytest.mark.parametrize("reason", ["FailedCreate", "CreateContainerConfigError", "ProgressDeadlineExceeded"])
def test_what_merely_waits_is_left_for_the_cluster_to_heal(world: ListenerWorld, reason: str) -> None:
    fail(world, reason)

    assert not is_stopped(world)


def test_a_rollout_that_waits_for_a_node_until_its_deadline_is_left(world: ListenerWorld) -> None:
    see(world, asked())
    world.advance()
    world.clock.move(301)
    world.advance()

    assert world.state().revision.reason == "RolloutDeadlineExceeded"
    assert not is_stopped(world)


def test_pods_that_serve_but_are_not_reached_are_left(world: ListenerWorld) -> None:
    world.health.answers = [False] * 50
    see(world, asked())
    world.advance()
    operator_says(world, available=True)
    for _ in range(20):
        world.advance()
        world.clock.move(15)

    assert world.state().revision.reason == "HealthCheckFailed"
    assert not is_stopped(world)


def test_a_newer_revision_starts_it_again(world: ListenerWorld) -> None:
    fail(world)
    see(world, asked("r2"))
    world.advance()

    assert not is_stopped(world)
    assert lgp(world)["spec"]["serverSpec"]["replicas"] == 2
    operator_says(world, available=True)
    world.advance()
    assert world.state().revision.phase is Phase.DEPLOYED
    assert not find(world.events, DEPLOYMENT).stopped
    assert replay(world.events.read_all(limit=1000)).divergences == []


def test_other_content_of_the_same_revision_starts_it_again(world: ListenerWorld) -> None:
    """A secret was wrong, and is put right."""
    fail(world)
    see(world, asked(secrets=[{"name": "OPENAI_API_KEY", "value": "sk-right"}]))
    world.advance()

    assert not is_stopped(world)
    assert world.state().revision.phase is Phase.DEPLOYING


def test_several_that_fail_one_after_the_other_are_each_stopped(world: ListenerWorld) -> None:
    fail(world)
    fail(world, revision="r2")

    assert is_stopped(world)
    assert lgp(world)["metadata"]["labels"]["agentplane.dev/revision-id"] == "r2"


def test_with_a_good_one_before_it_the_good_one_is_put_back(world: ListenerWorld) -> None:
    deploy(world)
    fail(world, revision="r2")

    assert lgp(world)["metadata"]["labels"]["agentplane.dev/revision-id"] == "r1"
    assert lgp(world)["spec"]["serverSpec"]["replicas"] == 1
    assert not find(world.events, DEPLOYMENT).stopped


def test_an_lgp_that_is_older_than_the_log_may_serve_and_is_left(world: ListenerWorld) -> None:
    """The log was lost: whether an earlier revision's pods serve beside the failing ones, nobody here knows."""
    deploy(world)
    another = ListenerWorld(cluster=world.cluster, config=world.config)
    fail(another)

    assert not is_stopped(another)


def test_what_is_stopped_is_kept_so(world: ListenerWorld) -> None:
    fail(world)
    stopped = lgp(world)["spec"]
    del world.cluster.objects[LGP]
    world.watch()
    world.advance()
    assert lgp(world)["spec"] == stopped
    assert find(world.events, DEPLOYMENT).stopped

    # also while the next revision has no LGP yet
    see(world, asked("r2"))
    world.cluster.write_error = ObjectRefused("secrets is forbidden", reason="Forbidden", status=403)
    world.advance()
    world.cluster.write_error = None
    del world.cluster.objects[LGP]
    world.watch()
    world.advance()
    assert lgp(world)["spec"] == stopped


def test_it_can_be_switched_off_and_then_pods_come_back(world: ListenerWorld) -> None:
    on = world.config
    world.config = on.model_copy(update={"stop_failed": False})
    fail(world)
    assert not is_stopped(world)

    world.config = on
    world.advance()
    assert is_stopped(world)

    world.config = on.model_copy(update={"stop_failed": False})
    world.advance()
    assert not is_stopped(world)
    assert not find(world.events, DEPLOYMENT).stopped


def test_a_paused_deployment_is_stopped_once_it_is_resumed(world: ListenerWorld) -> None:
    see(world, asked())
    world.advance()
    append(world, Paused(by="ada"))
    operator_says(world, available=False, reason="CrashLoopBackOff")
    world.clock.move(1000)
    world.advance()
    assert not is_stopped(world)

    append(world, Resumed(by="ada"))
    world.advance()
    assert is_stopped(world)
