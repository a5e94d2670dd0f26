"""The event log under test: in memory and in a real Redis, by one interface."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from engine.log.contract import EventLog
from engine.log.memory import MemoryLog
from engine.log.redis import RedisLog
from tests.support.clock import FakeClock
from tests.support.logs import LogWorld
from tests.support.notes import NOON


def _sleep_too(clock: FakeClock) -> Callable[[float], None]:
    def pass_time(seconds: float) -> None:
        clock.move(seconds)
        time.sleep(seconds)  # locks run out by the clock of Redis

    return pass_time


@pytest.fixture(params=["memory", "redis"])
def world(request: pytest.FixtureRequest) -> Iterator[LogWorld]:
    clock = FakeClock(NOON)
    if request.param == "memory":
        memory = MemoryLog(clock)
        yield LogWorld(memory, clock, clock.move, lambda stream: memory._locks.clear())
        return
    events = RedisLog.from_url(
        request.getfixturevalue("redis_url"), request.getfixturevalue("prefix"), timeout=5, clock=clock
    )
    yield LogWorld(events, clock, _sleep_too(clock), lambda stream: events._call("DEL", events._lock_key(stream)))
    events.close()


@pytest.fixture
def events(world: LogWorld) -> EventLog:
    return world.events
