"""Events that only the log in Redis meets: lost answers, restarts, a lost last second, other installations."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from engine.errors import ConcurrencyConflict, LogUnavailable
from engine.log.export import export_log, import_log
from engine.log.memory import MemoryLog
from engine.log.redis import RedisLog, connect
from engine.runtime.advance import advance
from engine.runtime.backoff import Backoff
from engine.runtime.fold import Fold
from sandbox.redis import RedisServer
from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.logs import LastSecond
from tests.support.notes import NOON, Asked, Step, Stepped, Worker, notes, ports


@pytest.fixture
def shared(redis_url: str, prefix: str) -> Iterator[RedisLog]:
    """A log in the Redis of all tests."""
    events = RedisLog.from_url(redis_url, prefix)
    yield events
    events.close()


@pytest.fixture
def server(redis_url: str) -> Iterator[RedisServer]:
    """A Redis that a test may stop and damage. (`redis_url` skips the test where there is no Redis.)"""
    with RedisServer() as server:
        yield server


@pytest.fixture
def events(server: RedisServer) -> Iterator[RedisLog]:
    events = RedisLog.from_url(server.url, "mine", timeout=2)
    yield events
    events.close()


# --- neighbours and keys


def test_every_key_shares_the_hash_tag(shared: RedisLog, redis_url: str, prefix: str) -> None:
    with shared.lock("work/a", 30) as lock:
        shared.append("work/a", 0, [Asked(steps=5), Stepped(number=1)], actor="poll", lock=lock)
        fold = Fold(Worker(), shared, "work/a")
        fold.catch_up()
        fold.save(every=1)
        shared.trim("work/a", 1)
        shared.acknowledge("work/a", 2, until=shared.read("work/a")[0].at)
        shared.mark_dirty("work/a")
        with redis.Redis.from_url(redis_url) as client:
            keys = {key.decode() for key in client.keys(f"*{prefix}*")}

    assert len(keys) >= 13
    assert {key for key in keys if not key.startswith("{" + prefix + "}:")} == set()


def test_two_installations_on_one_redis_do_not_see_each_other(redis_url: str, prefix: str) -> None:
    mine, theirs = RedisLog.from_url(redis_url, f"{prefix}-1"), RedisLog.from_url(redis_url, f"{prefix}-11")
    mine.append("work/a", 0, notes("mine"), actor="poll")
    theirs.append("work/a", 0, notes("theirs"), actor="poll")

    assert [record.data["text"] for record in mine.read_all()] == ["mine"]
    assert [record.data["text"] for record in theirs.read_all()] == ["theirs"]
    with mine.lock("work/a", 30):
        assert not theirs.locked("work/a")


def test_a_prefix_that_breaks_the_hash_tag_is_refused(redis_url: str) -> None:
    for prefix in ("", "a}b", "{a"):
        with pytest.raises(ValueError, match="hash tag"):
            RedisLog.from_url(redis_url, prefix)


def test_times_are_those_of_redis(shared: RedisLog, redis_url: str) -> None:
    shared.append("work/a", 0, notes("one"), actor="poll")
    with redis.Redis.from_url(redis_url) as client:
        seconds, _ = client.time()

    assert abs(shared.read("work/a")[0].at.timestamp() - seconds) < 5


# --- answers that got lost


def repeat(events: RedisLog, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the script run twice, as if the first answer was lost and the client repeated the script."""
    script = events._scripts[name]

    def twice(**arguments: Any) -> Any:
        script(**arguments)
        return script(**arguments)

    monkeypatch.setitem(events._scripts, name, twice)


