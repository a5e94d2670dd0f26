"""Wiring: which component owns which streams, and a configuration that reaches every stream even after a crash."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

import pytest
import structlog

from engine import bootstrap, telemetry
from engine.dataplane.events import (
    DATA_PLANE_EVENTS,
    ConfigurationRecorded,
    NamespaceLeased,
    NamespaceLeft,
    NamespaceRefused,
    PollFailed,
    RemovalStarted,
)
from engine.dataplane.stream import DataPlaneStream
from engine.digests import keyed_digest
from engine.errors import ClusterUnavailable, LockLost
from engine.event import Event, Registry
from engine.log.memory import MemoryLog
from engine.runtime.machine import Act, Done
from engine.runtime.values import Value, replace
from engine.settings import Settings

WORKSPACE = "11111111-2222-4333-8444-555555555555"
LISTENER = "66666666-7777-4888-9999-000000000000"
KEY = "lsv2_pt_0123456789abcdef_0123456789"


class Noted(Event):
    """An event of any stream."""


def settings(**given: Any) -> Settings:
    return Settings.load(
        **{
            "langsmith_api_key": KEY,
            "workspace_id": WORKSPACE,
            "listener_id": LISTENER,
            "watch_namespaces": ("agents",),
            "ingress_hostname": "agents.example.com",
            **given,
        }
    )


def wired(events: MemoryLog, **given: Any) -> bootstrap.Engine:
    unused: Any = object()
    return bootstrap.build(settings(**given), events=events, control_plane=unused, cluster=unused, health=unused)


def with_streams(events: MemoryLog, *streams: str) -> MemoryLog:
    for stream in streams:
        events.append(stream, 0, [Noted()], actor="test")
        events.acknowledge(stream, 1)
    return events


def test_each_component_owns_its_streams() -> None:
    engine = wired(MemoryLog())

    assert engine.machine_of("deployment/1").name == "listener"
    assert engine.machine_of("lgp/agents/app").name == "operator"
    assert engine.owns(f"dataplane/{LISTENER}")
    assert not engine.owns("dataplane/somebody-else")
    with pytest.raises(bootstrap.UnknownStream, match=r"deployment/…, lgp/…"):
        engine.advance("nothing/of/ours")


def test_a_disabled_component_owns_nothing() -> None:
    engine = wired(MemoryLog(), operator_enabled=False)

    with pytest.raises(bootstrap.UnknownStream):
        engine.machine_of("lgp/agents/app")


def test_configuration_is_recorded_once_and_reaches_every_stream_of_its_component() -> None:
    events = with_streams(MemoryLog(), "deployment/1", "deployment/2", "lgp/agents/app")

    assert wired(events).configurations.record() == ["listener", "operator"]
    assert sorted(events.dirty()) == ["deployment/1", "deployment/2", "lgp/agents/app"]

    before = events.version(f"dataplane/{LISTENER}")
    assert wired(events).configurations.record() == []
    assert events.version(f"dataplane/{LISTENER}") == before


def test_a_change_marks_the_streams_of_its_component_dirty() -> None:
    events = with_streams(MemoryLog(), "deployment/1", "lgp/agents/app")
    wired(events).configurations.record()
    for stream in events.dirty():
        events.acknowledge(stream, 1)

    assert wired(events, rollout_deadline_seconds=60).configurations.record() == ["listener"]
    assert events.dirty() == ["deployment/1"]


@pytest.mark.parametrize("crash_at", ["mark_dirty", "append"])
def test_a_crash_between_recording_and_marking_is_made_good(crash_at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    events = with_streams(MemoryLog(), "deployment/1", "deployment/2")
    append = events.append

    def crash(*args: Any, **kwargs: Any) -> Any:
        if crash_at == "append" and isinstance(args[2][0], ConfigurationRecorded):
            return append(*args, **kwargs)
        raise SystemError("power cut")

    monkeypatch.setattr(events, crash_at, crash)
    with pytest.raises(SystemError):
        wired(events).configurations.record()
    monkeypatch.undo()
    for stream in events.dirty():
        events.acknowledge(stream, events.version(stream))  # a worker of the old program took them

    assert "listener" in wired(events).configurations.record()
    assert sorted(events.dirty()) == ["deployment/1", "deployment/2"]


def test_other_events_of_the_own_stream_change_nothing_and_do_not_stay_dirty() -> None:
    events = with_streams(MemoryLog(), "deployment/1")
    engine = wired(events)
    engine.configurations.record()
    events.acknowledge("deployment/1", 1)
    own = engine.own_stream
    events.append(own, events.version(own), [PollFailed(reason="away")], actor="poll")

    assert engine.configurations.record() == []
    assert engine.advance(own).outcome == "acknowledged"
    assert events.dirty() == []


def test_a_listener_of_another_configuration_than_the_one_in_force_leaves_polls_and_streams_alone() -> None:
    events = with_streams(MemoryLog(), "deployment/1")
    old = wired(events)
    old.configurations.record("listener")
    wired(events, rollout_deadline_seconds=60).configurations.record("listener")

    assert old.poll().outcome == "outdated"
    assert old.advance("deployment/1").outcome == "outdated"
    assert events.dirty() == ["deployment/1"]


def test_recorded_configuration_holds_no_secret() -> None:
    events = MemoryLog()
    engine = wired(events, redis_url="redis://:sesame-sesame@localhost/0")
    engine.configurations.record()

    records = events.read(engine.own_stream)
    assert {DATA_PLANE_EVENTS.decode(record).type for record in records} == {
        "ConfigurationRecorded",
        "ConfigurationSpread",
    }
    assert KEY not in str(records)
    assert "sesame" not in str(records)


def test_digests_depend_on_the_key_and_the_value() -> None:
    digest = keyed_digest(KEY)

    assert digest(b"value") == keyed_digest(KEY)(b"value")
    assert digest(b"value") != digest(b"other")
    assert digest(b"value") != keyed_digest("another key")(b"value")
    assert len(digest(b"value")) == 32


def test_nothing_is_written_to_the_cluster_without_a_lock() -> None:
    with pytest.raises(LockLost):
        wired(MemoryLog()).ports.keep_lock()


class Note(Act):
    """Appends one Noted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Changed(Value):
    """A state that counts its events."""

    noted: int = 0


