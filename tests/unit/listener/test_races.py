"""Things that happen at once: what is older never wins, and nothing is left behind."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import InvalidResource
from engine.event import Event
from engine.listener.events import DeletionRequested, DriftDetected, HealthChecked
from engine.listener.poll_context import PollMemory
from engine.listener.state import Phase
from engine.names import deployment_stream
from engine.ports import ObjectKey
from tests.support.listener import (
    DEPLOYMENT,
    LGP,
    LOCK_TTL,
    Crash,
    ListenerWorld,
    append,
    deploy,
    operator_says,
    resource,
    see,
)

STREAM = deployment_stream(DEPLOYMENT)
SECOND = [{"name": "OPENAI_API_KEY", "value": "sk-second"}]


def secret_names(world: ListenerWorld) -> set[str]:
    return {key.name for key in world.cluster.objects if key.kind == "Secret"}


def last_request(world: ListenerWorld) -> Any:
    requests = [record for record in world.events.read(STREAM) if record.type == "RevisionRequested"]
    return requests[-1].data["revision_id"]


def test_a_page_that_is_older_than_the_stream_takes_nothing_back(world: ListenerWorld) -> None:
    """Another process has fetched r3 before this one looks at its page, which says r2."""
    plane = world.control_plane
    deploy(world)
    see(world, resource("r3"))
    world.advance()

    stale, plane.resources[DEPLOYMENT] = resource("r2"), resource("r3")
    original = plane.deployments
    plane.deployments = lambda: iter([[stale]])  # type: ignore[method-assign]
    world.poller().poll()
    plane.deployments = original  # type: ignore[method-assign]

    assert last_request(world) == "r3"
    assert "r3" not in [record.data.get("revision_id") for record in superseded(world)]


def currents(world: ListenerWorld) -> list[str]:
    """The current revisions, one after the other."""
    found: list[str] = []
    state: Any = world.machine.initial
    for record in world.events.read(STREAM):
        state = world.machine.evolve(state, world.machine.events.decode(record), record.at)
        if state.revision is not None and state.revision.id not in found[-1:]:
            found.append(state.revision.id)
    return found


def superseded(world: ListenerWorld) -> list[Any]:
    return [record for record in world.events.read(STREAM) if record.type == "RevisionSuperseded"]


def test_what_an_act_fetched_is_void_once_a_poll_saw_something_newer(world: ListenerWorld) -> None:
    plane = world.control_plane
    see(world, resource("r1"))
    plane.resources[DEPLOYMENT] = resource("r2")

    def meanwhile() -> None:
        plane.after_get = lambda: None
        see(world, resource("r3"))

    plane.after_get = meanwhile
    world.advance()

    assert currents(world) == ["r1", "r3"]
    assert world.cluster.objects[LGP]["spec"]["serverSpec"]["image"] == "registry.example/hello:r3"
    assert "r3" not in [record.data["revision_id"] for record in superseded(world)]


def test_a_deletion_that_an_act_meets_is_left_to_the_poll_and_its_guard(world: ListenerWorld) -> None:
    see(world, resource("r1"))
    world.control_plane.resources[DEPLOYMENT] = resource("r1", status="AWAITING_DELETE")
    world.advance()

    assert "DeletionRequested" not in world.types()
    assert world.cluster.objects == {}


def test_a_deployment_that_moved_away_is_not_touched_by_an_act_either(world: ListenerWorld) -> None:
    see(world, resource("r1"))
    moved = resource("r2")
    moved["source_config"]["listener_id"] = "another"
    world.control_plane.resources[DEPLOYMENT] = moved
    world.advance()

    assert world.cluster.objects == {}
    assert "not for this data plane" in world.state().last_reason


def test_another_namespace_is_refused_by_the_path_of_its_field(world: ListenerWorld) -> None:
    deploy(world)
    moved = resource("r2")
    moved["source_config"]["listener_config"]["k8s_namespace"] = "elsewhere"

    with pytest.raises(InvalidResource, match=r"k8s_namespace: is 'elsewhere', but the deployment is in 'agents'"):
        see(world, moved)


@pytest.mark.parametrize("change", [{"listener_id": "another"}, {"workspace_id": "another"}])
def test_with_other_settings_the_deployments_of_the_log_are_left_alone(
    world: ListenerWorld, change: dict[str, str]
) -> None:
    deploy(world)
    before = (world.cluster.writes, len(world.control_plane.reports))
    world.config = world.config.model_copy(update={**change, "tracing": False})
    world.cluster.objects.pop(LGP)
    append(world, DriftDetected(key=LGP, change="gone"), DeletionRequested(reason="a mistake"))

    advanced = world.advance()

    assert (advanced.outcome, advanced.acts) == ("acknowledged", 0)
    assert (world.cluster.writes, len(world.control_plane.reports)) == before
    assert secret_names(world)


def test_with_another_workspace_nothing_is_missing(world: ListenerWorld) -> None:
    """All of the log's deployments answer 404 there; none is deleted for it."""
    deploy(world)
    del world.control_plane.resources[DEPLOYMENT]
    world.config = world.config.model_copy(update={"workspace_id": "another"})
    poller = world.poller()
    for _ in range(3):
        poller.poll()

    assert not world.state().deletion


