"""What is refused is tried again when a person may have mended it, and never in a hurry."""

from __future__ import annotations

from datetime import timedelta

import pytest

from engine.errors import AgentplaneError, ControlPlaneDenied, ObjectRefused
from engine.listener.state import Phase
from engine.ports import ObjectKey
from engine.runtime.backoff import REFUSED_CAP, refused_delay
from tests.support.listener import DEPLOYMENT, LGP, ListenerWorld, deploy, operator_says, resource, see

FORBIDDEN = ObjectRefused("secrets is forbidden: no permission in namespace agents", reason="Forbidden", status=403)
INVALID = ObjectRefused("spec.image: Required value", reason="Invalid", status=422)


def test_a_missing_permission_is_mended_without_new_input(world: ListenerWorld) -> None:
    world.cluster.write_error = FORBIDDEN
    see(world, resource())
    assert world.advance().outcome == "waiting"
    assert world.state().revision.phase is Phase.QUEUED
    assert "no permission" in world.state().last_reason

    world.cluster.write_error = None
    assert world.advance().acts == 0  # not in a hurry
    world.clock.move(31)
    world.advance()

    assert world.state().revision.phase is Phase.DEPLOYING
    assert world.state().last_reason == ""


def test_a_missing_permission_fails_the_revision_at_its_deadline_with_the_message(world: ListenerWorld) -> None:
    world.cluster.write_error = FORBIDDEN
    see(world, resource())
    for _ in range(40):
        world.advance()
        world.clock.move(10)

    revision = world.state().revision
    assert (revision.phase, revision.reason) == (Phase.DEPLOY_FAILED, "ObjectRejected")
    assert "no permission" in revision.message
    assert world.types().count("LgpRejected") < 8
    assert ("r1", "DEPLOY_FAILED") in world.control_plane.reports


def test_a_denied_key_is_waited_for_and_fails_no_revision(world: ListenerWorld) -> None:
    see(world, resource())
    world.control_plane.error = ControlPlaneDenied("401: check the key")
    for _ in range(30):
        world.advance()
        world.clock.move(60)
    assert world.state().revision.phase is Phase.QUEUED
    assert "check the key" in world.state().last_reason

    world.control_plane.error = None
    world.clock.move(REFUSED_CAP)
    world.advance()
    assert world.state().revision.phase is Phase.DEPLOYING


def test_refusals_come_ever_rarer_up_to_an_hour(world: ListenerWorld) -> None:
    see(world, resource())
    world.control_plane.error = ControlPlaneDenied("401")
    for _ in range(24 * 60):
        world.advance()
        world.clock.move(60)

    assert 24 <= world.types().count("ActRefused") <= 35
    assert refused_delay(1) == timedelta(seconds=30)
    assert refused_delay(99) == timedelta(hours=1)


def test_new_input_tries_again_at_once(world: ListenerWorld) -> None:
    see(world, resource())
    world.control_plane.error = ControlPlaneDenied("401")
    world.advance()
    world.control_plane.error = None
    see(world, resource("r2"))
    world.advance()

    assert world.state().revision.phase is Phase.DEPLOYING


@pytest.mark.parametrize("error", [INVALID, FORBIDDEN], ids=["invalid", "forbidden"])
def test_a_repair_that_is_rejected_does_not_spin_and_leaves_the_revision_deployed(
    world: ListenerWorld, error: AgentplaneError
) -> None:
    deploy(world)
    world.config = world.config.model_copy(update={"tracing": False})
    world.cluster.write_error = error
    for _ in range(5):
        world.events.mark_dirty(f"deployment/{DEPLOYMENT}")
        assert world.advance().acts <= 1

    assert world.types().count("LgpRejected") == 1
    state = world.state()
    assert (state.revision.phase, state.revision.reason) == (Phase.DEPLOYED, "")

    world.cluster.write_error = None
    world.clock.move(31)
    world.advance()
    assert {"name": "LANGSMITH_TRACING_V2", "value": "false"} in world.cluster.objects[LGP]["spec"]["serverSpec"]["env"]


