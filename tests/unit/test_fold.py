"""Folding, over the log in memory. (Snapshots and trimming are tested for both logs in `tests/contract`.)"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.runtime.fold
from engine.digests import canonical, digest
from engine.errors import FutureEvent
from engine.event import Event
from engine.log.memory import MemoryLog
from engine.runtime.backoff import ActDeferred, ActRefused
from engine.runtime.fold import SNAPSHOT_EVERY, Fold, fingerprint
from tests.support.notes import NOON, Asked, Renamed, Stepped, Work, Worker, notes

STREAM = "work/a"


@pytest.fixture
def events() -> MemoryLog:
    return MemoryLog()


def fold(events: MemoryLog, machine: Worker | None = None) -> Fold[Work]:
    folded = Fold(machine or Worker(), events, STREAM)
    folded.catch_up()
    return folded


def test_an_empty_stream_is_the_initial_state(events: MemoryLog) -> None:
    assert (fold(events).state, fold(events).version) == (Work(), 0)


def test_catching_up_folds_only_what_is_new(events: MemoryLog) -> None:
    events.append(STREAM, 0, [Asked(steps=2), Stepped(number=1)], actor="poll")
    machine = Worker()
    folded = fold(events, machine)
    events.append(STREAM, 2, [Stepped(number=2)], actor="worker")

    folded.catch_up()

    assert machine.folded == 3
    assert (folded.state, folded.version) == (Work(wanted=2, done=2), 3)


def test_evolve_is_given_the_time_of_the_record(events: MemoryLog) -> None:
    seen = []

    class Timed(Worker):
        def evolve(self, state: Work, event: Event, at: Any) -> Work:
            seen.append(at)
            return state

    events.append(STREAM, 0, notes("one", "two"), actor="poll")
    fold(events, Timed())

    assert seen == [record.at for record in events.read(STREAM)]


def test_old_events_are_upcast(events: MemoryLog) -> None:
    class Old(Event):
        name: str

    Old.__name__ = "Renamed"
    events.append(STREAM, 0, [Old(name="Ada"), Renamed(title="Ada L.", by="poll")], actor="poll")

    assert fold(events).state.titles == ("Ada", "Ada L.")


def test_a_stream_stops_before_an_event_of_the_future(events: MemoryLog) -> None:
    class Future(Event):
        """An event of a newer program."""

    events.append(STREAM, 0, [Asked(steps=2), Future(), Stepped(number=1)], actor="poll")
    folded = Fold(Worker(), events, STREAM)

    with pytest.raises(FutureEvent, match="work/a version 2"):
        folded.catch_up()
    assert (folded.state, folded.version) == (Work(wanted=2), 1)


def test_a_snapshot_is_written_once_it_saves_reading(events: MemoryLog) -> None:
    events.append(STREAM, 0, notes(*map(str, range(SNAPSHOT_EVERY - 1))), actor="poll")
    fold(events).save()
    assert events.load_snapshot(STREAM) is None

    events.append(STREAM, SNAPSHOT_EVERY - 1, notes("last"), actor="poll")
    fold(events).save()
    snapshot = events.load_snapshot(STREAM)
    assert snapshot is not None
    assert snapshot.version == SNAPSHOT_EVERY


def test_failures_survive_a_snapshot(events: MemoryLog) -> None:
    failed = [
        ActDeferred(act="Step", attempt=n, reason="away", retry_at=NOON + timedelta(seconds=n)) for n in range(1, 61)
    ]
    events.append(STREAM, 0, failed, actor="worker", cause="Step")
    fold(events).save()
    machine = Worker()

    restored = fold(events, machine)

    assert machine.folded == 0
    assert restored.failures("Step") == 60


@pytest.mark.parametrize(
    ("event", "cause", "failures"),
    [
        (Stepped(number=1), "Step", 0),
        (ActRefused(act="Step", reason="no"), "Step", 0),
        (Asked(steps=1), None, 1),
        (Stepped(number=1), "Another", 1),
    ],
)
def test_an_act_that_succeeds_clears_its_failures(
    events: MemoryLog, event: Event, cause: str | None, failures: int
) -> None:
    events.append(STREAM, 0, [ActDeferred(act="Step", attempt=1, reason="away", retry_at=NOON)], actor="worker")
    events.append(STREAM, 1, [event], actor="worker", cause=cause)

    assert fold(events).failures("Step") == failures


def a_log_that_went_back(*instead: Event) -> MemoryLog:
    """Return a log with the first two events that `fold` has folded, and then `instead`."""
    events = MemoryLog()
    events.append(STREAM, 0, [Asked(steps=9), Stepped(number=1)], actor="poll")
    events.append(STREAM, 2, list(instead), actor="poll")
    return events


@pytest.mark.parametrize(
    ("instead", "state"),
    [
        ([], Work(wanted=9, done=1)),
        ([Stepped(number=7)], Work(wanted=9, done=7)),
        ([Stepped(number=7), Stepped(number=8), Stepped(number=9)], Work(wanted=9, done=9)),
    ],
    ids=["shorter", "as long", "longer"],
)
def test_a_fold_begins_again_when_its_last_event_is_gone(events: MemoryLog, instead: list[Event], state: Work) -> None:
    events.append(STREAM, 0, [Asked(steps=9), Stepped(number=1), Stepped(number=2)], actor="poll")
    folded = fold(events)
    folded._events = a_log_that_went_back(*instead)

    folded.catch_up()

    assert (folded.state, folded.version) == (state, 2 + len(instead))


def test_a_snapshot_ahead_of_its_log_is_left_aside(events: MemoryLog) -> None:
    events.append(STREAM, 0, [Asked(steps=9), Stepped(number=1), Stepped(number=2)], actor="poll")
    folded = fold(events)
    folded.save(every=1)
    shorter = a_log_that_went_back()
    snapshot = events.load_snapshot(STREAM)
    assert snapshot is not None
    shorter._snapshots[STREAM] = snapshot

    assert fold(shorter).state == Work(wanted=9, done=1)


def test_a_fold_goes_on_over_a_trimmed_stream(events: MemoryLog) -> None:
    events.append(STREAM, 0, [Asked(steps=9), Stepped(number=1)], actor="poll")
    behind = fold(events)
    events.append(STREAM, 2, [Stepped(number=number) for number in (2, 3, 4)], actor="worker")
    fold(events).save(every=1)
    events.trim(STREAM, 4)

    behind.catch_up()

    assert (behind.state, behind.version) == (Work(wanted=9, done=4), 5)


@pytest.mark.parametrize("edited", ["deferral.py", "dispatch.py", "values.py", "backoff.py", "repairs.py"])
def test_the_fingerprint_covers_the_rules_that_both_components_share(
    monkeypatch: pytest.MonkeyPatch, edited: str
) -> None:
    before, read = fingerprint(Worker()), Path.read_text
    monkeypatch.setattr(engine.runtime.fold, "_fingerprints", {})
    monkeypatch.setattr(Path, "read_text", lambda path: read(path) + ("# edited" if path.name == edited else ""))

    assert fingerprint(Worker()) != before


def test_the_fingerprint_covers_the_schema_of_the_state() -> None:
    @dataclass(frozen=True, kw_only=True)
    class WiderWork(Work):
        more: int = 0

    class Wider(Worker):
        initial = WiderWork()

    assert fingerprint(Worker()) == fingerprint(Worker())
    assert fingerprint(Worker()) != fingerprint(Wider())
    assert fingerprint(Worker()).startswith("worker:")


def test_canonical_json_is_the_same_for_the_same_value() -> None:
    assert canonical({"b": [1, None], "a": "ü"}) == '{"a":"ü","b":[1,null]}'.encode()
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    assert digest({"a": 1}) != digest({"a": 2})
