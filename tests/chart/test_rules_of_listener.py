"""What stops working without each right that the chart grants to the listener: see `tests/chart/rights.py`."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial

import pytest

from engine import names
from engine.listener.events import RolloutObserved
from engine.names import (
    deployment_stream,
    lgp_name,
)
from engine.ports import Manifest
from tests.chart.rights import (
    Line,
    Piece,
    Right,
    Stage,
    Work,
    assert_needed,
    leases,
    name_of,
    rights_of,
)
from tests.support.granted import ControlPlane


def asked(stage: Stage, name: str = "hello") -> tuple[Work, ControlPlane, str]:
    """Poll a new deployment of the control plane; return its work, the control plane, and the name of its LGP."""
    control_plane = ControlPlane(stage.namespace)
    control_plane.watched = stage.settings.watch_namespaces
    engine = stage.engine("listener", control_plane=control_plane)
    deployment = str(uuid.uuid4())
    work = Work(stage=stage, engine=engine, stream=deployment_stream(deployment))
    ask(work, control_plane, 1, name)
    return work, control_plane, lgp_name(name, deployment)


def ask(work: Work, control_plane: ControlPlane, number: int, name: str = "hello") -> None:
    control_plane.ask(f"{number}0000000-0000-4000-8000-000000000000", str(number), f"sk-{number}")
    assert control_plane.resource is not None
    control_plane.resource |= {"id": work.stream.removeprefix("deployment/"), "name": name}
    assert work.engine.poll().changed == [work.stream]


def rolled_out(work: Work, lgp: str) -> None:
    """Append, as the watcher does, that the LGP is rolled out."""
    live = work.stage.get("lgps", lgp)
    assert live is not None
    generation = live["metadata"]["generation"]
    work.append(RolloutObserved(generation=generation, available=True, progressing=False, database_ready=True))


def first_lgp(stage: Stage, name: str = "hello") -> Piece:
    work, _, lgp = asked(stage, name)
    return work.until(lambda: stage.get("lgps", lgp) is not None)


def first_secret(stage: Stage) -> Piece:
    work, _, _ = asked(stage)
    return work.until(lambda: len(secrets_of(work)) == 1)


def secrets_of(work: Work) -> list[Manifest]:
    return work.stage.list("secrets", f"{names.DEPLOYMENT_LABEL}={work.stream.removeprefix('deployment/')}")


def earlier_secret(stage: Stage) -> Piece:
    """A second revision that is about to be deployed, while the Secret of the first revision still exists."""
    work, control_plane, lgp = asked(stage)
    for number in (1, 2):
        if number > 1:
            ask(work, control_plane, number)
        work.advance()
        rolled_out(work, lgp)
    assert len(secrets_of(work)) == 2
    return work.until(lambda: len(secrets_of(work)) == 1)


def deletion(stage: Stage) -> Piece:
    work, control_plane, lgp = asked(stage)
    work.advance()
    assert stage.get("lgps", lgp) is not None
    assert control_plane.resource is not None
    control_plane.resource["status"] = "AWAITING_DELETE"
    work.engine.poll()
    return work.until(lambda: stage.get("lgps", lgp) is None)


LISTENER: dict[Right, Line] = {
    **leases("listener", first_secret, "ActRefused"),
    Right("listener", "get", "lgps"): Line(
        stops="a deployment gets no LGP", shown=first_lgp, reported_as="LgpRejected"
    ),
    Right("listener", "create", "lgps"): Line(
        stops="a deployment gets no LGP", shown=first_lgp, reported_as="LgpRejected"
    ),
    Right("listener", "patch", "lgps"): Line(
        stops="a deployment gets no LGP", shown=first_lgp, reported_as="LgpRejected"
    ),
    Right("listener", "list", "lgps"): Line(
        stops="a deployment with a long name gets no LGP: another listener may have shortened the name differently",
        shown=partial(first_lgp, name=f"a-name-that-{'very-' * 10}often-does-not-fit"),
        reported_as="LgpRejected",
    ),
    Right("listener", "delete", "lgps"): Line(
        stops="a deployment that is deleted on the control plane keeps running",
        shown=deletion,
        reported_as="ActRefused",
    ),
    **{
        Right("listener", verb, "secrets"): Line(
            stops="a deployment gets neither its Secret nor an LGP", shown=first_secret, reported_as="LgpRejected"
        )
        for verb in ("get", "create", "patch")
    },
    **{
        Right("listener", verb, "secrets"): Line(
            stops="the Secrets of earlier revisions stay in the cluster", shown=earlier_secret, reported_as="ActRefused"
        )
        for verb in ("list", "delete")
    },
}


@pytest.mark.parametrize("right", LISTENER, ids=name_of)
def test_what_stops_without(right: Right, stages: Callable[[str], Stage]) -> None:
    assert_needed(right, LISTENER[right], stages)


def test_every_right_of_every_layout_is_in_the_table() -> None:
    assert rights_of("listener") == LISTENER.keys()