def test_a_refused_report_holds_nothing_up_and_is_made_once_the_key_may(world: ListenerWorld) -> None:
    world.control_plane.report_error = ControlPlaneDenied("401")
    deploy(world)
    assert world.state().revision.phase is Phase.DEPLOYED
    assert world.control_plane.reports == []

    world.control_plane.report_error = None
    world.clock.move(31)
    world.advance()
    assert world.control_plane.reports == [("r1", "DEPLOYED"), (DEPLOYMENT, "READY")]


def test_a_refused_deletion_is_tried_again(world: ListenerWorld) -> None:
    deploy(world)
    world.cluster.write_error = FORBIDDEN
    see(world, resource("r1", status="AWAITING_DELETE"))
    assert world.advance().outcome == "waiting"

    world.cluster.write_error = None
    for _ in range(3):
        world.clock.move(31)
        world.advance()
    assert world.state().deleted


# --- what serves is kept while its successor cannot come


def test_the_lgp_that_serves_is_repaired_while_its_successor_has_failed_before_its_own(world: ListenerWorld) -> None:
    deploy(world)
    see(world, resource("r2", secrets=[{"name": "PORT", "value": "1"}]))
    world.advance()
    assert world.state().revision.reason == "ReservedVariable"
    serving = world.cluster.objects.pop(LGP)

    world.watch()
    world.advance()

    assert world.cluster.objects[LGP]["spec"] == serving["spec"]
    world.watch()
    assert world.advance().acts == 0
    assert world.state().revision.phase is Phase.DEPLOY_FAILED


def test_the_lgp_that_serves_is_repaired_while_its_successor_waits_for_the_control_plane(world: ListenerWorld) -> None:
    deploy(world)
    see(world, resource("r2"))
    world.control_plane.error = ControlPlaneDenied("401")
    world.advance()
    serving = world.cluster.objects.pop(LGP)
    world.watch()
    world.advance()
    assert world.cluster.objects[LGP]["spec"] == serving["spec"]

    world.control_plane.error = None
    world.clock.move(61)
    world.advance()
    operator_says(world, available=True)
    world.advance()
    assert world.state().revisions.serving == "r2"


def test_the_secret_of_a_failed_rollout_is_kept_there(world: ListenerWorld) -> None:
    see(world, resource())
    world.advance()
    operator_says(world, available=False, reason="CrashLoopBackOff")
    world.clock.move(11)
    world.advance()
    name = world.state().revision.secret
    key = ObjectKey(api_version="v1", kind="Secret", namespace="agents", name=name)
    del world.cluster.objects[key]
    world.watch()
    world.advance()

    assert key in world.cluster.objects
    assert world.state().revision.phase is Phase.DEPLOY_FAILED


def test_a_namespace_that_is_no_longer_watched_is_left_as_it_is(world: ListenerWorld) -> None:
    deploy(world)
    writes = world.cluster.writes
    world.config = world.config.model_copy(update={"namespaces": ("others",), "tracing": False})
    world.cluster.objects.pop(LGP)
    world.watch()
    world.advance()

    assert world.cluster.writes == writes


def test_an_lgp_that_somebody_keeps_changing_is_repaired_ever_more_rarely(world: ListenerWorld) -> None:
    deploy(world)
    for _ in range(1200):
        live = world.cluster.objects[LGP]
        if live["spec"]["serverSpec"]["image"] != "somebody/else":
            live["spec"]["serverSpec"]["image"] = "somebody/else"
            live["metadata"]["generation"] += 1
            live["metadata"]["resourceVersion"] = "edited"
        world.watch()
        world.advance()
        world.clock.move(1)

    assert 8 < world.types().count("DriftDetected") < 20
    for _ in range(400):
        world.clock.move(1)
        world.watch()
        world.advance()
    assert world.cluster.objects[LGP]["spec"]["serverSpec"]["image"] == "registry.example/hello:r1"
    assert world.state().revision.phase is Phase.DEPLOYED
