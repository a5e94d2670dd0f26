"""Presence, for both logs: who says that it is there, for how long."""

from __future__ import annotations

from engine.log.contract import EventLog
from tests.contract.conftest import World


def test_nobody_is_there_who_has_not_said_so(events: EventLog) -> None:
    events.attend("operator/new", 30)

    assert events.attended("operator/new")
    assert not events.attended("operator/old")


def test_presence_runs_out_unless_it_is_said_again(world: World) -> None:
    world.events.attend("operator/new", 1.0)
    world.pass_time(0.6)
    world.events.attend("operator/new", 1.0)
    world.pass_time(0.6)

    assert world.events.attended("operator/new")
    world.pass_time(0.6)
    assert not world.events.attended("operator/new")


def test_presence_is_no_event(events: EventLog) -> None:
    events.attend("operator/new", 30)

    assert events.head() == 0
    assert events.streams() == events.dirty() == []
