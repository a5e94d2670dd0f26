"""A revision that fails leaves the LGP to the one that was deployed before it."""

from __future__ import annotations

import pytest

from engine.errors import ObjectRefused
from engine.listener.events import Paused, Resumed
from engine.listener.state import Phase
from engine.ports import Manifest
from engine.replay import replay
from tests.support.listener import LGP, ListenerWorld, append, deploy, operator_says, resource, see

NEW_SECRET = [{"name": "OPENAI_API_KEY", "value": "sk-of-r2"}]


def fail(world: ListenerWorld, revision: str = "r2", **changes: object) -> None:
    """Ask for a revision whose pods do not come up, until it is given up."""
    see(world, resource(revision, **changes))
    world.advance()
    operator_says(world, available=False, reason="ImagePullBackOff")
    world.clock.move(11)
    world.advance()
    assert world.state().revision.phase is Phase.DEPLOY_FAILED


def spec(world: ListenerWorld) -> Manifest:
    found: Manifest = world.cluster.objects[LGP]["spec"]
    return found


def secrets(world: ListenerWorld) -> set[str]:
    return {key.name for key in world.cluster.objects if key.kind == "Secret"}


def test_the_lgp_is_put_back_to_what_was_deployed_and_the_failure_stays_told(world: ListenerWorld) -> None:
    world.record_configuration()
    deploy(world)
    served, its_secret = spec(world), world.state().revision.secret

    fail(world, secrets=NEW_SECRET)

    assert spec(world) == served
    assert world.cluster.objects[LGP]["metadata"]["labels"]["agentplane.dev/revision-id"] == "r1"
    assert its_secret in secrets(world), "and can start with the values that it was deployed with"
    state = world.state()
    assert (state.revision.id, state.revision.reason, state.revisions.serving) == ("r2", "ImagePullBackOff", "r1")
    assert state.last_reason.startswith("ImagePullBackOff: ")
    assert world.control_plane.reports[-1] == ("r2", "DEPLOY_FAILED")
    assert world.types()[-2:] == ["StatusReported", "LgpApplied"]
    assert replay(world.events.read_all(limit=1000)).divergences == []


def test_the_rollout_of_what_was_put_back_says_nothing_of_the_failed_revision(world: ListenerWorld) -> None:
    deploy(world)
    fail(world)

    operator_says(world, available=True)
    world.advance()
    world.clock.move(1000)

    assert world.advance().acts == 0
    assert world.state().revision.phase is Phase.DEPLOY_FAILED
    assert world.control_plane.reports[-1] == ("r2", "DEPLOY_FAILED")


def test_what_was_put_back_is_repaired_like_what_is_deployed(world: ListenerWorld) -> None:
    deploy(world)
    served = spec(world)
    fail(world)
    del world.cluster.objects[LGP]
    world.watch()
    world.advance()
    assert spec(world) == served

    world.config = world.config.model_copy(update={"tracing": False})
    world.advance()
    assert spec(world) != served, "and follows the configuration"
    assert spec(world)["serverSpec"]["image"] == served["serverSpec"]["image"]


def test_the_next_revision_comes_as_ever(world: ListenerWorld) -> None:
    deploy(world)
    fail(world, secrets=NEW_SECRET)
    see(world, resource("r3"))
    world.advance()
    assert world.state().revision.phase is Phase.DEPLOYING
    operator_says(world, available=True)
    world.advance()

    assert world.state().revisions.serving == "r3"
    assert secrets(world) == {world.state().revision.secret}


@pytest.mark.parametrize("again", ["fails as well", "cannot be"])
def test_after_several_failures_it_is_still_the_one_that_was_deployed(world: ListenerWorld, again: str) -> None:
    deploy(world)
    served = spec(world)
    fail(world, secrets=NEW_SECRET)

    if again == "cannot be":
        see(world, resource("r3", secrets=[{"name": "PORT", "value": "1"}]))
        world.advance()
        assert world.state().revision.reason == "ReservedVariable"
    else:
        fail(world, "r3")

    assert spec(world) == served


def test_one_that_is_refused_after_another_was_interrupted_leaves_nothing_of_it(world: ListenerWorld) -> None:
    deploy(world)
    served = spec(world)
    see(world, resource("r2", secrets=NEW_SECRET))
    world.advance()
    assert spec(world) != served

    see(world, resource("r3", secrets=[{"name": "PORT", "value": "1"}]))
    world.advance()

    assert world.state().revision.phase is Phase.DEPLOY_FAILED
    assert spec(world) == served


def test_the_same_revision_with_other_values_goes_back_to_its_earlier_ones(world: ListenerWorld) -> None:
    """A rotated key asks for the same revision anew."""
    deploy(world)
    served = spec(world)

    fail(world, "r1", secrets=NEW_SECRET)

    assert spec(world) == served
    state = world.state()
    assert state.lgp.applied.revision == state.revisions.predecessor
    assert world.advance().acts == 0


def test_a_first_revision_that_failed_stays_to_be_looked_at(world: ListenerWorld) -> None:
    fail(world, "r1")
    failed = spec(world)
    del world.cluster.objects[LGP]
    world.watch()
    world.advance()

    assert spec(world) == failed


def test_nothing_is_put_back_in_a_namespace_that_is_no_longer_ours(world: ListenerWorld) -> None:
    deploy(world)
    see(world, resource("r2"))
    world.advance()
    asked = spec(world)
    world.config = world.config.model_copy(update={"namespaces": ("others",)})
    world.clock.move(1000)
    world.advance()

    assert world.state().revision.phase is Phase.DEPLOY_FAILED
    assert spec(world) == asked


def test_a_refusal_to_put_it_back_is_told_and_tried_again_ever_more_rarely(world: ListenerWorld) -> None:
    deploy(world)
    served = spec(world)
    see(world, resource("r2"))
    world.advance()
    operator_says(world, available=False, reason="ImagePullBackOff")
    world.clock.move(11)
    world.cluster.write_error = ObjectRefused("lgps is forbidden", reason="Forbidden", status=403)
    world.advance()
    assert "forbidden" in world.state().last_reason
    assert world.advance().acts == 0

    world.cluster.write_error = None
    world.clock.move(31)
    world.advance()

    assert spec(world) == served
    assert world.state().last_reason.startswith("ImagePullBackOff: ")


def test_a_paused_deployment_is_put_back_once_it_is_resumed(world: ListenerWorld) -> None:
    deploy(world)
    served = spec(world)
    see(world, resource("r2"))
    world.advance()
    append(world, Paused(by="ada"))
    operator_says(world, available=False, reason="ImagePullBackOff")
    world.clock.move(1000)
    world.advance()
    assert spec(world) != served

    append(world, Resumed(by="ada"))
    world.advance()
    assert spec(world) == served
