"""Dirty streams, acknowledgements and timers, for both logs."""

from __future__ import annotations

from datetime import timedelta

from engine.log.contract import EventLog
from tests.support.logs import LogWorld
from tests.support.notes import NOON, notes

SOON, LATER = NOON + timedelta(seconds=5), NOON + timedelta(seconds=50)


def test_an_append_makes_its_stream_dirty(events: EventLog) -> None:
    assert events.work_token("work/a") == 0
    events.append("work/a", 0, notes("one"), actor="poll")

    assert events.dirty() == ["work/a"]
    assert events.work_token("work/a") > 0


def test_acknowledging_at_the_last_version_cleans(events: EventLog) -> None:
    events.append("work/a", 0, notes("one", "two"), actor="poll")

    assert events.acknowledge("work/a", 2)
    assert events.dirty() == []
    assert events.work_token("work/a") == 0


def test_acknowledging_behind_the_last_version_leaves_the_stream_dirty(events: EventLog) -> None:
    events.append("work/a", 0, notes("one"), actor="poll")
    events.append("work/a", 1, notes("two"), actor="watcher")

    assert not events.acknowledge("work/a", 1)
    assert events.dirty() == ["work/a"]


def test_acknowledging_ahead_of_the_last_version_leaves_the_stream_dirty(events: EventLog) -> None:
    """A worker has folded events that Redis lost with its last second."""
    events.append("work/a", 0, notes("one"), actor="poll")

    assert not events.acknowledge("work/a", 2)
    assert events.dirty() == ["work/a"]


def test_acknowledging_after_another_event_than_the_last_leaves_the_stream_dirty(events: EventLog) -> None:
    """The event that a worker folded last was lost, and another event has its version."""
    events.append("work/a", 0, notes("one"), actor="poll")
    [last] = events.read("work/a")

    assert not events.acknowledge("work/a", 1, last="another")
    assert events.dirty() == ["work/a"]
    assert events.acknowledge("work/a", 1, last=last.id)


def test_a_work_token_from_meanwhile_refuses_the_acknowledgement(events: EventLog) -> None:
    events.append("work/a", 0, notes("one"), actor="poll")
    token = events.work_token("work/a")
    events.mark_dirty("work/a")

    assert not events.acknowledge("work/a", 1, work_token=token)
    assert events.dirty() == ["work/a"]
    assert events.acknowledge("work/a", 1, work_token=events.work_token("work/a"))


def test_an_append_on_a_dirty_stream_keeps_its_work_token(events: EventLog) -> None:
    events.append("work/a", 0, notes("one"), actor="poll")
    token = events.work_token("work/a")
    events.append("work/a", 1, notes("two"), actor="worker")

    assert events.acknowledge("work/a", 2, work_token=token)


def test_a_stream_without_events_can_be_marked_dirty_and_acknowledged(events: EventLog) -> None:
    events.mark_dirty("work/a")

    assert events.dirty() == ["work/a"]
    assert events.acknowledge("work/a", 0, work_token=events.work_token("work/a"))
    assert events.dirty() == []


def test_acknowledging_sets_the_timer(events: EventLog) -> None:
    events.append("work/a", 0, notes("one"), actor="poll")

    assert events.acknowledge("work/a", 1, until=SOON)
    assert events.due() == [("work/a", SOON)]

    assert events.acknowledge("work/a", 1)
    assert events.due() == []


def test_acknowledging_in_vain_leaves_the_timer(events: EventLog) -> None:
    events.schedule("work/a", SOON)

    assert not events.acknowledge("work/a", 7, until=LATER)
    assert events.due() == [("work/a", SOON)]


def test_old_dirty_streams_are_taken_and_their_age_starts_again(world: LogWorld) -> None:
    world.events.append("work/a", 0, notes("one"), actor="poll")
    world.clock.move(10)
    world.events.append("work/b", 0, notes("one"), actor="poll")

    assert world.events.take_dirty(5) == ["work/a"]
    assert world.events.take_dirty(5) == []
    world.clock.move(6)
    assert sorted(world.events.take_dirty(5)) == ["work/a", "work/b"]
    assert sorted(world.events.dirty()) == ["work/a", "work/b"]


def test_a_stream_that_events_keep_coming_to_is_taken_all_the_same(world: LogWorld) -> None:
    for version in range(5):
        world.events.append("work/a", version, notes("more"), actor="watcher")
        world.clock.move(2)

    assert world.events.take_dirty(8) == ["work/a"]


def test_dirty_streams_are_taken_oldest_first_and_not_too_many(world: LogWorld) -> None:
    for name in ("work/c", "work/a", "work/b"):
        world.events.mark_dirty(name)
        world.clock.move(1)

    assert world.events.dirty() == ["work/c", "work/a", "work/b"]
    assert world.events.take_dirty(0, limit=2) == ["work/c", "work/a"]


def test_a_timer_makes_its_stream_dirty_when_its_time_has_come(events: EventLog) -> None:
    events.append("work/a", 0, notes("one"), actor="poll")
    events.acknowledge("work/a", 1, until=SOON)

    assert events.take_due(SOON - timedelta(microseconds=1)) == []
    assert events.dirty() == []
    assert events.take_due(SOON) == ["work/a"]
    assert events.dirty() == ["work/a"]
    assert events.due() == []
    assert events.take_due(SOON) == []


def test_a_timer_that_runs_out_while_a_worker_looks_is_not_lost(events: EventLog) -> None:
    events.append("work/a", 0, notes("one"), actor="poll")
    events.schedule("work/a", SOON)
    token = events.work_token("work/a")

    events.take_due(SOON)

    assert not events.acknowledge("work/a", 1, work_token=token)
    assert events.dirty() == ["work/a"]


def test_the_last_timer_of_a_stream_wins(events: EventLog) -> None:
    events.schedule("work/a", SOON)
    events.schedule("work/b", SOON + timedelta(seconds=1))
    events.schedule("work/a", LATER)

    assert events.due() == [("work/b", SOON + timedelta(seconds=1)), ("work/a", LATER)]
    events.unschedule("work/b")
    assert events.due() == [("work/a", LATER)]


def test_not_too_many_timers_are_taken_at_once(events: EventLog) -> None:
    for number in range(5):
        events.schedule(f"work/{number}", SOON + timedelta(microseconds=number))

    assert events.take_due(LATER, limit=3) == ["work/0", "work/1", "work/2"]
    assert events.take_due(LATER, limit=3) == ["work/3", "work/4"]


def test_a_timer_does_not_make_a_dirty_stream_younger(world: LogWorld) -> None:
    world.events.mark_dirty("work/a")
    world.events.schedule("work/a", SOON)
    world.clock.move(20)

    world.events.take_due(world.clock.now())

    assert world.events.take_dirty(15) == ["work/a"]