def test_an_append_whose_answer_was_lost_is_not_appended_twice(
    shared: RedisLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    repeat(shared, monkeypatch, "APPEND")

    assert shared.append("work/a", 0, notes("one", "two"), actor="poll") == 2
    with shared.lock("work/a", 30) as lock:
        assert shared.append("work/a", 2, notes("three"), actor="poll", lock=lock) == 3

    assert [record.data["text"] for record in shared.read("work/a")] == ["one", "two", "three"]


def test_an_append_of_somebody_else_is_still_a_conflict(shared: RedisLog, monkeypatch: pytest.MonkeyPatch) -> None:
    repeat(shared, monkeypatch, "APPEND")
    shared.append("work/a", 0, notes("one", "two"), actor="poll")

    with pytest.raises(ConcurrencyConflict):
        shared.append("work/a", 0, notes("one", "two"), actor="watcher")


def test_a_lock_whose_answer_was_lost_is_held(shared: RedisLog, monkeypatch: pytest.MonkeyPatch) -> None:
    repeat(shared, monkeypatch, "LOCK")

    with shared.lock("work/a", 30) as lock:
        lock.keep()


# --- outages


def test_a_redis_that_is_away_is_said_so_soon(server: RedisServer) -> None:
    events = RedisLog(connect(server.url, timeout=0.5, attempts=1), "mine")
    server.stop()
    started = time.monotonic()

    calls: tuple[Callable[[], int], ...] = (
        lambda: events.version("work/a"),
        lambda: events.append("work/a", 0, notes("x"), actor="poll"),
    )
    for call in calls:
        with pytest.raises(LogUnavailable, match=r"Cannot reach Redis at .*:\d+ \("):
            call()

    assert time.monotonic() - started < 10


def test_a_url_without_a_host_means_this_machine() -> None:
    events = RedisLog(connect("redis://:1/0", timeout=0.5, attempts=1), "mine")
    with pytest.raises(LogUnavailable, match=r"Cannot reach Redis at localhost:1 \("):
        events.version("work/a")


def test_a_redis_that_hangs_is_said_so(server: RedisServer) -> None:
    events = RedisLog(connect(server.url, timeout=0.3, attempts=1), "mine")
    events.head()
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(LogUnavailable):
            events.head()
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_a_restart_is_ridden_out(server: RedisServer, events: RedisLog) -> None:
    events.append("work/a", 0, notes("before"), actor="poll")
    server.restart()

    assert events.append("work/a", 1, notes("after"), actor="poll") == 2
    assert events.dirty() == ["work/a"]


def test_writers_live_through_restarts_and_lose_nothing(server: RedisServer, events: RedisLog) -> None:
    stop = threading.Event()
    failed: list[BaseException] = []

    def write(stream: str) -> None:
        version = 0
        while not stop.is_set():
            try:
                version = events.append(stream, version, notes(str(version)), actor="test")
            except ConcurrencyConflict as conflict:
                version = conflict.actual
            except LogUnavailable:
                continue
            except BaseException as error:
                failed.append(error)
                return

    threads = [threading.Thread(target=write, args=(f"work/{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        before = events.head()
        eventually(lambda before=before: events.head() > before + 50)  # type: ignore[misc]
        server.restart()
    before = events.head()
    eventually(lambda: events.head() > before + 50)
    stop.set()
    for thread in threads:
        thread.join()

    assert failed == []
    everything = events.read_all(limit=1_000_000)
    assert [record.position for record in everything] == list(range(1, len(everything) + 1))
    for stream in events.streams():
        versions = [record.version for record in events.read(stream)]
        assert versions == list(range(1, len(versions) + 1))


def test_a_tail_lives_through_a_restart(server: RedisServer, events: RedisLog) -> None:
    seen: list[str] = []
    stop = threading.Event()

    def follow() -> None:
        for record in events.tail(after_position=0, block=0.1, until=stop.is_set):
            seen.append(record.data["text"])

    thread = threading.Thread(target=follow)
    thread.start()
    events.append("work/a", 0, notes("before"), actor="poll")
    eventually(lambda: seen == ["before"])
    server.stop()
    time.sleep(0.3)
    server.start()
    events.append("work/a", 1, notes("after"), actor="poll")

    eventually(lambda: seen == ["before", "after"])
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


# --- a lost last second


def test_a_worker_that_remembers_lost_events_appends_what_happened_and_goes_on(
    server: RedisServer, events: RedisLog
) -> None:
    """The worker is in its third step when Redis loses the second step."""
    clock, crash = FakeClock(NOON), LastSecond(server)
    events.append("work/a", 0, [Asked(steps=5)], actor="poll")

    def in_the_middle(step: Step, _: Any) -> None:
        if step.number == 2 and len(machine.steps) == 2:
            crash.remember()
        if step.number == 3 and len(machine.steps) == 3:
            crash.lose_what_came_since()

    machine = Worker(in_the_middle)
    result = advance("work/a", machine, events, ports(clock), lock_ttl=60, backoff=Backoff())

    assert result.outcome == "acknowledged"
    assert events.dirty() == []
    # Step 2 happened, was forgotten, and what the worker did next (step 3) is a fact that the log keeps.
    assert [record.data.get("number") for record in events.read("work/a")] == [None, 1, 3, 4, 5]


def test_a_stream_acknowledged_in_the_lost_second_is_dirty_again(server: RedisServer, events: RedisLog) -> None:
    crash, machine = LastSecond(server), Worker()
    events.append("work/a", 0, [Asked(steps=2)], actor="poll")
    crash.remember()
    advance("work/a", machine, events, ports(FakeClock(NOON)), lock_ttl=60, backoff=Backoff())
    assert events.dirty() == []
    crash.lose_what_came_since()

    assert events.dirty() == ["work/a"]
    assert events.head() == 1
    again = advance("work/a", machine, events, ports(FakeClock(NOON)), lock_ttl=60, backoff=Backoff())

    assert again.outcome == "acknowledged"
    assert [record.version for record in events.read("work/a")] == [1, 2, 3]
    assert [record.position for record in events.read_all()] == [1, 2, 3]


def test_an_event_that_took_the_place_of_the_one_that_was_decided_on_is_looked_at(server: RedisServer) -> None:
    """Version and work token are the same: only the id of the last event tells the two histories apart."""
    crash = LastSecond(server)

    class Unlucky(RedisLog):
        lost = False

        def acknowledge(self, stream: str, version: int, **named: Any) -> bool:
            if not self.lost:
                self.lost = True
                crash.lose_what_came_since()
                assert self.append(stream, 1, [Asked(steps=1)], actor="poll") == version
            return super().acknowledge(stream, version, **named)

    events = Unlucky.from_url(server.url, "mine", timeout=2)
    events.append("work/a", 0, [Asked(steps=1)], actor="poll")
    machine = Worker(lambda step, _: crash.remember() if len(machine.steps) == 1 else None)

    advance("work/a", machine, events, ports(FakeClock(NOON)), lock_ttl=60, backoff=Backoff())

    assert [(record.type, record.data.get("number")) for record in events.read("work/a")] == [
        ("Asked", None),
        ("Asked", None),
        ("Stepped", 1),
        ("Stepped", 2),
    ]
    assert events.dirty() == []
    events.close()


def test_the_history_has_another_name_after_a_crash(server: RedisServer, events: RedisLog) -> None:
    before = events.history()
    events.append("work/a", 0, notes("one"), actor="poll")
    assert events.history() == before

    server.kill()
    server.start()

    assert events.history() not in ("", before)


def test_a_tail_yields_the_events_that_took_the_place_of_lost_ones(server: RedisServer, events: RedisLog) -> None:
    crash = LastSecond(server)
    events.append("work/a", 0, notes("kept"), actor="poll")
    crash.remember()
    events.append("work/a", 1, notes("lost", "lost too"), actor="poll")
    tail = events.tail(after_position=0, block=0.1)
    assert [next(tail).data["text"] for _ in range(3)] == ["kept", "lost", "lost too"]

    crash.lose_what_came_since()
    append = threading.Timer(1.5, lambda: events.append("work/a", 1, notes("new"), actor="poll"))
    append.start()

    assert next(tail).data["text"] == "new"
    append.join()


def test_a_log_that_lost_its_last_second_still_exports(server: RedisServer, events: RedisLog) -> None:
    crash = LastSecond(server)
    for version in range(5):
        events.append("work/a", version, notes(str(version)), actor="poll")
    crash.remember()
    events.append("work/a", 5, notes("lost"), actor="poll")
    crash.lose_what_came_since()

    copy = MemoryLog()
    assert import_log(copy, export_log(events)).added == 5


def test_a_restart_in_the_middle_of_an_act_is_survived(server: RedisServer, events: RedisLog) -> None:
    events.append("work/a", 0, [Asked(steps=3)], actor="poll")

    def restart(step: Step, _: Any) -> None:
        if step.number == 2:
            server.restart()

    machine = Worker(restart)
    result = advance("work/a", machine, events, ports(FakeClock(NOON)), lock_ttl=60, backoff=Backoff())

    assert (result.outcome, machine.steps) == ("acknowledged", [1, 2, 3])
    assert [record.version for record in events.read("work/a")] == [1, 2, 3, 4]
    assert not events.locked("work/a")
