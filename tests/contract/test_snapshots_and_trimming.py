"""Snapshots, trimming and forgetting, for both logs."""

from __future__ import annotations

import pytest

from engine.errors import SnapshotUnreadable, TrimRefused
from engine.log.contract import EventLog, Snapshot
from engine.runtime.fold import Fold, fingerprint
from tests.support.notes import Asked, Renamed, Stepped, Work, Worker, notes


def snapshot(version: int, stream: str = "work/a", fingerprint: str = "code:1", state: bytes = b"{}") -> Snapshot:
    return Snapshot(stream=stream, version=version, fingerprint=fingerprint, state=state)


def given(events: EventLog, count: int = 10, stream: str = "work/a") -> None:
    events.append(stream, 0, [Asked(steps=count)], actor="poll")
    events.append(stream, 1, [Stepped(number=number) for number in range(1, count)], actor="worker")


def test_a_snapshot_is_kept_as_it_is(events: EventLog) -> None:
    given(events)
    kept = snapshot(5, state='{"text":"Grüße\\n"}\n'.encode())
    events.save_snapshot(kept)

    assert events.load_snapshot("work/a") == kept
    assert events.load_snapshot("work/b") is None


def test_an_older_snapshot_of_the_same_code_is_ignored(events: EventLog) -> None:
    given(events)
    events.save_snapshot(snapshot(5))
    events.save_snapshot(snapshot(4))
    assert events.load_snapshot("work/a") == snapshot(5)

    events.save_snapshot(snapshot(4, fingerprint="code:2"))
    assert events.load_snapshot("work/a") == snapshot(4, fingerprint="code:2")


def test_a_snapshot_ahead_of_its_stream_is_ignored(events: EventLog) -> None:
    given(events, 3)
    events.save_snapshot(snapshot(4))

    assert events.load_snapshot("work/a") is None


def test_dropping_all_snapshots_changes_nothing_but_speed(events: EventLog) -> None:
    given(events, 20)
    machine = Worker()
    fold = Fold(machine, events, "work/a")
    fold.catch_up()
    fold.save(every=1)
    machine.folded = 0

    quick = Fold(machine, events, "work/a")
    quick.catch_up()
    assert machine.folded == 0
    assert events.drop_snapshots() == 1
    slow = Fold(machine, events, "work/a")
    slow.catch_up()

    assert machine.folded == 20
    assert quick.state == slow.state == fold.state
    assert quick.version == slow.version == 20


def test_a_snapshot_of_other_code_is_not_trusted(events: EventLog) -> None:
    given(events, 4)
    events.save_snapshot(snapshot(4, fingerprint="code:0", state=b'{"failed":{},"state":{"done":99}}'))

    fold = Fold(Worker(), events, "work/a")
    fold.catch_up()

    assert fold.state == Work(wanted=4, done=3)


def test_trimming_never_passes_the_snapshot(events: EventLog) -> None:
    given(events)
    with pytest.raises(TrimRefused, match="work/a"):
        events.trim("work/a", 1)
    events.save_snapshot(snapshot(6))
    with pytest.raises(TrimRefused, match="work/a"):
        events.trim("work/a", 7)

    assert len(events.read("work/a")) == 10


def test_trimming_keeps_the_last_event(events: EventLog) -> None:
    given(events)
    events.save_snapshot(snapshot(10))

    with pytest.raises(TrimRefused, match="work/a"):
        events.trim("work/a", 10)


def test_trimming_takes_events_out_of_both_logs_and_keeps_the_version(events: EventLog) -> None:
    given(events)
    given(events, stream="work/b")
    events.save_snapshot(snapshot(8))

    assert events.trim("work/a", 7) == 7
    assert events.trim("work/a", 7) == 0

    assert [record.version for record in events.read("work/a")] == [8, 9, 10]
    assert [record.version for record in events.read_all() if record.stream == "work/a"] == [8, 9, 10]
    assert len(events.read("work/b")) == 10
    assert events.trimmed() == {"work/a": 7}
    assert events.append("work/a", 10, notes("more"), actor="poll") == 11
    assert events.head() == 21


def test_reading_pages_skips_what_was_trimmed(events: EventLog) -> None:
    given(events, 30)
    events.append("work/b", 0, notes("last"), actor="poll")
    events.save_snapshot(snapshot(30))
    events.trim("work/a", 29)

    assert [record.stream for record in events.read_all(limit=5)] == ["work/a", "work/b"]


def test_a_trimmed_stream_still_folds_and_keeps_its_snapshot(events: EventLog) -> None:
    given(events, 20)
    before = Fold(Worker(), events, "work/a")
    before.catch_up()
    before.save(every=1)
    events.trim("work/a", 15)
    given(events, 20, stream="work/b")
    other = Fold(Worker(), events, "work/b")
    other.catch_up()
    other.save(every=1)

    assert events.drop_snapshots() == 1
    after = Fold(Worker(), events, "work/a")
    after.catch_up()

    assert after.state == before.state
    assert after.version == 20


def test_a_trimmed_stream_folds_from_a_snapshot_of_earlier_code(events: EventLog) -> None:
    given(events, 20)
    events.save_snapshot(
        snapshot(18, fingerprint="code:0", state=b'{"failed":{"Step":2},"state":{"wanted":20,"done":17}}')
    )
    events.trim("work/a", 18)

    fold = Fold(Worker(), events, "work/a")
    fold.catch_up()

    assert fold.state == Work(wanted=20, done=19)


def test_a_trimmed_stream_whose_snapshot_cannot_be_read_is_refused_by_name(events: EventLog) -> None:
    given(events, 20)
    events.save_snapshot(snapshot(18, fingerprint="code:9", state=b'{"failed":{},"state":{"unknown":1}}'))
    events.trim("work/a", 18)

    with pytest.raises(SnapshotUnreadable, match=r"work/a: .* cannot read the state in the snapshot at version 18"):
        Fold(Worker(), events, "work/a").catch_up()


def test_a_snapshot_that_does_not_reach_the_trimmed_part_is_not_kept(events: EventLog) -> None:
    given(events, 20)
    events.save_snapshot(snapshot(18, fingerprint=fingerprint(Worker()), state=b'{"failed":{},"state":{"done":17}}'))
    events.trim("work/a", 18)
    events.save_snapshot(snapshot(5, fingerprint="code:2"))

    kept = events.load_snapshot("work/a")
    assert kept is not None
    assert kept.version == 18


def test_a_forgotten_stream_leaves_nothing_and_may_begin_again(events: EventLog) -> None:
    given(events)
    events.append("work/b", 0, notes("other"), actor="poll")
    events.save_snapshot(snapshot(10))
    events.acknowledge("work/a", 10)
    events.schedule("work/a", events.read("work/a")[0].at)

    assert events.forget("work/a", 10) == 10

    assert events.streams() == ["work/b"]
    assert [record.stream for record in events.read_all()] == ["work/b"]
    assert events.load_snapshot("work/a") is None
    assert events.due() == []
    assert events.append("work/a", 0, [Renamed(title="again", by="poll")], actor="poll") == 1


def test_a_stream_that_somebody_needs_is_not_forgotten(events: EventLog) -> None:
    given(events, 3)
    with pytest.raises(TrimRefused, match="work/a"):
        events.forget("work/a", 3)  # dirty
    events.acknowledge("work/a", 3)
    with pytest.raises(TrimRefused, match="work/a"):
        events.forget("work/a", 2)  # has moved on
    with events.lock("work/a", 30), pytest.raises(TrimRefused, match="work/a"):
        events.forget("work/a", 3)

    assert events.version("work/a") == 3
