"""When the observation loop asks for a stream that it appended to, and when the stream was asked for already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from engine.errors import ObjectRefused
from engine.event import Event
from engine.listener.config import ListenerConfig
from engine.listener.events import DriftDetected, Paused
from engine.listener.machine import ListenerMachine
from engine.log.memory import MemoryLog
from engine.ports import lgp_key
from engine.runtime.backoff import REFUSED_BASE
from engine.runtime.observation import Observation
from engine.runtime.observation_loop import Appended, ObservationLoop

STREAM = "deployment/a"
CONFIG = ListenerConfig(listener_id="l", workspace_id="w", namespaces=("agents",), smith_url="http://smith")


class FakeObserver:
    """An observer that returns the events it was given, once."""

    machine = ListenerMachine(CONFIG)

    def __init__(self) -> None:
        self.observed: list[Event] = []

    def extra_watches(self, state: Any) -> Iterator[Any]:
        return iter(())

    def observe(self, stream: str, state: Any) -> Observation:
        observed, self.observed = tuple(self.observed), []
        return Observation(certain=observed)

    def confirm(self, stream: str, state: Any, unconfirmed: Iterable[Event]) -> None: ...


class Watching:
    def __init__(self, observer: FakeObserver | None = None) -> None:
        self.events, self.observer = MemoryLog(), observer or FakeObserver()
        self.asked: list[str] = []
        self.loop = ObservationLoop([self.observer], self.events, self)  # type: ignore[list-item]
        self.now = 0.0

    def dispatch(self, stream: str) -> None:
        self.asked.append(stream)

    def observe_pause(self, by: str) -> None:
        self.now += 60
        self.observer.observed = [Paused(by=by)]
        self.loop.take(Appended(STREAM), self.now)
        self.now += 60
        self.loop.compare_due(self.now)
        assert self.events.read(STREAM)[-1].data == {"by": by}

    def acknowledge(self) -> None:
        assert self.events.acknowledge(STREAM, self.events.version(STREAM))


@pytest.fixture
def watching() -> Watching:
    return Watching()


def test_a_stream_is_asked_for_when_it_becomes_dirty(watching: Watching) -> None:
    watching.observe_pause("one")
    watching.acknowledge()
    watching.observe_pause("two")

    assert watching.asked == [STREAM, STREAM]


def test_a_stream_that_waits_for_its_turn_is_not_asked_for_again(watching: Watching) -> None:
    watching.observe_pause("one")
    watching.observe_pause("two")
    watching.observe_pause("three")

    assert watching.asked == [STREAM]


def test_a_stream_that_is_acknowledged_while_the_loop_appends_is_asked_for(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching.observe_pause("one")
    append = watching.events.append

    def acknowledge_first(*arguments: Any, **named: Any) -> int:
        watching.acknowledge()
        return append(*arguments, **named)

    monkeypatch.setattr(watching.events, "append", acknowledge_first)
    watching.observe_pause("two")

    assert watching.asked == [STREAM, STREAM]


class RefusedReads(FakeObserver):
    """An observer with an unconfirmed drift, whose fresh reads are refused until `allowed`."""

    allowed = False

    def observe(self, stream: str, state: Any) -> Observation:
        drift = DriftDetected(key=lgp_key("agents", "a"), change="it was deleted")
        return Observation(certain=super().observe(stream, state).certain, unconfirmed=(drift,))

    def confirm(self, stream: str, state: Any, unconfirmed: Iterable[Event]) -> None:
        if not self.allowed:
            raise ObjectRefused("read LGP agents/a: forbidden", status=403)


def test_a_refused_read_holds_up_nothing_else_and_is_tried_again() -> None:
    watching = Watching(RefusedReads())
    watching.observe_pause("one")
    watching.observe_pause("two")
    watching.loop.compare_due(watching.now + 5)

    assert [record.type for record in watching.events.read(STREAM)] == ["Paused", "Paused"]

    watching.observer.allowed = True  # type: ignore[attr-defined]
    watching.loop.compare_due(watching.now + 5 + REFUSED_BASE)

    assert watching.events.read(STREAM)[-1].type == "DriftDetected"
