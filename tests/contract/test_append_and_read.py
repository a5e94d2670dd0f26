"""Appending and reading, for both logs."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from itertools import islice

import pytest

from engine.errors import ConcurrencyConflict, FutureEvent
from engine.event import Event, Registry
from engine.log.contract import EventLog
from engine.runtime.backoff import ActDeferred
from tests.support.logs import LogWorld
from tests.support.notes import NOON, Noted, Renamed, Worker, notes


def test_a_new_stream_is_at_version_0(events: EventLog) -> None:
    assert events.version("work/a") == 0
    assert events.read("work/a") == []
    assert events.head() == 0


def test_events_of_one_append_get_consecutive_versions(events: EventLog) -> None:
    assert events.append("work/a", 0, notes("one", "two"), actor="poll") == 2
    assert events.append("work/a", 2, notes("three"), actor="poll") == 3

    assert [(r.version, r.data["text"]) for r in events.read("work/a")] == [(1, "one"), (2, "two"), (3, "three")]
    assert events.version("work/a") == 3


def test_a_record_keeps_the_whole_envelope(world: LogWorld) -> None:
    event = ActDeferred(
        act="Grüße\n🌍", attempt=3, reason="", retry_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    )

    world.events.append("work/a", 0, [event], actor="listener", cause="ApplyLgp")

    [record] = world.events.read("work/a")
    assert (record.stream, record.version, record.position) == ("work/a", 1, 1)
    assert (record.type, record.schema_version, record.actor, record.cause) == (
        "ActDeferred",
        1,
        "listener",
        "ApplyLgp",
    )
    assert record.at == NOON
    assert record.at.utcoffset() is not None
    assert Registry(ActDeferred).decode(record) == event


def test_ids_are_unique(events: EventLog) -> None:
    events.append("work/a", 0, notes("one", "two"), actor="poll")
    events.append("work/b", 0, notes("one", "two"), actor="poll")

    assert len({record.id for record in events.read_all()}) == 4


def test_a_conflict_names_both_versions_and_appends_nothing(events: EventLog) -> None:
    events.append("work/a", 0, notes("one"), actor="poll")
    events.acknowledge("work/a", 1)

    with pytest.raises(ConcurrencyConflict) as conflict:
        events.append("work/a", 0, notes("two", "three"), actor="poll")

    assert (conflict.value.expected, conflict.value.actual) == (0, 1)
    assert [record.data["text"] for record in events.read_all()] == ["one"]
    assert events.dirty() == []


def test_expecting_more_than_there_is_conflicts_too(events: EventLog) -> None:
    with pytest.raises(ConcurrencyConflict) as conflict:
        events.append("work/a", 5, notes("six"), actor="poll")

    assert conflict.value.actual == 0


def test_appending_nothing_changes_nothing(events: EventLog) -> None:
    assert events.append("work/a", 0, [], actor="poll") == 0
    assert events.streams() == []
    assert events.dirty() == []


def test_reading_after_a_version(events: EventLog) -> None:
    events.append("work/a", 0, notes(*"abcde"), actor="poll")

    assert [record.version for record in events.read("work/a", after=3)] == [4, 5]
    assert events.read("work/a", after=5) == []


def test_reading_many_streams_at_once(events: EventLog) -> None:
    names = [f"work/{number:04}" for number in range(450)]
    for name in names:
        events.append(name, 0, notes("one", name), actor="poll")

    many = events.read_many(dict.fromkeys(names, 1) | {"work/none": 0})

    assert [records[0].data["text"] for records in list(many.values())[:450]] == names
    assert many["work/none"] == []


def test_the_log_of_everything_is_in_order_of_appending(events: EventLog) -> None:
    for number in range(6):
        events.append(f"work/{number % 2}", number // 2, notes(str(number)), actor="poll")

    everything = events.read_all()

    assert [record.data["text"] for record in everything] == list("012345")
    assert [record.position for record in everything] == [1, 2, 3, 4, 5, 6]
    assert events.head() == 6


def test_the_log_of_everything_is_read_in_pages(events: EventLog) -> None:
    for number in range(3):
        events.append(f"work/{number}", 0, notes(*"abc"), actor="poll")

    first = events.read_all(limit=4)
    second = events.read_all(first[-1].position, limit=4)
    third = events.read_all(second[-1].position, limit=4)

    assert [len(page) for page in (first, second, third)] == [4, 4, 1]
    assert [record.position for record in first + second + third] == list(range(1, 10))


def test_streams_are_listed_by_prefix(events: EventLog) -> None:
    for name in ("deployment/b", "deployment/a", "lgp/ns/a"):
        events.append(name, 0, notes("one"), actor="poll")

    assert events.streams() == ["deployment/a", "deployment/b", "lgp/ns/a"]
    assert events.streams("deployment/") == ["deployment/a", "deployment/b"]
    assert events.versions("lgp/") == {"lgp/ns/a": 1}


def test_tail_yields_what_is_there_and_what_comes(events: EventLog) -> None:
    events.append("work/a", 0, notes("before"), actor="poll")
    tail = events.tail(after_position=0, block=0.1)
    assert next(tail).data["text"] == "before"

    append = threading.Timer(0.2, lambda: events.append("work/a", 1, notes("after"), actor="poll"))
    append.start()
    assert next(tail).data["text"] == "after"
    append.join()


def test_tail_without_a_position_yields_only_what_comes(events: EventLog) -> None:
    events.append("work/a", 0, notes("before"), actor="poll")
    tail = events.tail(block=0.1)

    events.append("work/a", 1, notes("after", "later"), actor="poll")

    assert [record.data["text"] for record in islice(tail, 2)] == ["after", "later"]


def test_tail_ends_when_it_is_told_to(events: EventLog) -> None:
    events.append("work/a", 0, notes("one"), actor="poll")
    told: list[str] = []

    for record in events.tail(after_position=0, block=0.05, until=lambda: bool(told)):
        told.append(record.data["text"])

    assert told == ["one"]


def test_an_old_event_is_upcast_when_it_is_read(events: EventLog) -> None:
    class Old(Event):
        name: str

    class Older(Event):
        schema_version = 2
        title: str

    Old.__name__ = Older.__name__ = "Renamed"
    written = [Old(name="Ada"), Older(title="Ada B."), Renamed(title="Ada L.", by="poll")]
    events.append("work/a", 0, written, actor="poll")

    first, second, third = (Worker.events.decode(record) for record in events.read("work/a"))

    assert first == Renamed(title="Ada", by="nobody")
    assert second == Renamed(title="Ada B.", by="nobody")
    assert third == Renamed(title="Ada L.", by="poll")


def test_an_event_class_without_every_step_is_an_error_at_import() -> None:
    class Jumped(Event):
        schema_version = 3
        upcasts = {1: dict}

    with pytest.raises(TypeError, match=r"Jumped\.upcasts must have a step for each version below 3"):
        Registry(Jumped)


def test_an_event_of_a_future_schema_is_refused_by_name(events: EventLog) -> None:
    class Future(Noted):
        schema_version = 7

    Future.__name__ = "Noted"
    events.append("work/a", 0, [Future(text="hello")], actor="poll")

    with pytest.raises(FutureEvent, match=r"work/a version 1: Noted has schema version 7.* upgrade"):
        Worker.events.decode(events.read("work/a")[0])