class NotingMachine:
    """A machine that decides one act per stream; the act writes a log line."""

    name, stream_prefix, events, config = "listener", "deployment/", Registry(Noted), settings()

    initial = Changed()

    def __init__(self) -> None:
        self.bound: list[dict[str, Any]] = []

    def evolve(self, state: Any, _event: Event, _at: datetime) -> Any:
        return replace(state, noted=state.noted + 1)

    def decide(self, state: Any, _now: datetime) -> Any:
        return Done("noted") if state.noted > 1 else Note()

    def namespace(self, _state: Any) -> str:
        return ""

    def perform(self, _act: Act, _state: Any, _ports: Any) -> list[Event]:
        self.bound.append(structlog.contextvars.get_contextvars())
        return [Noted()]


def test_acts_are_counted_and_named_on_their_log_lines() -> None:
    events = with_streams(MemoryLog(), "deployment/1")
    machine: Any = NotingMachine()
    engine = dataclasses.replace(wired(events), machines={"deployment/": machine})
    labels = {"component": "listener", "act": "Note", "outcome": "done"}
    before = telemetry.REGISTRY.get_sample_value("agentplane_acts_total", labels) or 0

    advanced = engine.advance("deployment/1")

    assert (advanced.outcome, advanced.acts) == ("acknowledged", 1)
    assert telemetry.REGISTRY.get_sample_value("agentplane_acts_total", labels) == before + 1
    assert machine.bound == [{"stream": "deployment/1", "version": 1, "act": "Note"}]


def test_a_process_that_ends_begins_no_further_act_and_forgets_no_stream() -> None:
    events = with_streams(MemoryLog(), "deployment/1")
    events.mark_dirty("deployment/1")
    machine: Any = NotingMachine()
    engine = dataclasses.replace(wired(events), machines={"deployment/": machine})
    engine.stopping.set()

    advanced = engine.advance("deployment/1")

    assert (advanced.outcome, advanced.acts, machine.bound) == ("interrupted", 0, [])
    assert events.dirty() == ["deployment/1"]


# --- namespaces


def test_a_namespace_is_leased_once_and_its_streams_become_dirty() -> None:
    events = with_streams(MemoryLog(), "deployment/1", "lgp/agents/app", "lgp/others/app")
    engine = with_leases(events, agents=None)

    engine.renew_leases()
    engine.renew_leases()

    assert told(events) == [NamespaceLeased(namespace="agents")]
    assert sorted(events.dirty()) == ["deployment/1", "lgp/agents/app"]


def test_the_holder_of_a_namespace_is_recorded_once_and_again_when_it_is_ours() -> None:
    events = with_streams(MemoryLog(), "lgp/agents/app")
    for holder in ("b/2", "b/2", "c/3", None, None):
        with_leases(events, agents=holder).renew_leases()

    assert told(events) == [
        NamespaceRefused(namespace="agents", holder="b/2"),
        NamespaceRefused(namespace="agents", holder="c/3"),
        NamespaceLeased(namespace="agents"),
    ]
    assert events.dirty() == ["lgp/agents/app"]


def test_a_crash_before_a_lease_is_recorded_marks_the_streams_dirty_again() -> None:
    events = with_streams(MemoryLog(), "lgp/agents/app")

    def crash(_self: Any, _event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataPlaneStream, "append", crash)
        with pytest.raises(KeyboardInterrupt):
            with_leases(events, agents=None).renew_leases()
    events.acknowledge("lgp/agents/app", 1, work_token=events.work_token("lgp/agents/app"))
    with_leases(events, agents=None).renew_leases()

    assert events.dirty() == ["lgp/agents/app"]


def test_a_namespace_that_cannot_be_leased_does_not_block_the_others() -> None:
    events = MemoryLog()

    with_leases(events, agents=ClusterUnavailable("away"), more=None).renew_leases()

    assert told(events) == [NamespaceLeased(namespace="more")]


def test_a_namespace_that_is_watched_no_longer_is_left() -> None:
    events = MemoryLog()
    with_leases(events, agents="b/2", more=None).renew_leases()
    with_leases(events, more=None).renew_leases()

    assert told(events)[-1] == NamespaceLeft(namespace="agents")
    assert with_leases(events, more=None).own.state().leases == {"more": ""}


def test_a_data_plane_that_is_being_removed_leases_nothing() -> None:
    events = MemoryLog()
    engine = with_leases(events, agents=None)
    engine.own.append(RemovalStarted(by="ana"))

    engine.renew_leases()

    assert told(events) == [RemovalStarted(by="ana")]


def with_leases(events: MemoryLog, **holders: str | Exception | None) -> bootstrap.Engine:
    """Return an engine that watches some namespaces, each with its other holder, or what asking for that raises."""

    class Told:
        namespaces = tuple(holders)
        holder = "a/1"

        def other_holder(self, namespace: str) -> str | None:
            holder = holders[namespace]
            if isinstance(holder, Exception):
                raise holder
            return holder

    leases: Any = Told()
    return dataclasses.replace(wired(events), leases=leases)


def told(events: MemoryLog) -> list[Event]:
    return [DATA_PLANE_EVENTS.decode(record) for record in events.read(f"dataplane/{LISTENER}")]
