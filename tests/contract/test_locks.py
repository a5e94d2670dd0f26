"""Locks, for both logs."""

from __future__ import annotations

import pytest

from engine.errors import LockHeld, LockLost
from engine.log.contract import EventLog
from tests.support.logs import LogWorld
from tests.support.notes import notes

TTL = 0.3
"""Seconds: short, because tests of Redis wait for the expiry; long enough that a busy machine still holds the lock."""


def test_one_worker_at_a_time(events: EventLog) -> None:
    with events.lock("work/a", 30):
        assert events.locked("work/a")
        with pytest.raises(LockHeld, match="work/a"), events.lock("work/a", 30):
            pass
        with events.lock("work/b", 30):
            pass

    assert not events.locked("work/a")
    with events.lock("work/a", 30):
        pass


def test_a_lock_is_released_when_its_block_fails(events: EventLog) -> None:
    with pytest.raises(ZeroDivisionError), events.lock("work/a", 30):
        raise ZeroDivisionError

    assert not events.locked("work/a")


def test_fences_grow_over_all_streams(events: EventLog) -> None:
    fences = []
    for stream in ("work/a", "work/b", "work/a"):
        with events.lock(stream, 30) as lock:
            fences.append(lock.fence)
            assert lock.stream == stream

    assert fences == sorted(set(fences))


def test_a_lock_runs_out(world: LogWorld) -> None:
    with world.events.lock("work/a", TTL) as lock:
        world.pass_time(TTL * 1.5)
        assert not world.events.locked("work/a")
        with pytest.raises(LockLost, match="work/a"):
            lock.keep()


def test_keeping_a_lock_extends_it_by_its_ttl(world: LogWorld) -> None:
    with world.events.lock("work/a", 2.0) as lock:
        for _ in range(3):
            world.pass_time(0.8)
            lock.keep()

        assert world.events.locked("work/a")


def test_appending_under_a_lock(events: EventLog) -> None:
    with events.lock("work/a", 30) as lock:
        assert events.append("work/a", 0, notes("one"), actor="poll", lock=lock) == 1


def test_a_worker_that_slept_through_its_lock_adds_nothing(world: LogWorld) -> None:
    with world.events.lock("work/a", TTL) as stale:
        world.pass_time(TTL * 1.5)
        with world.events.lock("work/a", 30) as fresh:
            with pytest.raises(LockLost):
                world.events.append("work/a", 0, notes("stale"), actor="poll", lock=stale)
            with pytest.raises(LockLost):
                stale.keep()
            with pytest.raises(LockLost):
                world.events.acknowledge("work/a", 0, lock=stale)
            fresh.keep()
            world.events.append("work/a", 0, notes("fresh"), actor="poll", lock=fresh)

    assert [record.data["text"] for record in world.events.read_all()] == ["fresh"]


def test_a_lock_that_ran_out_is_not_taken_back_by_appending(world: LogWorld) -> None:
    with world.events.lock("work/a", TTL) as lock:
        world.pass_time(TTL * 1.5)
        with pytest.raises(LockLost):
            world.events.append("work/a", 0, notes("late"), actor="poll", lock=lock)

    assert world.events.version("work/a") == 0


def test_letting_go_does_not_release_the_lock_of_the_next_holder(world: LogWorld) -> None:
    stale = world.events.lock("work/a", TTL)
    stale.__enter__()
    world.pass_time(TTL * 1.5)
    with world.events.lock("work/a", 30):
        stale.__exit__(None, None, None)
        assert world.events.locked("work/a")
