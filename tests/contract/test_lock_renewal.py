"""Locks that last as long as their process, for both logs (the one in memory by the real clock)."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator

import pytest

from engine.errors import LockHeld, LockLost
from engine.log.contract import EventLog
from engine.log.memory import MemoryLog
from engine.log.redis import RedisLog
from engine.runtime import lock_renewal
from engine.runtime.lock_renewal import LockRenewal, hold_lock

TERM = 0.6
LONGER_TERM = 2.0
"""Seconds: long enough for a loaded machine to renew in time."""


@pytest.fixture(params=["memory", "redis"])
def events(request: pytest.FixtureRequest) -> Iterator[EventLog]:
    if request.param == "memory":
        yield MemoryLog()
        return
    log = RedisLog.from_url(request.getfixturevalue("redis_url"), request.getfixturevalue("prefix"))
    yield log
    log.close()


def eventually(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_a_lock_outlasts_its_term_while_it_is_held(events: EventLog) -> None:
    with hold_lock(events, "work/a", LONGER_TERM) as lock:
        time.sleep(3.0)
        lock.keep()
        with pytest.raises(LockHeld), hold_lock(events, "work/a", LONGER_TERM):
            pass

    assert not events.locked("work/a")


def test_a_lock_that_was_let_go_is_not_taken_back(events: EventLog) -> None:
    with hold_lock(events, "work/a", TERM):
        pass
    with events.lock("work/a", 30) as next_one:
        time.sleep(TERM)
        next_one.keep()


def test_a_worker_that_is_stuck_loses_its_lock_in_the_end(events: EventLog) -> None:
    keeper = LockRenewal()
    with events.lock("work/a", TERM) as lock:
        keeper.add(lock, TERM, longest=0.1)

        eventually(lambda: not events.locked("work/a"))
        with pytest.raises(LockLost):
            lock.keep()


def test_a_lock_that_went_to_another_is_not_renewed(events: EventLog) -> None:
    keeper = LockRenewal()
    with events.lock("work/a", 0.05) as lost:
        time.sleep(0.2)
        keeper.add(lost, TERM)
        with events.lock("work/a", 30):
            eventually(lambda: not keeper._holds)
            assert events.locked("work/a")


def hold_and_say(url: str, prefix: str, said: multiprocessing.synchronize.Event) -> None:
    with hold_lock(RedisLog.from_url(url, prefix), "work/a", LONGER_TERM):
        said.set()
        time.sleep(60)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_lock_of_a_killed_process_runs_out_after_one_term(redis_url: str, prefix: str, method: str) -> None:
    """In a forked child too, where the thread of the parent does not exist."""
    with hold_lock(MemoryLog(), "work/other", 30):  # the parent's keeper runs
        assert lock_renewal.RENEWAL._holds
    context = multiprocessing.get_context(method)
    said = context.Event()
    child = context.Process(target=hold_and_say, args=(redis_url, prefix, said))
    child.start()
    assert said.wait(30)
    events = RedisLog.from_url(redis_url, prefix)
    time.sleep(LONGER_TERM * 1.5)
    assert events.locked("work/a")

    child.kill()
    child.join(10)
    eventually(lambda: not events.locked("work/a"), LONGER_TERM + 5)
    events.close()
