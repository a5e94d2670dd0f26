"""Worker and beat processes over a real Redis: recovery after a worker, beat or Redis dies."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sandbox.redis import RedisServer
from tests.support.eventually import eventually
from tests.support.fleet import Fleet, restore
from workers.app import CONTROL_PLANE, build, list_key
from workers.dispatch import LISTENER_ADVANCE
from workers.heartbeat import check, heartbeat_file


@pytest.fixture
def start(tmp_path: Path, redis_url: str, prefix: str) -> Iterator[Callable[..., Fleet]]:
    """Return a function that makes installations on the shared Redis; the fixture stops them after the test."""
    fleets: list[Fleet] = []

    def make(name: str = "a", url: str = redis_url, **more: str) -> Fleet:
        fleets.append(Fleet(url, f"{prefix}-{name}", tmp_path / name, more))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.stop()


@pytest.fixture
def own_redis(redis_url: str) -> Iterator[RedisServer]:
    """Return a Redis that the test may restart. `redis_url` skips the test if no Redis is installed."""
    with RedisServer() as server:
        yield server


def test_a_message_is_worked_off_and_acknowledged(start: Callable[..., Fleet]) -> None:
    fleet = start()
    worker = fleet.worker()
    stream = fleet.ask("one", steps=3)

    fleet.dispatcher.dispatch(stream)

    eventually(lambda: fleet.steps(stream) == [1, 2, 3], "three steps")
    eventually(lambda: fleet.events.dirty() == [], "acknowledged in the log")
    eventually(lambda: fleet.unacknowledged() == 0, "acknowledged")
    assert fleet.queued() == 0
    assert check(fleet.settings, "listener") is not None  # the file is in the worker's own temporary folder
    assert (fleet.folder / heartbeat_file(fleet.settings, "listener").name).exists()
    worker.stop()
    assert not (fleet.folder / heartbeat_file(fleet.settings, "listener").name).exists()


def test_a_lost_message_costs_one_sweep(start: Callable[..., Fleet]) -> None:
    fleet = start()
    fleet.worker()
    fleet.beat()

    stream = fleet.ask("one", steps=2)  # and no message

    eventually(lambda: fleet.steps(stream) == [1, 2], "the sweep found it", 15)


def test_another_worker_finishes_the_task_of_a_killed_worker_within_seconds(start: Callable[..., Fleet]) -> None:
    fleet = start()
    fleet.beat()
    worker = fleet.worker(step_seconds=0.5)
    stream = fleet.ask("one", steps=4)
    fleet.dispatcher.dispatch(stream)
    eventually(lambda: f"{stream} 2" in fleet.effects("begun"), "in the middle of step 2")

    worker.kill()
    died = time.monotonic()
    fleet.worker(step_seconds=0.5)

    eventually(lambda: fleet.steps(stream) == [1, 2, 3, 4], "the log has each step once", 30)
    eventually(lambda: fleet.events.dirty() == [], "acknowledged in the log")
    assert time.monotonic() - died < 25  # the lock's 3 s, a sweep, four steps; far from the visibility timeout
    # Outside Redis: only the interrupted step was begun twice.
    begun = fleet.effects("begun")
    assert [begun.count(f"{stream} {step}") for step in (1, 2, 3, 4)] == [1, 2, 1, 1]
    assert fleet.effects("done") == [f"{stream} {step}" for step in (1, 2, 3, 4)]


def test_a_worker_that_is_asked_to_end_finishes_its_act_and_hands_the_rest_over(start: Callable[..., Fleet]) -> None:
    fleet = start()
    worker = fleet.worker(step_seconds=0.5)
    stream = fleet.ask("one", steps=8)
    fleet.dispatcher.dispatch(stream)
    eventually(lambda: f"{stream} 2" in fleet.effects("begun"), "in the middle of step 2")

    started = time.monotonic()
    worker.stop(timeout=20)
    assert time.monotonic() - started < 10

    assert len(fleet.steps(stream)) < 8
    assert fleet.effects("begun") == fleet.effects("done")
    assert not fleet.events.locked(stream)
    assert fleet.events.dirty() == [stream]
    assert (fleet.queued(), fleet.unacknowledged()) == (1, 0)  # so no sweep is needed
    fleet.worker()
    eventually(lambda: fleet.steps(stream) == list(range(1, 9)), "the rest")
    assert len(fleet.effects("done")) == 8


def test_a_worker_that_cannot_finish_its_act_hands_it_back_within_the_grace_period(start: Callable[..., Fleet]) -> None:
    fleet = start()
    worker = fleet.worker(step_seconds=60, grace=4)
    streams = [fleet.ask(name, steps=1) for name in ("one", "other")]
    for stream in streams:
        fleet.dispatcher.dispatch(stream)
    eventually(lambda: len(fleet.effects("begun")) == 2, "in the middle of two acts")
    assert (fleet.queued(), fleet.unacknowledged()) == (0, 2)

    stopped_at = time.monotonic()
    worker.terminate()
    eventually(lambda: not worker.running, "the worker ends", 20)
    assert time.monotonic() - stopped_at >= 2  # half of the grace period is for the act

    assert (fleet.queued(), fleet.unacknowledged()) == (2, 0)
    assert fleet.effects("done") == []
    assert fleet.events.dirty() == sorted(streams)
    fleet.beat()
    fleet.worker()
    eventually(
        lambda: all(fleet.steps(stream) == [1] for stream in streams), "each step is done after the locks have expired"
    )


def test_what_a_dead_worker_had_in_hand_is_handed_out_again_by_its_own_kind(start: Callable[..., Fleet]) -> None:
    fleet = start()
    worker = fleet.worker(step_seconds=60)
    fleet.dispatcher.dispatch(fleet.ask("one", steps=1))
    eventually(lambda: len(fleet.effects("begun")) == 1, "in the middle of an act")
    worker.kill()
    assert (fleet.queued(), fleet.unacknowledged()) == (0, 1)

    restore(fleet.settings, "operator")
    assert (fleet.queued(), fleet.unacknowledged()) == (0, 1)

    restore(fleet.settings, "listener")
    assert (fleet.queued(), fleet.unacknowledged()) == (1, 0)


def test_two_workers_share_the_streams_and_do_each_step_once(start: Callable[..., Fleet]) -> None:
    fleet = start()
    fleet.worker(step_seconds=0.05)
    fleet.worker(step_seconds=0.05)
    streams = [fleet.ask(f"n{number}", steps=3) for number in range(20)]
    for stream in streams * 2:
        fleet.dispatcher.dispatch(stream)

    eventually(lambda: all(fleet.steps(stream) == [1, 2, 3] for stream in streams), "all steps are done")
    assert sorted(fleet.effects()) == sorted(f"{stream} {step}" for stream in streams for step in (1, 2, 3))


@pytest.mark.parametrize("crash", [False, True], ids=["restart", "crash"])
def test_a_redis_restart_is_survived_by_the_same_processes(
    start: Callable[..., Fleet], own_redis: RedisServer, crash: bool
) -> None:
    fleet = start(url=own_redis.url)
    worker, beat = fleet.worker(step_seconds=0.3), fleet.beat()
    pids = (worker.pid, beat.pid)
    before = fleet.ask("before", steps=6)
    fleet.dispatcher.dispatch(before)
    eventually(lambda: f"{before} 2" in fleet.effects("begun"), "in the middle of step 2")
    time.sleep(1.1)  # Redis has written all older data to disk

    if crash:
        own_redis.kill()
        time.sleep(1.5)
        own_redis.start()
    else:
        own_redis.restart()

    eventually(lambda: fleet.events.dirty() == [] and len(fleet.steps(before)) >= 4, "what was begun is done", 40)
    after = fleet.ask("after", steps=2)
    fleet.dispatcher.dispatch(after)
    eventually(lambda: fleet.steps(after) == [1, 2], "messages are consumed again", 20)
    swept = fleet.ask("swept", steps=1)
    eventually(lambda: fleet.steps(swept) == [1], "sweeps come again", 20)
    # A Redis that crashed may have lost the acknowledgement itself; that message comes once more, after the visibility
    # timeout, and finds nothing to do.
    lost = 1 if crash else 0
    eventually(lambda: fleet.unacknowledged() <= lost, "the message that was in flight is acknowledged too")
    assert worker.running
    assert beat.running
    assert (worker.pid, beat.pid) == pids
    # Whatever Redis lost: the last step is done, and versions have no gap.
    assert fleet.steps(before)[-1] == 6
    assert [r.version for r in fleet.events.read(before)] == list(range(1, fleet.events.version(before) + 1))


def test_processes_wait_for_a_redis_that_comes_later(start: Callable[..., Fleet], own_redis: RedisServer) -> None:
    own_redis.stop()
    fleet = start(url=own_redis.url)
    beat = fleet.beat()
    time.sleep(1)
    own_redis.start()
    fleet.worker()
    stream = fleet.ask("one", steps=1)

    eventually(lambda: fleet.steps(stream) == [1], "beat and worker came", 30)
    assert beat.running


def test_two_installations_on_one_redis_do_not_see_each_other(start: Callable[..., Fleet]) -> None:
    one, other = start("a"), start("ab")
    one.worker()
    mine, theirs = one.ask("same", steps=1), other.ask("same", steps=1)
    other.dispatcher.dispatch(theirs)
    one.dispatcher.dispatch(mine)

    eventually(lambda: one.steps(mine) == [1], "the installation with a worker works")
    assert other.queued() == 1
    assert other.steps(theirs) == []
    assert len(build(one.settings).control.ping(timeout=2)) == 1
    assert build(other.settings).control.ping(timeout=1) == []
    other.worker()
    eventually(lambda: other.steps(theirs) == [1], "the other one, with its own worker")


def test_beat_without_workers_does_not_pile_up_messages(start: Callable[..., Fleet]) -> None:
    fleet = start(SWEEP_SECONDS="0.1", POLL_SECONDS="0.1")
    fleet.beat()
    key = list_key(fleet.settings, CONTROL_PLANE)
    eventually(lambda: int(fleet.client.llen(key)) >= 4, "beat asks")
    time.sleep(2)

    assert int(fleet.client.llen(key)) <= 6
    assert [path.name for path in fleet.folder.iterdir() if "schedule" in path.name] == []


def test_messages_hold_the_name_of_a_stream_and_nothing_else(start: Callable[..., Fleet]) -> None:
    fleet = start()
    fleet.dispatcher.dispatch("deployment/one")

    [raw] = fleet.client.lrange(list_key(fleet.settings, "reconcile"), 0, -1)
    message = json.loads(raw)
    arguments, named, _ = json.loads(base64.b64decode(message["body"]))
    assert (arguments, named) == (["deployment/one"], {})
    assert message["headers"]["task"] == LISTENER_ADVANCE
    assert message["headers"]["eta"] is None
    assert "not-a-key" not in str(raw)


def test_a_dashboard_sees_which_task_works_on_which_stream(start: Callable[..., Fleet]) -> None:
    fleet = start()
    fleet.worker()
    app = build(fleet.settings)
    seen: list[dict[str, Any]] = []
    done = threading.Event()

    def capture() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": seen.append})
            while not done.is_set():
                with suppress(TimeoutError):
                    receiver.capture(limit=None, timeout=0.2, wakeup=False)

    watching = threading.Thread(target=capture)
    watching.start()
    eventually(lambda: any(event["type"] == "worker-heartbeat" for event in seen), "the receiver listens")
    fleet.dispatcher.dispatch(fleet.ask("one", steps=1))
    eventually(lambda: any(event["type"] == "task-succeeded" for event in seen), "the task ended")
    done.set()
    watching.join(10)

    [received] = [event for event in seen if event["type"] == "task-received"]
    assert (received["name"], received["args"]) == (LISTENER_ADVANCE, "['deployment/one']")
    assert any(event["type"] == "task-sent" for event in seen)
