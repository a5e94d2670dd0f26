"""Lock renewal, for both logs (the log in memory by the real clock)."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from typing import Any

import pytest

from engine.errors import LockHeld, LockLost
from engine.log.contract import EventLog
from engine.log.memory import MemoryLog
from engine.log.redis import RedisLog
from engine.runtime import lock_renewal
from engine.runtime.lock_renewal import LockRenewal, hold_lock
from tests.support.eventually import eventually

TTL = 0.6
LONGER_TTL = 2.0
"""Seconds: long enough for a busy machine to renew in time."""


@pytest.fixture(params=["memory", "redis"])
def events(request: pytest.FixtureRequest) -> Iterator[EventLog]:
    if request.param == "memory":
        yield MemoryLog()
        return
    log = RedisLog.from_url(request.getfixturevalue("redis_url"), request.getfixturevalue("prefix"))
    yield log
    log.close()


def test_a_lock_outlasts_its_ttl_while_it_is_held(events: EventLog) -> None:
    with hold_lock(events, "work/a", LONGER_TTL) as lock:
        time.sleep(3.0)
        lock.keep()
        with pytest.raises(LockHeld), hold_lock(events, "work/a", LONGER_TTL):
            pass

    assert not events.locked("work/a")


def test_a_released_lock_is_not_renewed(events: EventLog) -> None:
    with hold_lock(events, "work/a", TTL):
        pass
    with events.lock("work/a", 30) as next_one:
        time.sleep(TTL)
        next_one.keep()


def test_a_worker_that_is_stuck_loses_its_lock(events: EventLog) -> None:
    renewal = LockRenewal()
    with events.lock("work/a", TTL) as lock:
        renewal.add(lock, TTL, longest=0.1)

        eventually(lambda: not events.locked("work/a"))
        with pytest.raises(LockLost):
            lock.keep()


def test_a_lock_that_went_to_another_is_not_renewed(events: EventLog) -> None:
    renewal = LockRenewal()
    with events.lock("work/a", 0.05) as lost:
        time.sleep(0.2)
        renewal.add(lost, TTL)
        with events.lock("work/a", 30):
            eventually(lambda: not renewal._holds)
            assert events.locked("work/a")


def hold_and_say(url: str, prefix: str, said: multiprocessing.synchronize.Event) -> None:
    with hold_lock(RedisLog.from_url(url, prefix), "work/a", LONGER_TTL):
        said.set()
        time.sleep(60)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_lock_of_a_killed_process_runs_out_after_one_ttl(redis_url: str, prefix: str, method: str) -> None:
    """Also in a forked child, which does not have the parent's thread."""
    with hold_lock(MemoryLog(), "work/other", 30):  # the parent's renewal runs
        assert lock_renewal.RENEWAL._holds
    context: Any = multiprocessing.get_context(method)  # the class that both methods share has no `Process`
    said = context.Event()
    child = context.Process(target=hold_and_say, args=(redis_url, prefix, said))
    child.start()
    assert said.wait(30)
    events = RedisLog.from_url(redis_url, prefix)
    time.sleep(LONGER_TTL * 1.5)
    assert events.locked("work/a")

    child.kill()
    child.join(10)
    eventually(lambda: not events.locked("work/a"), "the lock runs out", LONGER_TTL + 5)
    events.close()
