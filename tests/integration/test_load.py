"""Workers under load: a scaler reads the true backlog, and ending a worker at any moment loses or repeats no work.

The event log counts the backlog: a stream is dirty from `mark_dirty` until a worker acknowledges the stream, whatever
happens to its Celery message.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from engine.settings import Settings
from sandbox.kubernetes.server import write_kubeconfig
from tests.support.eventually import eventually
from tests.support.fleet import Fleet, restore
from workers.__main__ import GRACE, HAND_BACK_SECONDS
from workers.app import OPERATOR, RECONCILE, build, in_flight_key, list_key

pytestmark = pytest.mark.timeout(600)

TRIGGER = """
local sizes = {list = 'LLEN', hash = 'HLEN', set = 'SCARD', zset = 'ZCARD', none = 'LLEN'}
return redis.call(sizes[redis.call('TYPE', KEYS[1]).ok], KEYS[1])
"""
"""How KEDA's redis trigger reads a key: the type says which command counts."""

TASKS = 10_000
THREADS = 4
IN_TIME = GRACE - HAND_BACK_SECONDS
"""Seconds after which a worker does not wait for its tasks any more."""
AT_ONCE = 10
"""Streams that are asked for between two looks."""


@dataclass(frozen=True)
class Numbers:
    """The values that both triggers of a worker read, and the backlog, at one moment."""

    waiting: int
    in_flight: int
    backlog: int

    @property
    def missing(self) -> int:
        """Return how many streams the triggers miss; a negative number means that they count finished streams."""
        return self.backlog - self.waiting - self.in_flight


def read(client: redis.Redis, settings: Settings, queue: str, worker: str) -> Numbers:
    """Read all three numbers in one transaction."""
    with client.pipeline(transaction=True) as pipeline:
        pipeline.eval(TRIGGER, 1, list_key(settings, queue))
        pipeline.eval(TRIGGER, 1, in_flight_key(settings, worker))
        pipeline.zcard(f"{{{settings.prefix}}}:dirty")
        return Numbers(*map(int, pipeline.execute()))


def test_the_triggers_are_the_backlog_through_the_life_of_a_worker(start: Callable[..., Fleet]) -> None:
    """The operator worker as the chart starts it; its streams are empty, so it acknowledges each without an act."""
    fleet = start()
    samples: list[Numbers] = []

    def read_now() -> Numbers:
        samples.append(read(fleet.client, fleet.settings, OPERATOR, "operator"))
        return samples[-1]

    def ask(first: int, last: int) -> None:
        for number in range(first, last):
            fleet.events.mark_dirty(f"lgp/default/agent-{number}")
            fleet.dispatcher.dispatch(f"lgp/default/agent-{number}")

    ask(0, 2000)
    assert read_now() == Numbers(waiting=2000, in_flight=0, backlog=2000)
    worker = fleet.operator(THREADS)
    for first in range(2000, TASKS, AT_ONCE):
        ask(first, first + AT_ONCE)
        read_now()
    eventually(lambda: read_now() == Numbers(0, 0, 0), "all streams and messages are acknowledged", 480)

    assert len(samples) > (TASKS - 2000) / AT_ONCE
    # A missing stream is between the list and the worker. A surplus stream is acknowledged in the log already; the
    # acknowledgement of its message has not reached Redis yet.
    assert {numbers for numbers in samples if not -THREADS <= numbers.missing <= 1} == set()
    assert max(numbers.in_flight for numbers in samples) == THREADS
    [stats] = (build(fleet.settings).control.inspect(timeout=10, limit=1).stats() or {}).values()
    assert stats["total"] == {"operator.advance": TASKS}
    assert stats["prefetch_count"] == THREADS
    worker.terminate()
    eventually(lambda: not worker.running, "the worker ends by itself", IN_TIME)


