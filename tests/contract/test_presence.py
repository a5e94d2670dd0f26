"""Presence, for both logs: a process announces that it is alive, for a TTL."""

from __future__ import annotations

from engine.log.contract import EventLog
from tests.support.logs import LogWorld


def test_nobody_is_there_who_has_not_said_so(events: EventLog) -> None:
    events.announce("operator/new", 30)

    assert events.announced("operator/new")
    assert not events.announced("operator/old")


def test_presence_runs_out_unless_it_is_said_again(world: LogWorld) -> None:
    world.events.announce("operator/new", 1.0)
    world.pass_time(0.6)
    world.events.announce("operator/new", 1.0)
    world.pass_time(0.6)

    assert world.events.announced("operator/new")
    world.pass_time(0.6)
    assert not world.events.announced("operator/new")


def test_presence_is_no_event(events: EventLog) -> None:
    events.announce("operator/new", 30)

    assert events.head() == 0
    assert events.streams() == events.dirty() == []
