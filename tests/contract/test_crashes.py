"""`advance` by workers that are killed, are suspended and run at the same time, over both logs.

The outside world is a list of effects. At the end of each test every step was done, the log has every step once and in
order, and no stream is dirty.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from engine.errors import ConcurrencyConflict
from engine.log.contract import EventLog, Lock
from engine.log.memory import MemoryLog
from engine.runtime.advance import Advanced, advance
from engine.runtime.backoff import Backoff
from tests.support.clock import FakeClock
from tests.support.logs import LogWorld
from tests.support.notes import NOON, Asked, Step, Worker, ports

STREAM = "work/a"
STEPS = 3
TERM = 60.0


class Killed(BaseException):
    """The process of the worker was killed."""


class DyingLog:
    """The log as a worker uses it that is killed at one point: before or after any operation, or within an act.

    The dead do not let go of their locks.
    """

    def __init__(self, events: EventLog, last_point: int | None) -> None:
        self._events = events
        self._last_point = last_point
        self.points: list[str] = []
        self.left_behind: list[Any] = []

    def point(self, name: str) -> None:
        self.points.append(name)
        if len(self.points) == self._last_point:
            raise Killed(name)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = getattr(self._events, name)

        def guarded(*arguments: Any, **named: Any) -> Any:
            self.point(f"before {name}")
            result = operation(*arguments, **named)
            self.point(f"after {name}")
            return result

        return guarded

    @contextmanager
    def lock(self, stream: str, ttl: float) -> Iterator[Lock]:
        self.point("before lock")
        holding = self._events.lock(stream, ttl)
        self.left_behind.append(holding)
        lock = holding.__enter__()
        self.point("after lock")
        yield lock
        self.point("before release")
        holding.__exit__(None, None, None)
        self.point("after release")


def work(
    world: LogWorld, events: Any, effects: list[int], point: Callable[[str], None] = lambda name: None
) -> Advanced:
    """Advance the stream as one worker."""

    def do(step: Step, _: Any) -> None:
        point("before the effect")
        effects.append(step.number)
        point("after the effect")

    return advance(STREAM, Worker(do), events, ports(world.clock), lock_ttl=TERM, backoff=Backoff())


def sweep_and_work(world: LogWorld, effects: list[int]) -> None:
    """Sweep as beat does after a crash, once the lock of the dead worker has expired."""
    world.run_out(STREAM)
    for stream in world.events.take_dirty(0):
        assert stream == STREAM
        assert work(world, world.events, effects).outcome == "acknowledged"


def converged(world: LogWorld, effects: list[int]) -> None:
    steps = [record.data["number"] for record in world.events.read(STREAM) if record.type == "Stepped"]
    assert steps == list(range(1, STEPS + 1))
    assert sorted(set(effects)) == steps
    assert world.events.dirty() == []
    assert world.events.due() == []


def points_of_a_whole_run() -> list[str]:

    clock = FakeClock(NOON)
    world = LogWorld(MemoryLog(clock), clock, clock.move, lambda stream: None)
    world.events.append(STREAM, 0, [Asked(steps=STEPS)], actor="poll")
    alive = DyingLog(world.events, None)
    work(world, alive, [], alive.point)
    return alive.points


POINTS = points_of_a_whole_run()


@pytest.mark.parametrize("number", range(1, len(POINTS) + 1), ids=lambda n: f"{n}-{POINTS[n - 1].replace(' ', '-')}")
def test_a_worker_killed_anywhere_is_made_good_by_the_next(world: LogWorld, number: int) -> None:
    world.events.append(STREAM, 0, [Asked(steps=STEPS)], actor="poll")
    effects: list[int] = []
    dying = DyingLog(world.events, number)

    with pytest.raises(Killed):
        work(world, dying, effects, dying.point)
    sweep_and_work(world, effects)

    converged(world, effects)
    # At most the one act whose event the crash took was done again.
    assert len(effects) <= STEPS + 1


def test_a_worker_killed_again_and_again_gets_there(world: LogWorld) -> None:
    world.events.append(STREAM, 0, [Asked(steps=STEPS)], actor="poll")
    effects: list[int] = []
    crashes = 0
    for _ in range(100):
        # Each worker lives a little longer than it takes to do one step.
        dying = DyingLog(world.events, 18)
        try:
            work(world, dying, effects, dying.point)
            break
        except Killed:
            crashes += 1
            world.run_out(STREAM)

    assert crashes >= 2
    converged(world, effects)


def test_until_the_lock_of_the_dead_runs_out_nobody_works_and_nothing_is_forgotten(world: LogWorld) -> None:
    world.events.append(STREAM, 0, [Asked(steps=STEPS)], actor="poll")
    effects: list[int] = []
    dying = DyingLog(world.events, POINTS.index("after the effect") + 1)
    with pytest.raises(Killed):
        work(world, dying, effects, dying.point)

    assert work(world, world.events, effects).outcome == "busy"
    assert world.events.dirty() == [STREAM]
    sweep_and_work(world, effects)

    converged(world, effects)


def test_two_workers_at_once_do_each_step_once(world: LogWorld) -> None:
    steps: list[int] = []
    machine = Worker(lambda step, _: steps.append(step.number))
    outcomes: list[str] = []

    def run() -> None:
        for _ in range(20):
            version = world.events.version(STREAM)
            if version < 60:
                with suppress(ConcurrencyConflict):
                    world.events.append(STREAM, version, [Asked(steps=1)], actor="poll")
            done = advance(STREAM, machine, world.events, ports(world.clock), lock_ttl=TERM, backoff=Backoff())
            outcomes.append(done.outcome)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    asked = sum(1 for record in world.events.read(STREAM) if record.type == "Asked")
    assert steps == list(range(1, asked + 1))
    assert asked > 1
    assert world.events.dirty() == []
    assert set(outcomes) <= {"acknowledged", "busy"}


def test_a_worker_that_sleeps_through_its_lock_cannot_append_and_the_stream_is_looked_at_again(world: LogWorld) -> None:
    world.events.append(STREAM, 0, [Asked(steps=STEPS)], actor="poll")
    effects: list[int] = []

    def sleep_through(name: str) -> None:
        if name == "after the effect" and effects == [1]:
            world.run_out(STREAM)
            assert work(world, world.events, effects).outcome == "acknowledged"
            assert world.events.dirty() == []

    assert work(world, world.events, effects, sleep_through).outcome == "lost"

    assert effects == [1, 1, 2, 3]
    assert world.events.dirty() == [STREAM]
    sweep_and_work(world, effects)
    converged(world, effects)


def test_a_worker_whose_lock_just_ran_out_stops_before_its_next_act(world: LogWorld) -> None:
    world.events.append(STREAM, 0, [Asked(steps=STEPS)], actor="poll")
    effects: list[int] = []

    def sleep(name: str) -> None:
        if name == "before the effect" and effects == [1]:
            world.run_out(STREAM)

    assert work(world, world.events, effects, sleep).outcome == "lost"
    assert effects == [1, 2]
    assert world.events.version(STREAM) == 2
    sweep_and_work(world, effects)
    converged(world, effects)
