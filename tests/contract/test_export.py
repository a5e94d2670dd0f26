"""Export and import, for both logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import ImportRefused
from engine.event import JsonObject
from engine.log import export
from engine.log.contract import EventLog
from engine.log.export import export_log, export_streams, header, import_log
from engine.log.memory import MemoryLog
from engine.runtime.fold import Fold
from tests.support.logs import LogWorld
from tests.support.notes import Asked, Stepped, Worker, notes


@pytest.fixture
def recorded(world: LogWorld) -> EventLog:
    """A log with two interleaved streams and different times."""
    for version in range(4):
        world.events.append("work/a", version, notes(f"a{version}: ü"), actor="poll", cause="Listing")
        world.clock.move(1.000001)
        world.events.append("work/b", version, notes(f"b{version}"), actor="watcher")
    return world.events


def text(events: EventLog, prefix: str | None = None) -> bytes:
    return b"".join(export_log(events, prefix))


def edited(content: bytes, number: int, change: Callable[[JsonObject], object]) -> list[bytes]:
    """Return the lines of `content` with line `number` (from 1) changed; the line stays canonical."""
    lines = content.splitlines(keepends=True)
    value = json.loads(lines[number - 1])
    change(value)
    lines[number - 1] = (json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n").encode()
    return lines


def test_export_import_export_is_byte_identical(recorded: EventLog) -> None:
    exported = text(recorded)
    copy = MemoryLog()

    result = import_log(copy, exported.splitlines(keepends=True))

    assert (result.added, result.present) == (8, 0)
    assert text(copy) == exported
    assert copy.read("work/a") == recorded.read("work/a")
    assert copy.read_all() == recorded.read_all()


def test_importing_into_this_log(events: EventLog) -> None:
    source = MemoryLog()
    for version in range(450):
        source.append(f"work/{version % 7}", version // 7, notes(str(version)), actor="poll")
    exported = text(source)

    import_log(events, exported.splitlines(keepends=True))

    assert text(events) == exported
    assert sorted(events.dirty()) == events.streams()
    assert events.append("work/0", events.version("work/0"), notes("more"), actor="poll") == 66
    assert events.head() == 451


def test_a_line_is_canonical(recorded: EventLog) -> None:
    first = list(export_log(recorded))[1]
    value = json.loads(first)

    assert value["at"] == "2026-03-01T12:00:00.000000Z"
    assert list(value) == sorted(value)
    assert first.endswith(b"}\n")
    assert b", " not in first


def test_export_of_some_streams(recorded: EventLog) -> None:
    head, *lines = export_log(recorded, "work/b")

    assert head == header()
    assert len(lines) == 4
    assert {json.loads(line)["stream"] for line in lines} == {"work/b"}


def test_importing_again_adds_nothing(recorded: EventLog) -> None:
    exported = text(recorded)

    result = import_log(recorded, exported.splitlines(keepends=True))

    assert (result.added, result.present) == (0, 8)
    assert text(recorded) == exported


def test_an_import_adds_what_is_missing_at_the_end(recorded: EventLog) -> None:
    lines = list(export_log(recorded))
    copy = MemoryLog()
    import_log(copy, lines[:6])

    result = import_log(copy, lines)

    assert (result.added, result.present) == (3, 5)
    assert text(copy) == b"".join(lines)


def test_lines_may_come_in_any_order_and_twice(recorded: EventLog) -> None:
    head, *lines = export_log(recorded)
    copy = MemoryLog()

    import_log(copy, [head, *lines[::-1], *lines[:3]])

    assert list(export_log(copy)) == [head, *lines]


def test_a_file_may_hold_several_exports(recorded: EventLog) -> None:
    copy = MemoryLog()

    import_log(copy, [*export_log(recorded, "work/b"), *export_log(recorded, "work/a")])

    assert text(copy) == text(recorded)


def test_two_exports_of_one_log_are_equal(recorded: EventLog) -> None:
    assert text(recorded) == text(recorded)
    assert list(export_streams(recorded, ["work/b", "work/a"])) == list(export_log(recorded))


# --- formats


def test_a_recorded_file_of_format_0_is_read() -> None:
    old = (Path(__file__).parents[1] / "replay/logs-of-format-0/happy-path.jsonl").read_bytes()
    events = MemoryLog()

    import_log(events, old.splitlines(keepends=True))

    assert text(events) == header() + old


def test_an_old_line_goes_through_every_format_in_between(recorded: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = list(export_log(recorded))
    steps: list[int] = []

    def step(before: int) -> Callable[[JsonObject], JsonObject]:
        def upcast(value: JsonObject) -> JsonObject:
            steps.append(before)
            return value

        return upcast

    monkeypatch.setattr(export, "FORMAT", 3)
    monkeypatch.setattr(export, "UPCASTS", {before: step(before) for before in range(3)})

    import_log(MemoryLog(), lines[:2])
    assert steps == [1, 2]
    import_log(MemoryLog(), lines[1:2])
    assert steps == [1, 2, 0, 1, 2]


def test_every_format_has_a_step_to_the_next() -> None:
    assert sorted(export.UPCASTS) == list(range(export.FORMAT))


@pytest.mark.parametrize(
    ("version", "complaint"),
    [
        ("2", "line 1: field agentplane_export: the file has format 2, .* reads formats up to 1; upgrade agentplane"),
        ("0", "line 1: field agentplane_export: is not a number from 1"),
        ("true", "line 1: field agentplane_export: is not a number from 1"),
        ('"1"', "line 1: field agentplane_export: is not a number from 1"),
    ],
)
def test_a_file_of_another_format_is_refused_by_its_version(recorded: EventLog, version: str, complaint: str) -> None:
    lines = list(export_log(recorded))
    lines[0] = f'{{"agentplane_export":{version}}}\n'.encode()

    with pytest.raises(ImportRefused, match=complaint):
        import_log(MemoryLog(), lines)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda v: v.update(actor="somebody else"), "line 4: field actor: differs from work/a version 2 in the log"),
        (lambda v: v["data"].update(text="other"), "line 4: field data: differs from work/a version 2 in the log"),
        (lambda v: v.update(at="2026-03-01T12:00:01.000002Z"), "line 4: field at: differs"),
    ],
)
def test_content_that_differs_is_refused(
    recorded: EventLog, change: Callable[[JsonObject], object], complaint: str
) -> None:
    exported = text(recorded)

    with pytest.raises(ImportRefused, match=complaint):
        import_log(recorded, edited(exported, 4, change))

    assert text(recorded) == exported


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda v: v.pop("cause"), "line 4: field cause: is missing"),
        (lambda v: v.update(colour="red"), "line 4: field colour: is unknown"),
        (lambda v: v.update(version="2"), "line 4: field version: is not a number"),
        (lambda v: v.update(version=True), "line 4: field version: is not a number"),
        (lambda v: v.update(at="2026-03-01 12:00:01"), "line 4: field at: is not a time"),
        (lambda v: v.update(at="2026-02-30T12:00:01.000000Z"), "line 4: field at: is not a time"),
        (lambda v: v.update(data=[]), "line 4: field data: is not an object"),
        (lambda v: v.update(version=9), "line 4: field version: work/a version 9 cannot follow version 1"),
        (lambda v: v.update(position=2), "field position: 2 belongs to another event as well"),
        (lambda v: v.update(stream="work/b", version=1), "field id: differs from line 3"),
    ],
)
def test_a_damaged_line_is_refused_and_nothing_is_written(
    recorded: EventLog, change: Callable[[JsonObject], object], complaint: str
) -> None:
    copy = MemoryLog()

    with pytest.raises(ImportRefused, match=complaint):
        import_log(copy, edited(text(recorded), 4, change))

    assert copy.streams() == []


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda line: line[:40], "line 3: is not JSON"),
        (lambda line: b"\n", "line 3: is not JSON"),
        (lambda line: b"\xff" + line, "line 3: is not JSON"),
        (lambda line: b"[]\n", "line 3: is not a JSON object"),
        (lambda line: line.replace(b":", b": ", 1), "line 3: is not canonical JSON"),
    ],
)
def test_a_line_that_is_no_line_of_ours_is_refused(
    recorded: EventLog, damage: Callable[[bytes], bytes], complaint: str
) -> None:
    lines = list(export_log(recorded))
    lines[2] = damage(lines[2])

    with pytest.raises(ImportRefused, match=complaint):
        import_log(MemoryLog(), lines)


def test_a_missing_line_is_noticed(recorded: EventLog) -> None:
    lines = list(export_log(recorded))
    del lines[5]

    with pytest.raises(ImportRefused, match="work/a version 4 cannot follow version 2"):
        import_log(MemoryLog(), lines)


def test_events_that_the_log_has_passed_are_refused(recorded: EventLog, events: EventLog) -> None:
    copy = MemoryLog()
    for version in range(9):
        copy.append("work/other", version, notes("other"), actor="poll")

    with pytest.raises(ImportRefused, match="line 2: field position: the log is at 9"):
        import_log(copy, export_log(recorded))


def test_a_trimmed_log_travels_with_its_snapshots(events: EventLog) -> None:
    events.append("work/a", 0, [Asked(steps=9)], actor="poll")
    events.append("work/a", 1, [Stepped(number=number) for number in range(1, 8)], actor="worker")
    fold = Fold(Worker(), events, "work/a")
    fold.catch_up()
    fold.save(every=1)
    events.trim("work/a", 5)
    exported = text(events)
    copy = MemoryLog()

    import_log(copy, exported.splitlines(keepends=True))

    assert text(copy) == exported
    assert copy.trimmed() == {"work/a": 5}
    again = Fold(Worker(), copy, "work/a")
    again.catch_up()
    assert (again.state, again.version) == (fold.state, 8)
    assert import_log(copy, exported.splitlines(keepends=True)).added == 0


def test_a_trimmed_log_is_imported_here(events: EventLog) -> None:
    source = MemoryLog()
    source.append("work/a", 0, [Asked(steps=9)], actor="poll")
    source.append("work/a", 1, [Stepped(number=number) for number in range(1, 8)], actor="worker")
    fold = Fold(Worker(), source, "work/a")
    fold.catch_up()
    fold.save(every=1)
    source.trim("work/a", 5)

    import_log(events, export_log(source))

    assert text(events) == text(source)
    again = Fold(Worker(), events, "work/a")
    again.catch_up()
    assert again.state == fold.state


def test_a_line_with_a_snapshot_is_checked_too(events: EventLog) -> None:
    events.append("work/a", 0, [Asked(steps=9), Stepped(number=1), Stepped(number=2)], actor="poll")
    fold = Fold(Worker(), events, "work/a")
    fold.catch_up()
    fold.save(every=1)
    events.trim("work/a", 1)

    with pytest.raises(ImportRefused, match="line 2: field trimmed: is past the version"):
        import_log(MemoryLog(), edited(text(events), 2, lambda v: v["snapshot"].update(trimmed=7)))
    with pytest.raises(ImportRefused, match="line 2: field state: is missing"):
        import_log(MemoryLog(), edited(text(events), 2, lambda v: v["snapshot"].pop("state")))
