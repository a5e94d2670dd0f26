"""Retention: archive, then trim, for both logs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from engine.event import Event, Registry
from engine.log.contract import EventLog
from engine.log.export import export_log, import_log
from engine.log.memory import MemoryLog
from engine.log.retention import Policy, retain
from engine.runtime.fold import Fold
from tests.support.logs import LogWorld
from tests.support.notes import NOON, Asked, Noted, Stepped, Work, Worker, notes

DAY = timedelta(days=1)
POLICY = Policy(live=7 * DAY, gone=30 * DAY)


class DeploymentDeleted(Event):
    """The end of a stream."""


class DeploymentRegistered(Event):
    """The beginning of a stream."""


class Departing(Worker):
    """A worker whose streams may end."""

    events = Registry(Noted, Asked, Stepped, DeploymentDeleted, DeploymentRegistered)


MACHINES = {"work/": Departing()}


def old_and_new(world: LogWorld, stream: str = "work/a") -> None:
    """Append six events ten days ago, and three today."""
    world.events.append(stream, 0, [Asked(steps=20)], actor="poll")
    world.events.append(stream, 1, [Stepped(number=number) for number in range(1, 6)], actor="worker")
    world.clock.move(10 * 86_400)
    world.events.append(stream, 6, [Stepped(number=number) for number in range(6, 9)], actor="worker")


def folded(events: EventLog, stream: str = "work/a") -> Work:
    fold = Fold(Departing(), events, stream)
    fold.catch_up()
    return fold.state


@pytest.fixture
def full(world: LogWorld) -> bytes:
    old_and_new(world)
    return b"".join(export_log(world.events))


def test_a_live_stream_loses_its_old_events_and_still_folds(world: LogWorld, full: bytes, tmp_path: Path) -> None:
    retained = retain(world.events, MACHINES, POLICY, tmp_path, world.clock.now())

    assert retained.trimmed == {"work/a": 6}
    assert [record.version for record in world.events.read("work/a")] == [7, 8, 9]
    assert folded(world.events) == Work(wanted=20, done=8)


def test_what_goes_is_in_the_archive(world: LogWorld, full: bytes, tmp_path: Path) -> None:
    retained = retain(world.events, MACHINES, POLICY, tmp_path, world.clock.now())

    assert retained.archive is not None
    assert retained.archive.read_bytes() == b"".join(full.splitlines(keepends=True)[:7])
    assert list(tmp_path.iterdir()) == [retained.archive]
    assert retained.archive.stat().st_mode & 0o077 == 0


def test_archives_and_an_export_make_the_full_log_again(world: LogWorld, full: bytes, tmp_path: Path) -> None:
    retain(world.events, MACHINES, POLICY, tmp_path, world.clock.now())
    world.clock.move(10 * 86_400)
    world.events.append("work/a", 9, [Stepped(number=9)], actor="worker")
    retain(world.events, MACHINES, POLICY, tmp_path, world.clock.now())
    files = sorted(tmp_path.iterdir())
    lines = [line for file in files for line in file.read_bytes().splitlines(keepends=True)]
    copy = MemoryLog()

    import_log(copy, [*export_log(world.events), *lines])

    assert len(files) == 2
    assert b"".join(export_log(copy)).startswith(full)
    assert [record.version for record in copy.read("work/a")] == list(range(1, 11))


def test_a_second_run_finds_nothing_to_do(world: LogWorld, full: bytes, tmp_path: Path) -> None:
    retain(world.events, MACHINES, POLICY, tmp_path, world.clock.now())

    again = retain(world.events, MACHINES, POLICY, tmp_path, world.clock.now())

    assert (again.archive, again.trimmed, again.forgotten) == (None, {}, {})


def test_nothing_is_trimmed_when_the_archive_cannot_be_written(world: LogWorld, full: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(OSError, match="file"):
        retain(world.events, MACHINES, POLICY, tmp_path / "file" / "archive", world.clock.now())

    assert b"".join(export_log(world.events)) == full


def test_a_stream_that_cannot_be_folded_is_not_trimmed(world: LogWorld, tmp_path: Path) -> None:
    class Strange(Event):
        """An event of a newer program."""

    world.events.append("work/a", 0, [*notes("one"), Strange()], actor="poll")
    world.clock.move(30 * 86_400)
    world.events.append("work/a", 2, notes("two"), actor="poll")

    retained = retain(world.events, MACHINES, POLICY, tmp_path, world.clock.now())

    assert retained.trimmed == {}
    assert len(world.events.read("work/a")) == 3


def ended(world: LogWorld, *more: Event) -> None:
    world.events.append(
        "work/a", 0, [DeploymentRegistered(), *notes("hello"), DeploymentDeleted(), *more], actor="poll"
    )
    world.clock.move(31 * 86_400)


def test_a_stream_that_is_gone_goes_as_a_whole(world: LogWorld, tmp_path: Path) -> None:
    ended(world)
    world.events.acknowledge("work/a", 3)

    retained = retain(world.events, MACHINES, POLICY, tmp_path, world.clock.now())

    assert retained.forgotten == {"work/a": 3}
    assert retained.archive is not None
    assert len(retained.archive.read_bytes().splitlines()) == 1 + 3
    assert world.events.streams() == []


def test_a_stream_that_is_gone_stays_for_its_time(world: LogWorld, tmp_path: Path) -> None:
    ended(world)
    world.events.acknowledge("work/a", 3)

    assert retain(world.events, MACHINES, POLICY, tmp_path, NOON + 30 * DAY).forgotten == {}


def test_a_stream_that_came_back_is_live(world: LogWorld, tmp_path: Path) -> None:
    ended(world, DeploymentRegistered())
    world.events.acknowledge("work/a", 4)

    retained = retain(world.events, MACHINES, POLICY, tmp_path, world.clock.now())

    assert retained.forgotten == {}
    assert retained.trimmed == {"work/a": 3}


def test_a_stream_that_somebody_must_look_at_stays(world: LogWorld, tmp_path: Path) -> None:
    ended(world)
    assert retain(world.events, MACHINES, POLICY, tmp_path, world.clock.now()).forgotten == {}

    world.events.acknowledge("work/a", 3, until=NOON + 99 * DAY)
    assert retain(world.events, MACHINES, POLICY, tmp_path, world.clock.now()).forgotten == {}
    assert len(world.events.read("work/a")) == 3
