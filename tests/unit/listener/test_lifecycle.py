"""The life of a deployment through the listener, with fakes that fit on a screen."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import ControlPlaneUnavailable, ObjectRefused, ReportsUnsupported
from engine.listener.events import Paused, Resumed
from engine.listener.observation.compare import observe_lgp, observe_secret
from engine.listener.state import Phase, Status
from engine.ports import ObjectKey
from tests.support.listener import (
    DEPLOYMENT,
    LGP,
    STREAM,
    ListenerWorld,
    append,
    deploy,
    keyed,
    operator_says,
    resource,
    see,
)


def test_a_new_deployment_is_deployed_and_every_step_is_reported(world: ListenerWorld) -> None:
    deploy(world)

    state = world.state()
    assert state.revision.phase is Phase.DEPLOYED
    assert state.status is Status.READY
    assert state.revisions.serving == "r1"
    assert world.health.urls == [f"https://agents.example/lgp/{LGP.name}/ok"]
    assert world.control_plane.reports == [
        ("r1", "AWAITING_DEPLOY"),
        ("r1", "DEPLOYING"),
        (DEPLOYMENT, "READY"),
        ("r1", "DEPLOYED"),
    ]


def test_a_change_that_is_none_costs_nothing(world: ListenerWorld) -> None:
    deploy(world)
    writes, version = world.cluster.writes, world.events.version(STREAM)

    see(world, resource("r1", status="READY", active_revision_id="r1", updated_at="2026-02-02T00:00:00Z"))
    world.advance()

    assert (world.cluster.writes, world.events.version(STREAM)) == (writes, version)


def test_an_update_has_its_own_secret_and_the_old_one_goes_only_when_it_is_deployed(world: ListenerWorld) -> None:
    deploy(world)
    first = world.state().revision.secret

    see(world, resource("r2", secrets=[{"name": "OPENAI_API_KEY", "value": "sk-second"}]))
    world.advance()
    during = {key.name for key in world.cluster.objects if key.kind == "Secret"}
    operator_says(world, available=True)
    world.advance()
    after = {key.name for key in world.cluster.objects if key.kind == "Secret"}

    second = world.state().revision.secret
    assert during == {first, second}
    assert after == {second}
    assert world.state().revisions.serving == "r2"


def test_a_failing_pod_is_given_its_grace_and_then_the_revision_fails_with_the_reason(world: ListenerWorld) -> None:
    deploy(world)
    see(world, resource("r2"))
    world.advance()

    operator_says(world, available=False, reason="ImagePullBackOff")
    waiting = world.advance()
    assert waiting.outcome == "waiting"
    assert world.state().revision.phase is Phase.DEPLOYING

    world.clock.move(11)
    world.advance()

    state = world.state()
    assert state.revision.phase is Phase.DEPLOY_FAILED
    assert state.revision.reason == "ImagePullBackOff"
    assert state.revisions.serving == "r1"
    assert ("r2", "DEPLOY_FAILED") in world.control_plane.reports


def test_a_pod_that_recovers_within_its_grace_is_deployed(world: ListenerWorld) -> None:
    see(world, resource())
    world.advance()
    operator_says(world, available=False, reason="CrashLoopBackOff")
    world.advance()
    world.clock.move(5)
    operator_says(world, available=True)
    world.advance()

    assert world.state().revision.phase is Phase.DEPLOYED


def test_a_rollout_that_says_nothing_fails_at_its_deadline(world: ListenerWorld) -> None:
    see(world, resource())
    world.advance()
    world.clock.move(301)
    world.advance()

    assert world.state().revision.reason == "RolloutDeadlineExceeded"


def test_an_old_status_does_not_deploy_a_new_revision(world: ListenerWorld) -> None:
    deploy(world)
    see(world, resource("r2"))
    world.advance()

    assert world.state().revision.phase is Phase.DEPLOYING


@pytest.mark.parametrize(
    ("rolled_out", "ending"), [(False, "SKIPPED"), (True, "INTERRUPTED")], ids=["before its LGP", "while it rolls out"]
)
def test_a_superseded_revision_is_closed_and_the_newer_one_wins(
    world: ListenerWorld, rolled_out: bool, ending: str
) -> None:
    see(world, resource("r1"))
    if rolled_out:
        world.advance()
    see(world, resource("r2"))
    world.advance()
    operator_says(world, available=True)
    world.advance()

    assert ("r1", ending) in world.control_plane.reports
    assert world.state().revisions.serving == "r2"
    assert world.state().revisions.closed == ()


def test_a_revision_that_came_while_secrets_were_fetched_is_noticed(world: ListenerWorld) -> None:
    see(world, resource("r1"))
    world.control_plane.resources[DEPLOYMENT] = resource("r2")
    world.advance()

    assert world.state().revision.id == "r2"
    assert world.cluster.objects[LGP]["spec"]["serverSpec"]["image"] == "registry.example/hello:r2"


def test_health_is_tried_again_and_given_up_at_its_deadline(world: ListenerWorld) -> None:
    world.health.answers = [False] * 100
    see(world, resource())
    world.advance()
    operator_says(world, available=True)
    for _ in range(70):
        world.advance()
        world.clock.move(1)

    state = world.state()
    assert state.revision.reason == "HealthCheckFailed"
    assert "connection refused" in state.revision.message
    assert 5 < len(world.health.urls) < 20


def test_a_health_check_that_fails_for_want_of_a_route_says_what_the_operator_says(world: ListenerWorld) -> None:
    world.health.answers = [False] * 100
    see(world, resource())
    world.advance()
    operator_says(world, available=True, reason="ObjectRejected")
    for _ in range(70):
        world.advance()
        world.clock.move(1)

    assert "The LGP says: pod p: why. The pods are ready" in world.state().revision.message


def test_a_hostname_that_is_not_reached_from_inside_names_both_mends(world: ListenerWorld) -> None:
    world.health.answers = [False] * 100
    see(world, resource())
    world.advance()
    operator_says(world, available=True)
    for _ in range(70):
        world.advance()
        world.clock.move(1)

    message = world.state().revision.message
    assert f"GET {world.config.endpoint(world.state().lgp.name)}/ok" in message
    assert "reach the hostname from inside the cluster" in message
    assert "health_check_address" in message
    assert "config.enableLGPDeploymentHealthCheck" in message


def test_the_health_check_can_be_switched_off(world: ListenerWorld) -> None:
    world.config = world.config.model_copy(update={"health_check": False})
    deploy(world)

    assert world.health.urls == []
    assert world.state().revision.phase is Phase.DEPLOYED


@pytest.mark.parametrize(
    ("change", "reason", "names"),
    [
        ({"secrets": [{"name": "POSTGRES_URI", "value": "x"}]}, "ReservedVariable", "POSTGRES_URI"),
        ({"secrets": [{"name": "MY KEY", "value": "x"}]}, "InvalidVariable", "MY KEY"),
        (
            {
                "secret_references": [{"name": "PATH", "secret_name": "s", "secret_key": "k"}],
            },
            "ReservedVariable",
            "PATH",
        ),
    ],
)
def test_a_revision_that_cannot_be_is_refused_by_name(
    world: ListenerWorld, change: dict[str, Any], reason: str, names: str
) -> None:
    see(world, resource(**change))
    world.advance()

    revision = world.state().revision
    assert (revision.phase, revision.reason) == (Phase.DEPLOY_FAILED, reason)
    assert names in revision.message
    assert world.cluster.objects == {}


def test_a_namespace_that_is_not_watched_is_refused(world: ListenerWorld) -> None:
    raw = resource()
    raw["source_config"]["listener_config"]["k8s_namespace"] = "elsewhere"
    see(world, raw)
    world.advance()

    assert world.state().revision.reason == "NamespaceNotWatched"
    assert world.cluster.objects == {}


def test_an_object_that_the_api_server_rejects_fails_the_revision_with_its_message(world: ListenerWorld) -> None:
    world.cluster.write_error = ObjectRefused("spec.image: Required value", reason="Invalid", status=422)
    see(world, resource())
    world.advance()

    assert world.state().revision.phase is Phase.DEPLOY_FAILED
    assert "spec.image: Required value" in world.state().revision.message


def test_deletion_leaves_nothing_and_says_so(world: ListenerWorld) -> None:
    deploy(world)
    see(world, resource("r1", status="AWAITING_DELETE"))
    world.advance()
    append(world, *observe_lgp(world.state(), None))
    world.advance()

    assert world.cluster.objects == {}
    assert world.state().deleted
    assert world.control_plane.reports[-1] == (DEPLOYMENT, "DELETED")


def test_deletion_does_not_need_the_watcher(world: ListenerWorld) -> None:
    deploy(world)
    see(world, resource("r1", status="AWAITING_DELETE"))
    world.advance()
    world.clock.move(11)
    world.advance()

    assert world.state().deleted


def test_a_deployment_that_was_deleted_before_it_was_seen_leaves_nothing(world: ListenerWorld) -> None:
    see(world, resource(status="AWAITING_DELETE"))
    world.advance()

    assert world.state().deleted
    assert [call for call in world.cluster.writes if call[0] != "delete"] == []


def test_drift_of_the_lgp_is_repaired(world: ListenerWorld) -> None:
    deploy(world)
    live = world.cluster.objects[LGP]
    live["spec"]["serverSpec"]["image"] = "somebody/else"
    live["metadata"]["generation"] += 1
    append(world, *observe_lgp(world.state(), world.cluster.get(LGP)))
    assert "DriftDetected" in world.types()
    world.advance()

    assert world.cluster.objects[LGP]["spec"]["serverSpec"]["image"] == "registry.example/hello:r1"
    assert observe_lgp(world.state(), world.cluster.get(LGP)) == []


def test_an_lgp_deleted_by_hand_is_made_again(world: ListenerWorld) -> None:
    deploy(world)
    del world.cluster.objects[LGP]
    append(world, *observe_lgp(world.state(), None))
    world.advance()

    assert LGP in world.cluster.objects


def test_a_secret_deleted_by_hand_is_made_again(world: ListenerWorld) -> None:
    deploy(world)
    name = world.state().revision.secret
    key = ObjectKey(api_version="v1", kind="Secret", namespace="agents", name=name)
    del world.cluster.objects[key]
    append(world, *observe_secret(world.state(), name, None))
    world.advance()

    assert key in world.cluster.objects


def test_a_control_plane_without_reports_is_told_nothing_more_and_the_deployment_goes_on(world: ListenerWorld) -> None:
    world.control_plane.report_error = ReportsUnsupported("405")
    deploy(world)

    assert world.state().revision.phase is Phase.DEPLOYED
    assert world.types().count("StatusReportRejected") == 1


def test_a_report_that_fails_for_now_is_made_later_and_holds_nothing_up(world: ListenerWorld) -> None:
    world.control_plane.report_error = ControlPlaneUnavailable("503")
    deploy(world)
    assert world.state().revision.phase is Phase.DEPLOYED
    assert world.control_plane.reports == []

    world.control_plane.report_error = None
    world.clock.move(3600)
    world.advance()

    assert ("r1", "DEPLOYED") in world.control_plane.reports


def test_a_paused_deployment_is_left_alone(world: ListenerWorld) -> None:
    append(world, Paused(by="me"))
    see(world, resource())
    world.advance()
    assert world.cluster.objects == {}

    append(world, Resumed(by="me"))
    world.advance()
    assert LGP in world.cluster.objects


def test_no_secret_value_is_in_the_log(world: ListenerWorld) -> None:
    deploy(world)
    logged = "".join(str(record.data) for record in world.events.read(STREAM))

    assert "sk-first" not in logged
    assert "lsv2-key" not in logged


def test_another_key_rolls_the_same_revision_out_again(world: ListenerWorld) -> None:
    deploy(world)
    first = world.state().revision.secret
    world.digest = lambda value: keyed(b"rotated" + value)
    see(world, resource("r1"))
    world.advance()

    assert world.state().revision.phase is Phase.DEPLOYING
    assert world.state().revision.secret != first
    assert world.control_plane.reports.count(("r1", "DEPLOYED")) == 1
