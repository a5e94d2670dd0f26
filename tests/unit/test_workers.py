"""Celery's configuration, routes, schedule and sweeps, without a broker."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from beat.schedule import LONG_AGO, LONGEST_SLEEP, schedule, scheduler
from engine.bootstrap import Engine, machines
from engine.errors import LogUnavailable
from engine.event import Event
from engine.log.memory import MemoryLog
from engine.runtime.lock_renewal import LONGEST_HOLD
from engine.settings import Settings
from tests.support.clock import FakeClock
from tests.support.fleet import environment, variables
from tests.support.notes import NOON, Asked, Worker, no_leases, notes, ports
from workers import tasks
from workers.__main__ import main, work
from workers.app import (
    VISIBILITY_TIMEOUT_SECONDS,
    build,
    configuration,
    in_flight_key,
    list_key,
    queue_name,
    served_queues,
)
from workers.dispatch import CeleryDispatcher, Route, route_of
from workers.heartbeat import STALE_SECONDS, problem


def settings(**more: str) -> Settings:
    with variables(environment("redis://127.0.0.1:1/0", "blue", **more)):
        return Settings.load()


def operator_alone() -> Settings:
    return settings(LISTENER_ENABLED="false", DIGEST_KEY="not-a-key")


@dataclass
class Sent:
    """A dispatcher that records the streams."""

    streams: list[str] = field(default_factory=list)
    lengths: dict[str, int] = field(default_factory=dict)

    def dispatch(self, stream: str) -> None:
        self.streams.append(stream)

    def waiting(self) -> dict[str, int]:
        return self.lengths


@pytest.fixture
def engine() -> Engine:
    clock = FakeClock(NOON)
    return Engine(
        settings=settings(SWEEP_SECONDS="2"),
        events=MemoryLog(clock),
        ports=ports(clock),
        dispatcher=Sent(),
        leases=no_leases(),
        machines={"deployment/": Worker()},
    )


def clock_of(engine: Engine) -> FakeClock:
    assert isinstance(engine.ports.clock, FakeClock)
    return engine.ports.clock


# --- where messages go


@pytest.mark.parametrize(
    ("stream", "route"),
    [
        ("deployment/1", Route("listener.advance", "reconcile")),
        ("lgp/ns/a", Route("operator.advance", "operator")),
        ("dataplane/2", Route("listener.advance", "reconcile")),
    ],
)
def test_streams_go_to_the_component_that_owns_them(stream: str, route: Route) -> None:
    assert route_of(stream, settings()) == route


def test_an_operator_alone_looks_after_the_data_planes_own_stream() -> None:
    assert route_of("dataplane/operator", operator_alone()).queue == "operator"


def test_every_queue_has_a_worker() -> None:
    assert served_queues(settings(), "listener") == ["control-plane", "reconcile"]
    assert served_queues(settings(), "operator") == ["operator"]
    assert served_queues(operator_alone(), "operator") == ["control-plane", "operator"]


def test_names_carry_the_prefix_of_the_installation() -> None:
    assert queue_name(settings(), "reconcile") == "blue.reconcile"
    assert list_key(settings(), "reconcile") == "blue:blue.reconcile"
    assert {queue.name for queue in configuration(settings())["task_queues"]} == {
        "blue.control-plane",
        "blue.reconcile",
        "blue.operator",
    }
    options: dict[str, Any] = dict(configuration(settings())["broker_transport_options"])
    assert options["global_keyprefix"] == "blue:"


def test_each_kind_of_worker_has_keys_of_its_own_and_a_sender_none() -> None:
    def keys(worker: str | None) -> set[str]:
        options: dict[str, Any] = dict(configuration(settings(), worker)["broker_transport_options"])
        return {options["global_keyprefix"] + value for name, value in options.items() if name.startswith("unacked")}

    assert in_flight_key(settings(), "listener") in keys("listener")
    assert in_flight_key(settings(), "operator") in keys("operator")
    assert len(keys("listener") | keys("operator")) == 6
    assert keys(None) == set()


def test_every_queue_is_routed_to_by_its_own_name_only() -> None:
    queues = configuration(settings())["task_queues"]

    assert [(queue.exchange.name, queue.routing_key) for queue in queues] == [(q.name, q.name) for q in queues]


# --- sweeping


def test_a_sweep_asks_for_what_is_due_and_what_was_forgotten(engine: Engine) -> None:
    engine.events.append("deployment/forgotten", 0, notes("one"), actor="poll")
    engine.events.schedule("lgp/ns/due", NOON + timedelta(seconds=3))
    engine.events.schedule("lgp/ns/later", NOON + timedelta(seconds=60))
    clock_of(engine).move(5)
    engine.events.append("deployment/fresh", 0, notes("one"), actor="poll")
    sent = Sent()

    assert tasks.sweep(engine, sent) == ["lgp/ns/due", "deployment/forgotten"]

    assert sent.streams == ["lgp/ns/due", "deployment/forgotten"]
    assert engine.events.due() == [("lgp/ns/later", NOON + timedelta(seconds=60))]


def test_a_sweep_does_not_ask_for_the_same_stream_again_at_once(engine: Engine) -> None:
    engine.events.append("deployment/a", 0, notes("one"), actor="poll")
    clock_of(engine).move(5)
    assert tasks.sweep(engine, Sent()) == ["deployment/a"]
    clock_of(engine).move(2)
    assert tasks.sweep(engine, Sent()) == []
    clock_of(engine).move(3)
    assert tasks.sweep(engine, Sent()) == ["deployment/a"]


def test_a_sweep_does_not_flood_a_queue_that_has_a_backlog(engine: Engine) -> None:
    for number in range(5):
        engine.events.append(f"deployment/{number}", 0, notes("one"), actor="poll")
        engine.events.append(f"lgp/ns/{number}", 0, notes("one"), actor="poll")
    clock_of(engine).move(5)

    asked = tasks.sweep(engine, Sent(lengths={"reconcile": tasks.MOST_WAITING - 2, "operator": 0}))

    assert len([stream for stream in asked if stream.startswith("deployment/")]) == 2
    assert len([stream for stream in asked if stream.startswith("lgp/")]) == 5
    clock_of(engine).move(5)
    assert len(tasks.sweep(engine, Sent())) == 10  # what was not asked for is not forgotten


def test_a_stream_that_no_component_of_this_worker_owns_is_logged_and_left(engine: Engine) -> None:
    with capture_logs() as logged:
        tasks.advance_stream(engine, "lgp/ns/a")

    assert [entry["stream"] for entry in logged if entry["log_level"] == "error"] == ["lgp/ns/a"]


def test_a_stream_that_was_interrupted_is_asked_for_again(engine: Engine) -> None:
    assert isinstance(engine.dispatcher, Sent)
    engine.events.append("deployment/a", 0, [Asked(steps=2)], actor="poll")
    engine.stopping.set()
    tasks.advance_stream(engine, "deployment/a")
    assert engine.dispatcher.streams == ["deployment/a"]
    engine.stopping.clear()

    tasks.advance_stream(engine, "deployment/a")

    assert engine.dispatcher.streams == ["deployment/a"]
    assert engine.events.dirty() == []


def test_an_outage_of_redis_ends_a_task_with_a_line() -> None:
    def work(stream: str) -> None:
        raise LogUnavailable("Redis does not serve the event log")

    with capture_logs() as logged:
        tasks.outage_logged("listener.advance", work)("deployment/a")

    assert logged == [
        {
            "event": "Redis is away; left to the next sweep",
            "task": "listener.advance",
            "arguments": ("deployment/a",),
            "reason": "Redis does not serve the event log",
            "log_level": "warning",
        }
    ]


def test_all_tasks_are_registered(engine: Engine) -> None:
    app = build(settings())
    tasks.register(app, lambda: engine, Sent())

    ours = {name: task for name, task in app.tasks.items() if not name.startswith("celery.")}
    assert set(ours) == {"listener.poll", "listener.advance", "operator.advance", "engine.sweep"}
    assert {name for name, task in ours.items() if task.acks_late} == {"listener.advance", "operator.advance"}
    assert all(task.ignore_result for task in ours.values())


def test_a_broker_that_is_away_is_logged_and_not_raised() -> None:
    dispatcher = CeleryDispatcher(settings())
    started = time.monotonic()
    with capture_logs() as logged:
        dispatcher.dispatch("deployment/a")

    assert logged[0]["event"] == "message not sent; left to the sweep"
    assert logged[0]["stream"] == "deployment/a"
    assert time.monotonic() - started < 15
    assert dispatcher.waiting() == {}


# --- beat


def test_the_schedule_asks_for_polls_and_sweeps_at_once_and_then_regularly() -> None:
    entries = schedule(settings(POLL_SECONDS="10", SWEEP_SECONDS="2"))

    assert {name: entry["schedule"].total_seconds() for name, entry in entries.items()} == {
        "engine.sweep": 2,
        "listener.poll": 10,
    }
    assert all(entry["last_run_at"] == LONG_AGO for entry in entries.values())
    assert {entry["options"]["queue"] for entry in entries.values()} == {"blue.control-plane"}
    assert entries["listener.poll"]["options"]["expires"] == 10


def test_an_operator_alone_does_not_poll() -> None:
    assert set(schedule(operator_alone())) == {"engine.sweep"}


def test_a_pause_is_made_good_by_one_tick_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    made = scheduler(settings(POLL_SECONDS="10", SWEEP_SECONDS="2"))
    monkeypatch.setattr(made, "producer", None)
    sent: list[str] = []
    monkeypatch.setattr(made, "apply_entry", lambda self, entry, producer=None: sent.append(entry.task))
    beat = made(app=build(settings()), max_interval=LONGEST_SLEEP)

    # Both are due for twenty-five years; each is sent once, and the next one is an interval away.
    waits = [beat.tick() for _ in range(4)]

    assert sorted(sent) == ["engine.sweep", "listener.poll"]
    assert 0 < waits[-1] <= LONGEST_SLEEP


# --- processes


def test_a_mistake_in_the_settings_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with variables(environment("redis://127.0.0.1:1/0", "blue", POLL_SECONDS="soon")):
        assert main(["listener"]) == 2

    assert "AGENTPLANE_POLL_SECONDS" in capsys.readouterr().err


def test_a_worker_that_is_older_than_the_log_ends_with_one_line(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    class Foretold(Event):
        """An event that only a later program knows."""

    engine = replace(engine, machines={machine.stream_prefix: machine for machine in machines(settings())})
    engine.events.append(engine.own_stream, 0, [Foretold()], actor="dataplane")

    assert work(settings(), "listener", 1, engine) == 1

    output = capsys.readouterr().err
    assert "does not know events of type 'Foretold'; upgrade agentplane" in output
    assert "Traceback" not in output


def test_a_process_is_alive_while_its_heartbeat_is_young(tmp_path: Path) -> None:
    file = tmp_path / "heartbeat"
    assert problem(file, time.time()) == f"{file} does not exist: the process has not started to work"
    file.touch()

    assert problem(file, time.time()) is None
    assert "s old; at most 300 s are allowed" in (problem(file, time.time() + STALE_SECONDS + 1) or "")


def test_a_message_is_delivered_again_when_its_worker_can_hold_no_lock_any_more() -> None:
    assert VISIBILITY_TIMEOUT_SECONDS == LONGEST_HOLD
