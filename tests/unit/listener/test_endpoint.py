"""Where a deployment is reached is told to the control plane, once, and never over somebody's own choice."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import ControlPlaneUnavailable, ReportRefused, ReportsUnsupported
from engine.listener.state import Phase
from tests.support.listener import DEPLOYMENT, LGP, ListenerWorld, deploy, resource, see

URL = f"https://agents.example/lgp/{LGP.name}"


def shown(world: ListenerWorld) -> Any:
    return world.control_plane.resources[DEPLOYMENT]["source_config"].get("custom_url")


def update(world: ListenerWorld, revision: str) -> None:
    """A new revision, on top of what the control plane holds."""
    raw = resource(revision)
    raw["source_config"]["custom_url"] = shown(world)
    see(world, raw)
    world.advance()
    world.cluster.objects[LGP]["status"] = {
        "observedGeneration": world.cluster.objects[LGP]["metadata"]["generation"],
        "conditions": [{"type": "Available", "status": "True"}],
    }
    world.watch()
    world.advance()


def test_the_url_is_shown_by_the_time_the_revision_is_called_deployed(world: ListenerWorld) -> None:
    seen: list[Any] = []
    report = world.control_plane.report_revision

    def noting(deployment_id: str, revision_id: str, status: str, **more: Any) -> None:
        seen.append((status, shown(world)))
        report(deployment_id, revision_id, status, **more)

    world.control_plane.report_revision = noting  # type: ignore[method-assign]
    deploy(world)

    assert seen == [("AWAITING_DEPLOY", None), ("DEPLOYING", None), ("DEPLOYED", URL)]


def test_the_url_is_told_once_whatever_revisions_come(world: ListenerWorld) -> None:
    deploy(world)
    update(world, "r2")
    update(world, "r3")

    assert world.state().revisions.serving == "r3"
    assert world.control_plane.endpoint_writes == 1
    assert world.types().count("EndpointPublished") == 1


def test_a_url_that_is_there_already_is_not_written(world: ListenerWorld) -> None:
    raw = resource()
    raw["source_config"]["custom_url"] = URL
    world.control_plane.resources[DEPLOYMENT] = raw
    update(world, "r1")

    assert world.state().endpoint.published == URL
    assert world.control_plane.endpoint_writes == 0


def test_another_hostname_takes_the_place_of_the_url_that_was_published(world: ListenerWorld) -> None:
    deploy(world)
    world.config = world.config.model_copy(update={"hostname": "new.example"})
    world.advance()

    assert shown(world) == f"https://new.example/lgp/{LGP.name}"


@pytest.mark.parametrize("published", [False, True], ids=["from the beginning", "after ours"])
def test_a_url_that_somebody_chose_stays(world: ListenerWorld, published: bool) -> None:
    if published:
        deploy(world)
        world.config = world.config.model_copy(update={"hostname": "new.example"})
    else:
        see(world, resource())
    world.control_plane.resources[DEPLOYMENT]["source_config"]["custom_url"] = "https://my.example"
    update(world, "r2")

    assert shown(world) == "https://my.example"
    assert world.types().count("EndpointNotPublished") == 1
    assert world.state().revision.phase is Phase.DEPLOYED


@pytest.mark.parametrize("error", [ReportRefused("422"), ReportsUnsupported("405")])
def test_a_refusal_is_said_once_and_everything_goes_on(world: ListenerWorld, error: Exception) -> None:
    world.control_plane.endpoint_error = error
    deploy(world)
    update(world, "r2")

    assert world.types().count("EndpointNotPublished") == 1
    assert ("r2", "DEPLOYED") in world.control_plane.reports


def test_an_outage_holds_nothing_up_and_the_url_is_told_later(world: ListenerWorld) -> None:
    world.control_plane.endpoint_error = ControlPlaneUnavailable("503")
    deploy(world)
    assert ("r1", "DEPLOYED") in world.control_plane.reports
    assert shown(world) is None

    world.control_plane.endpoint_error = None
    world.clock.move(60)
    world.advance()
    assert shown(world) == URL


@pytest.mark.parametrize("change", [{"routed": False}, {"hostname": ""}])
def test_nothing_is_told_where_nothing_leads_there(world: ListenerWorld, change: dict[str, Any]) -> None:
    world.config = world.config.model_copy(update=change)
    deploy(world)

    assert world.state().revision.phase is Phase.DEPLOYED
    assert world.control_plane.endpoint_writes == 0
    assert "EndpointNotPublished" not in world.types()