def test_a_secret_that_a_dead_worker_made_goes_with_the_next_deployed_revision() -> None:
    """r2 wrote its Secret and died; r3 has the values of r1 again, so its Secret is the one that is kept already."""
    world = ListenerWorld()
    deploy(world)
    (kept,) = secret_names(world)
    see(world, resource("r2", secrets=SECOND))
    world.moments.crash_after(4)  # GET, read, write: before its event
    with pytest.raises(Crash):
        world.advance()
    world.moments.crash_at = 0
    assert len(secret_names(world)) == 2
    assert world.types()[-1] == "RevisionRequested"
    world.clock.move(2 * LOCK_TTL)

    see(world, resource("r3"))
    world.advance()
    operator_says(world, available=True)
    world.advance()

    assert secret_names(world) == {kept}


def test_what_a_sleeping_worker_makes_after_the_deletion_is_deleted(world: ListenerWorld) -> None:
    deploy(world)
    lgp = world.cluster.objects[LGP]
    secret = world.live("Secret", "agents", world.state().revision.secret)
    see(world, resource("r1", status="AWAITING_DELETE"))
    world.advance()
    world.watch()
    world.advance()
    assert world.state().deleted
    assert world.cluster.objects == {}

    assert secret is not None
    key = ObjectKey(api_version="v1", kind="Secret", namespace="agents", name="an-older-one")
    secret["metadata"]["name"] = key.name
    world.cluster.objects |= {LGP: lgp, key: secret}
    world.watch()
    world.advance()

    assert world.cluster.objects == {}
    assert world.state().deleted
    world.watch()
    assert world.advance().acts == 0


def test_an_lgp_of_another_listener_under_the_same_name_is_not_ours_to_delete(world: ListenerWorld) -> None:
    deploy(world)
    lgp = world.cluster.objects[LGP]
    see(world, resource("r1", status="AWAITING_DELETE"))
    world.advance()
    world.watch()
    world.advance()
    lgp["metadata"]["labels"]["agentplane.dev/listener-id"] = "another"
    world.cluster.objects[LGP] = lgp
    world.watch()

    assert world.types()[-1] != "DriftDetected"


def test_the_status_of_an_lgp_that_was_made_again_starts_anew(world: ListenerWorld) -> None:
    deploy(world)
    for revision in ("r2", "r3"):
        see(world, resource(revision))
        world.advance()
    operator_says(world, available=True)  # generation 3
    see(world, resource("r4"))
    del world.cluster.objects[LGP]
    world.advance()  # made again: generation 1

    assert world.cluster.objects[LGP]["metadata"]["generation"] == 1
    assert world.state().revision.phase is Phase.DEPLOYING


def test_the_health_of_another_revision_does_not_count(world: ListenerWorld) -> None:
    see(world, resource("r1"))
    world.advance()
    see(world, resource("r2"))
    append(world, HealthChecked(revision_id="r1", ok=True, url="u", detail="", attempt=1))
    world.advance()

    assert world.state().health is None


