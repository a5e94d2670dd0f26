"""`advance`, over the log in memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from engine.errors import ClusterUnavailable, ControlPlaneThrottled, LogUnavailable, ObjectRefused
from engine.event import Event, Registry
from engine.log.memory import MemoryLog
from engine.runtime.advance import MOST_ACTS, Advanced, Outcome, advance
from engine.runtime.backoff import ActDeferred, ActRefused, Backoff
from engine.runtime.machine import Decision, Done, Wait
from tests.support.clock import FakeClock
from tests.support.notes import NOON, Asked, Noted, Step, Stepped, Work, Worker, notes, ports

BACKOFF = Backoff(base=2.0, cap=60.0, floor=0.1)
STREAM = "work/a"


class Bench:
    """A log with one stream, a clock and a machine."""

    def __init__(self, step: Any = None) -> None:
        self.clock = FakeClock(NOON)
        self.events = MemoryLog(self.clock)
        self.machine = Worker(step)

    def ask(self, steps: int, **more: Any) -> None:
        version = self.events.version(STREAM)
        self.events.append(STREAM, version, [Asked(steps=steps, **more)], actor="poll")

    def advance(self, machine: Worker | None = None) -> Advanced:
        worker = machine or self.machine
        return advance(STREAM, worker, self.events, ports(self.clock), lock_ttl=30, backoff=BACKOFF)

    def types(self) -> list[str]:
        return [record.type for record in self.events.read(STREAM)]


# --- another data plane's namespace


def test_nothing_is_done_in_a_namespace_of_another_data_plane_until_the_stream_is_marked_dirty() -> None:
    bench = Bench()
    bench.ask(1)
    theirs = replace(ports(bench.clock), other_holder={"agents": "b/2"}.get)

    advanced = advance(STREAM, bench.machine, bench.events, theirs, lock_ttl=30, backoff=BACKOFF)

    assert (advanced.outcome, advanced.acts, bench.machine.steps) == ("namespace_held", 0, [])
    assert bench.types() == ["Asked"]
    assert (bench.events.dirty(), bench.events.due()) == ([], [])

    bench.events.mark_dirty(STREAM)
    assert bench.advance().outcome == "acknowledged"
    assert bench.machine.steps == [1]


def test_while_the_holder_of_the_namespace_is_unknown_the_act_is_deferred() -> None:
    bench = Bench()
    bench.ask(1)

    def away(_namespace: str) -> str | None:
        raise ClusterUnavailable("the API server does not answer")

    nobody = replace(ports(bench.clock), other_holder=away)
    advanced = advance(STREAM, bench.machine, bench.events, nobody, lock_ttl=30, backoff=BACKOFF)

    assert (advanced.outcome, bench.machine.steps) == ("waiting", [])
    assert bench.types() == ["Asked", "ActDeferred"]


# --- the usual


def test_acts_until_done_and_acknowledges() -> None:
    bench = Bench()
    bench.ask(3)

    assert bench.advance() == Advanced(stream=STREAM, version=4, acts=3, outcome=Outcome.ACKNOWLEDGED)

    assert bench.machine.steps == [1, 2, 3]
    assert bench.types() == ["Asked", "Stepped", "Stepped", "Stepped"]
    assert bench.events.dirty() == []
    assert bench.events.due() == []
    assert not bench.events.locked(STREAM)


def test_what_happened_names_actor_and_act() -> None:
    bench = Bench()
    bench.ask(1)
    bench.advance()

    record = bench.events.read(STREAM)[-1]
    assert (record.actor, record.cause) == ("worker", "Step")


def test_a_clean_stream_costs_no_act() -> None:
    bench = Bench()
    bench.ask(1)
    bench.advance()

    assert bench.advance() == Advanced(stream=STREAM, version=2, acts=0, outcome=Outcome.ACKNOWLEDGED)


def test_a_stream_without_events_is_acknowledged() -> None:
    bench = Bench()
    bench.events.mark_dirty(STREAM)

    assert bench.advance().outcome == "acknowledged"
    assert bench.events.dirty() == []


def test_waiting_sets_the_timer_and_leaves_the_stream_clean() -> None:
    bench = Bench()
    later = NOON + timedelta(seconds=90)
    bench.ask(1, not_before=later)

    assert bench.advance().outcome == "waiting"

    assert bench.events.due() == [(STREAM, later)]
    assert bench.events.dirty() == []
    assert bench.machine.steps == []


def test_the_timer_brings_the_stream_back() -> None:
    bench = Bench()
    bench.ask(1, not_before=NOON + timedelta(seconds=90))
    bench.advance()
    bench.clock.move(90)

    assert bench.events.take_due(bench.clock.now()) == [STREAM]
    assert bench.advance().outcome == "acknowledged"

    assert bench.machine.steps == [1]
    assert bench.events.due() == []


# --- things that happen meanwhile


def test_an_event_that_comes_during_an_act_is_seen_in_the_same_call() -> None:
    def meanwhile(step: Step, _: Any) -> None:
        if step.number == 1:
            bench.ask(1)

    bench = Bench(meanwhile)
    bench.ask(1)

    assert bench.advance().acts == 2
    assert bench.types() == ["Asked", "Asked", "Stepped", "Stepped"]
    assert bench.events.dirty() == []


def test_an_event_that_comes_while_it_decides_is_seen_in_the_same_call() -> None:
    class Interrupted(Worker):
        def decide(self, state: Work, now: Any) -> Decision:
            decision = super().decide(state, now)
            if isinstance(decision, Done) and bench.events.version(STREAM) == 2:
                bench.ask(1)
            return decision

    bench = Bench()
    bench.ask(1)

    assert bench.advance(Interrupted()).acts == 2
    assert bench.events.dirty() == []


def test_a_work_token_that_comes_during_a_decision_makes_it_decide_again() -> None:
    class Interrupted(Worker):
        looks = 0

        def decide(self, state: Work, now: Any) -> Decision:
            self.looks += 1
            if self.looks == 1:
                bench.events.mark_dirty(STREAM)
            return super().decide(state, now)

    bench, machine = Bench(), Interrupted()
    bench.ask(0)

    assert bench.advance(machine).outcome == "acknowledged"
    assert machine.looks == 2


def test_a_worker_that_finds_the_lock_held_returns() -> None:
    bench = Bench()
    bench.ask(1)

    with bench.events.lock(STREAM, 30):
        assert bench.advance().outcome == "busy"

    assert bench.machine.steps == []
    assert bench.events.dirty() == [STREAM]


def test_the_holder_of_the_lock_does_the_work_of_a_worker_that_found_it_held() -> None:
    """The other worker's event comes after the holder's acknowledgement and before the lock is released."""

    class LateLog(MemoryLog):
        def acknowledge(self, *arguments: Any, **named: Any) -> bool:
            clean = super().acknowledge(*arguments, **named)
            if clean and self.version(STREAM) == 2:
                bench.ask(1)
                assert bench.advance(Worker()).outcome == "busy"
            return clean

    bench = Bench()
    bench.events = LateLog(bench.clock)
    bench.ask(1)

    assert bench.advance().acts == 2
    assert bench.events.dirty() == []


def test_a_worker_suspended_past_its_lock_appends_nothing_and_marks_the_stream_dirty() -> None:
    def sleep(step: Step, _: Any) -> None:
        bench.clock.move(31)

    bench = Bench(sleep)
    bench.ask(1)

    assert bench.advance().outcome == "lost"
    assert bench.types() == ["Asked"]
    assert bench.events.dirty() == [STREAM]


def test_a_lock_is_verified_and_extended_before_each_act() -> None:
    def take_long(step: Step, _: Any) -> None:
        bench.clock.move(20)

    bench = Bench(take_long)
    bench.ask(5)

    assert bench.advance().outcome == "acknowledged"
    assert bench.machine.steps == [1, 2, 3, 4, 5]


def test_an_act_can_verify_the_lock_itself() -> None:
    def two_writes(step: Step, ports: Any) -> None:
        for _ in range(3):
            bench.clock.move(20)
            ports.keep_lock()

    bench = Bench(two_writes)
    bench.ask(1)

    assert bench.advance().outcome == "acknowledged"


def test_a_stale_worker_makes_the_new_holder_decide_again() -> None:
    """The stale worker wrote something old; the holder, in the middle of its work, must not acknowledge past it."""
    looks: list[int] = []

    class Fresh(Worker):
        def decide(self, state: Work, now: Any) -> Decision:
            looks.append(state.done)
            if len(looks) == 1:
                bench.events.mark_dirty(STREAM)  # as the stale worker does
            return Done("nothing to do")

    bench = Bench()
    bench.ask(1)

    bench.advance(Fresh())

    assert len(looks) == 2
    assert bench.events.dirty() == []


# --- failures


def failing(error: Exception, times: int = 10**6) -> Any:
    left = [times]

    def step(_: Step, __: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise error

    return step


def test_a_passing_failure_is_an_event_with_a_time() -> None:
    bench = Bench(failing(ClusterUnavailable("the API server does not answer")))
    bench.ask(1)

    assert bench.advance().outcome == "waiting"

    event = ActDeferred.model_validate(bench.events.read(STREAM)[-1].data)
    assert (event.act, event.attempt, event.reason) == ("Step", 1, "the API server does not answer")
    assert event.retry_at == NOON + timedelta(seconds=2)
    assert bench.events.due() == [(STREAM, event.retry_at)]


def test_the_delay_grows_and_starts_anew_after_success() -> None:
    bench = Bench(failing(ClusterUnavailable("away"), times=3))
    bench.ask(2)
    waits = []
    for _ in range(3):
        bench.advance()
        [(_, at)] = bench.events.due()
        waits.append((at - bench.clock.now()).total_seconds())
        bench.clock.move(waits[-1])

    assert waits == [2, 4, 8]
    assert bench.advance().outcome == "acknowledged"
    bench.machine._step = failing(ClusterUnavailable("away again"))
    bench.ask(1)
    bench.advance()
    assert bench.events.read(STREAM)[-1].data["attempt"] == 1


def test_events_of_others_do_not_shorten_the_delay() -> None:
    bench = Bench(failing(ClusterUnavailable("away")))
    bench.ask(1)
    for _ in range(3):
        bench.advance()
        [(_, at)] = bench.events.due()
        bench.clock.move((at - bench.clock.now()).total_seconds())
        bench.events.append(STREAM, bench.events.version(STREAM), notes("seen"), actor="watcher")

    bench.advance()
    assert bench.events.read(STREAM)[-1].data["attempt"] == 4


def test_the_peer_may_ask_for_a_longer_delay() -> None:
    bench = Bench(failing(ControlPlaneThrottled("429", retry_after=42.0)))
    bench.ask(1)
    bench.advance()

    assert bench.events.due() == [(STREAM, NOON + timedelta(seconds=42))]


def test_a_permanent_failure_waits_for_input() -> None:
    bench = Bench(failing(ObjectRefused("spec.replicas: must be at least 0")))
    bench.ask(1)

    assert bench.advance().outcome == "acknowledged"

    assert ActRefused.model_validate(bench.events.read(STREAM)[-1].data).reason == "spec.replicas: must be at least 0"
    assert bench.events.due() == []


def test_a_defect_in_an_act_is_deferred_without_its_message() -> None:
    bench = Bench(failing(KeyError("hunter2")))
    bench.ask(1)
    with capture_logs() as logged:
        assert bench.advance().outcome == "waiting"

    reason = bench.events.read(STREAM)[-1].data["reason"]
    assert reason.startswith("a defect: KeyError at test_advance.py:")
    assert "hunter2" not in str(logged)
    assert any(entry["event"] == "defect" and "test_advance.py" in entry["trace"] for entry in logged)


def test_an_act_that_leaves_no_event_is_a_defect_that_does_not_spin() -> None:
    class Silent(Worker):
        def perform(self, act: Any, state: Work, ports: Any) -> list[Event]:
            return []

    bench = Bench()
    bench.ask(1)

    assert bench.advance(Silent()).outcome == "waiting"
    assert bench.events.read(STREAM)[-1].data["reason"] == "a defect: the act returned no event"


def test_a_machine_that_never_ends_is_stopped_for_a_while() -> None:
    bench = Bench()
    bench.ask(10**6)

    result = bench.advance()

    assert (result.outcome, result.acts) == ("set_aside", MOST_ACTS)
    assert bench.events.due() == [(STREAM, NOON + timedelta(seconds=60))]
    assert bench.events.dirty() == []


@pytest.mark.parametrize("where", ["evolve", "decide"])
def test_a_defect_of_the_pure_part_stops_its_stream_only(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("hunter" + str(2))

    bench = Bench()
    bench.ask(1)
    bench.events.append("work/b", 0, notes("other"), actor="poll")
    monkeypatch.setattr(bench.machine, where, broken)
    with capture_logs() as logged:
        assert bench.advance().outcome == "set_aside"

    assert bench.events.due() == [(STREAM, NOON + timedelta(seconds=60))]
    assert bench.events.dirty() == ["work/b"]
    assert "hunter2" not in str(logged)


def test_an_event_of_the_future_stops_its_stream_and_loses_nothing() -> None:
    class Future(Event):
        """An event of a newer program."""

    bench = Bench()
    bench.ask(2)
    bench.events.append(STREAM, 1, [Future()], actor="poll")
    with capture_logs() as logged:
        result = bench.advance()

    assert (result.outcome, result.version) == ("set_aside", 0)
    assert bench.machine.steps == []
    assert bench.types() == ["Asked", "Future"]
    [stopped] = [entry["reason"] for entry in logged if entry["event"] == "stream set aside"]
    assert stopped.startswith("work/a version 2: ")
    assert "'Future'" in stopped
    assert bench.events.due() == [(STREAM, NOON + timedelta(seconds=60))]

    class Newer(Worker):
        events = Registry(Asked, Stepped, Noted, Future)

    bench.clock.move(60)
    bench.events.take_due(bench.clock.now())
    newer = Newer()
    assert bench.advance(newer).outcome == "acknowledged"
    assert newer.steps == [1, 2]


def test_a_future_event_that_comes_during_an_act_does_not_lose_what_happened() -> None:
    class Future(Event):
        """An event of a newer program, which runs at the same time."""

    def meanwhile(step: Step, _: Any) -> None:
        bench.events.append(STREAM, bench.events.version(STREAM), [Future()], actor="poll")

    bench = Bench(meanwhile)
    bench.ask(2)

    assert bench.advance().outcome == "set_aside"
    assert bench.types() == ["Asked", "Future", "Stepped"]


def test_a_log_that_is_away_is_raised() -> None:
    class Away(MemoryLog):
        def read(self, stream: str, after: int = 0) -> Any:
            raise LogUnavailable("Redis does not serve the event log")

    bench = Bench()
    bench.events = Away(bench.clock)
    bench.ask(1)

    with pytest.raises(LogUnavailable):
        bench.advance()
    assert bench.events.dirty() == [STREAM]
    assert not bench.events.locked(STREAM)


def test_lines_within_an_act_name_stream_version_and_act() -> None:
    seen: list[dict[str, Any]] = []

    def step(_: Step, __: Any) -> None:
        seen.append(dict(structlog.contextvars.get_contextvars()))

    bench = Bench(step)
    bench.ask(1)
    bench.advance()

    assert seen == [{"stream": STREAM, "version": 1, "act": "Step"}]
    assert structlog.contextvars.get_contextvars() == {}


def test_a_wait_in_the_past_is_taken_by_the_next_sweep() -> None:
    class Late(Worker):
        def decide(self, state: Work, now: Any) -> Decision:
            return Wait(now - timedelta(seconds=1), "late")

    bench = Bench()
    bench.ask(1)

    assert bench.advance(Late()).outcome == "waiting"
    assert bench.events.take_due(bench.clock.now()) == [STREAM]


def test_a_worker_that_is_to_end_stops_between_acts_and_leaves_the_rest() -> None:
    bench = Bench()
    bench.ask(5)

    def stopping() -> bool:
        return len(bench.machine.steps) >= 2

    result = advance(
        STREAM, bench.machine, bench.events, ports(bench.clock), lock_ttl=30, backoff=BACKOFF, stopping=stopping
    )

    assert (result.outcome, result.acts) == ("interrupted", 2)
    assert bench.events.dirty() == [STREAM]
    assert not bench.events.locked(STREAM)
    assert bench.advance().acts == 3