def test_workers_that_get_sigterm_at_any_moment_lose_and_repeat_nothing(start: Callable[..., Fleet]) -> None:
    """Two workers run at a time; each ends as when KEDA scales down. No sweep runs, so no sweep can repair a loss."""
    fleet = start(LOCK_SECONDS="15")
    chance, load = random.Random(1), Load(fleet, steps=3)
    with load.watched() as samples:
        working = [fleet.worker(THREADS, step_seconds=0.05) for _ in range(2)]
        for _ in range(8):
            load.keep(100)
            time.sleep(chance.uniform(0, 1))
            leaving = working.pop(chance.randrange(2))
            leaving.terminate()
            working.append(fleet.worker(THREADS, step_seconds=0.05, wait=False))
            eventually(lambda: not leaving.running, "the worker ends by itself", IN_TIME)  # noqa: B023
        load.keep(100)
        for worker in working:
            worker.terminate()
        eventually(lambda: not any(worker.running for worker in working), "both workers end by themselves", IN_TIME)

        # No worker runs: the list holds every unfinished stream exactly once.
        numbers = load.numbers()
        assert (numbers.in_flight, numbers.missing) == (0, 0)
        assert numbers.waiting > 0

        fleet.worker(THREADS)
        eventually(lambda: load.numbers() == Numbers(0, 0, 0), "the rest is done", 120)

    steps = Counter(f"{stream} {step}" for stream in load.streams for step in (1, 2, 3))
    assert Counter(fleet.effects("begun")) == steps
    assert Counter(fleet.effects("done")) == steps
    assert all(fleet.steps(stream) == [1, 2, 3] for stream in load.streams)
    # At every reading, at most one message is with each of the three workers, and one with the test.
    assert {numbers for numbers in samples if not -3 * THREADS <= numbers.missing <= 4} == set()


def test_workers_that_are_killed_at_any_moment_lose_nothing_and_repeat_no_event(start: Callable[..., Fleet]) -> None:
    """Workers end as when a node is lost. Only the interrupted step of each worker is repeated."""
    fleet, kills = start(), 5
    chance, load = random.Random(2), Load(fleet, steps=2)
    fleet.beat()
    working = [fleet.worker(THREADS, step_seconds=0.05) for _ in range(2)]
    for _ in range(kills):
        load.keep(60)
        time.sleep(chance.uniform(0, 1))
        working.pop(chance.randrange(2)).kill()
        working.append(fleet.worker(THREADS, step_seconds=0.05, wait=False))
    eventually(lambda: load.numbers().backlog == 0, "no stream is left", 150)

    assert all(fleet.steps(stream) == [1, 2] for stream in load.streams)
    begun, done = Counter(fleet.effects("begun")), Counter(fleet.effects("done"))
    assert set(done) == {f"{stream} {step}" for stream in load.streams for step in (1, 2)}
    assert sum(times - 1 for times in begun.values()) <= kills * THREADS
    assert max(begun.values()) <= 1 + kills

    # Messages of the killed workers count until the visibility timeout; then another worker takes them and finds
    # nothing to do.
    eventually(lambda: load.numbers().waiting == 0, "what was asked for twice is looked at")
    assert load.numbers().in_flight <= kills * THREADS
    restore(fleet.settings, "listener")
    eventually(lambda: load.numbers() == Numbers(0, 0, 0), "what they had in hand is taken")
    assert Counter(fleet.effects("begun")) == begun


@pytest.fixture
def start(redis_url: str, prefix: str, tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    """Make an installation whose listener worker records every step, and whose operator has no cluster."""
    fleets: list[Fleet] = []
    kubeconfig = tmp_path / "kubeconfig"
    write_kubeconfig(kubeconfig, "http://127.0.0.1:9", "nobody")

    def make(**more: str) -> Fleet:
        fleets.append(Fleet(redis_url, prefix, tmp_path / "fleet", {"KUBECONFIG": str(kubeconfig), **more}))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.stop()


class Load:
    """Streams with work in them; each is marked dirty once."""

    def __init__(self, fleet: Fleet, steps: int) -> None:
        self.streams: list[str] = []
        self._fleet = fleet
        self._steps = steps
        self._own = redis.Redis.from_url(fleet.redis_url)

    def numbers(self) -> Numbers:
        return read(self._own, self._fleet.settings, RECONCILE, "listener")

    def keep(self, backlog: int) -> None:
        """Add streams until the backlog is `backlog`."""
        for _ in range(backlog - self.numbers().backlog):
            self.streams.append(self._fleet.ask(f"n{len(self.streams)}", self._steps))
            self._fleet.dispatcher.dispatch(self.streams[-1])

    @contextmanager
    def watched(self) -> Iterator[list[Numbers]]:
        """Read the numbers repeatedly in a thread until the block ends; yield the list of readings."""
        samples: list[Numbers] = []
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.01):
                samples.append(self.numbers())

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield samples
        finally:
            ended.set()
            thread.join()