def test_health_is_asked_anew_after_the_rollout_came_undone(world: ListenerWorld) -> None:
    world.health.answers = [False] * 3
    see(world, resource("r1"))
    world.advance()
    operator_says(world, available=True)
    world.advance()
    operator_says(world, available=False)
    world.advance()
    world.clock.move(100)  # beyond the deadline of the first series
    operator_says(world, available=True)
    for _ in range(5):
        world.advance()
        world.clock.move(3)

    assert world.state().revision.phase is Phase.DEPLOYED


def test_an_lgp_that_does_not_go_is_looked_at_ever_more_rarely(world: ListenerWorld) -> None:
    deploy(world)
    see(world, resource("r1", status="AWAITING_DELETE"))
    stuck = dict(world.cluster.objects)
    world.advance()
    world.cluster.objects |= stuck  # a finalizer holds it
    for _ in range(24 * 60):
        world.clock.move(60)
        world.advance()

    assert 100 < world.types().count("DeletionPending") < 170


def test_a_superseding_of_ended_content_is_not_told(world: ListenerWorld) -> None:
    deploy(world)
    edited = resource("r1")
    edited["source_config"]["resource_spec"] = {"cpu": 2}
    see(world, edited)
    see(world, resource("r2"))
    world.advance()

    assert ("r1", "SKIPPED") not in world.control_plane.reports
    assert world.state().revisions.closed == ()


# --- restored on the control plane


def test_a_restored_deployment_is_told_no_lower_status_than_before(world: ListenerWorld) -> None:
    deploy(world)
    see(world, resource("r1", status="AWAITING_DELETE"))
    world.advance()
    world.watch()
    world.advance()
    told = world.control_plane.reports.count(("r1", "AWAITING_DEPLOY"))
    deploy(world)

    assert world.state().revision.phase is Phase.DEPLOYED
    assert world.control_plane.reports.count(("r1", "AWAITING_DEPLOY")) == told


def test_a_deployment_that_comes_back_unchanged_is_noticed_by_every_process(world: ListenerWorld) -> None:
    """One process deletes it; the other one, which remembers its content, sees it come back."""
    one, other = world.poller(), world.poller()
    raw = world.control_plane.resources[DEPLOYMENT] = resource()
    one.poll()
    other.poll()
    world.advance()
    del world.control_plane.resources[DEPLOYMENT]
    one.poll()
    one.poll()
    world.advance()
    world.watch()
    world.advance()
    assert world.state().deleted

    world.control_plane.resources[DEPLOYMENT] = raw
    other.poll()
    world.advance()

    assert not world.state().deleted
    assert LGP in world.cluster.objects


def test_one_that_is_wanted_again_while_it_goes_starts_anew_once_it_is_gone(world: ListenerWorld) -> None:
    poller = world.poller()
    world.control_plane.resources[DEPLOYMENT] = resource()
    poller.poll()
    world.advance()
    world.control_plane.resources[DEPLOYMENT] = resource(status="AWAITING_DELETE")
    poller.poll()
    world.advance()
    world.control_plane.resources[DEPLOYMENT] = resource()
    poller.poll()
    assert world.state().deletion
    world.watch()
    world.advance()
    assert world.state().deleted

    poller.poll()
    world.advance()
    assert LGP in world.cluster.objects


# --- polls beside streams that cannot be read


class Novelty(Event):
    """An event of a newer program."""


def test_a_stream_of_a_newer_program_stops_alone(world: ListenerWorld) -> None:
    other = "44444444-4444-4444-8444-444444444444"
    world.control_plane.resources = {DEPLOYMENT: resource(), other: resource(id=other)}
    poller = world.poller()
    poller.poll()
    world.events.append(STREAM, world.events.version(STREAM), [Novelty()], actor="newer")
    for revision in ("r2", "r3"):
        world.control_plane.resources = {DEPLOYMENT: resource(revision), other: resource(revision, id=other)}
        assert poller.poll().outcome == "polled"
    world.control_plane.hidden.add(DEPLOYMENT)
    poller.memory = PollMemory()
    assert poller.poll().outcome == "polled"

    assert world.state(other).revision.id == "r3"
    assert world.types()[-1] == "Novelty"
