"""When the watcher asks for a stream that it appended to, and when somebody was asked already."""

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
from engine.runtime.observation import Observation
from engine.runtime.retry import REFUSED_BASE
from workers.watcher import Appended, Core

STREAM = "deployment/a"
CONFIG = ListenerConfig(listener_id="l", workspace_id="w", namespaces=("agents",), smith_url="http://smith")


class Sees:
    """A view that sees what it is told, once."""

    machine = ListenerMachine(CONFIG)

    def __init__(self) -> None:
        self.seen: list[Event] = []

    def extra_watches(self, state: Any) -> Iterator[Any]:
        return iter(())

    def observe(self, stream: str, state: Any) -> Observation:
        seen, self.seen = tuple(self.seen), []
        return Observation(certain=seen)

    def confirm(self, stream: str, state: Any, unconfirmed: Iterable[Event]) -> None: ...


class Watching:
    def __init__(self, view: Sees | None = None) -> None:
        self.events, self.view = MemoryLog(), view or Sees()
        self.asked: list[str] = []
        self.core = Core([self.view], self.events, self)  # type: ignore[list-item]
        self.now = 0.0

    def dispatch(self, stream: str) -> None:
        self.asked.append(stream)

    def on_change(self, by: str) -> None:
        self.now += 60
        self.view.seen = [Paused(by=by)]
        self.core.take(Appended(STREAM), self.now)
        self.now += 60
        self.core.judge_due(self.now)
        assert self.events.read(STREAM)[-1].data == {"by": by}

    def acknowledge(self) -> None:
        assert self.events.acknowledge(STREAM, self.events.version(STREAM))


@pytest.fixture
def watching() -> Watching:
    return Watching()


def test_a_stream_is_asked_for_when_it_becomes_dirty(watching: Watching) -> None:
    watching.on_change("one")
    watching.acknowledge()
    watching.on_change("two")

    assert watching.asked == [STREAM, STREAM]


def test_a_stream_that_waits_for_its_turn_is_not_asked_for_again(watching: Watching) -> None:
    watching.on_change("one")
    watching.on_change("two")
    watching.on_change("three")

    assert watching.asked == [STREAM]


def test_a_stream_that_is_settled_while_the_watcher_appends_is_asked_for(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching.on_change("one")
    append = watching.events.append

    def settled_first(*arguments: Any, **named: Any) -> int:
        watching.acknowledge()
        return append(*arguments, **named)

    monkeypatch.setattr(watching.events, "append", settled_first)
    watching.on_change("two")

    assert watching.asked == [STREAM, STREAM]


class MayNotLook(Sees):
    """A view that suspects drift, and may not look whether it is so, until somebody lets it."""

    allowed = False

    def observe(self, stream: str, state: Any) -> Observation:
        drift = DriftDetected(object="LGP agents/a", change="it was deleted")
        return Observation(certain=super().observe(stream, state).certain, unconfirmed=(drift,))

    def confirm(self, stream: str, state: Any, unconfirmed: Iterable[Event]) -> None:
        if not self.allowed:
            raise ObjectRefused("read LGP agents/a: forbidden", status=403)


def test_a_look_that_is_refused_holds_up_nothing_else_and_is_tried_again() -> None:
    watching = Watching(MayNotLook())
    watching.on_change("one")
    watching.on_change("two")
    watching.core.judge_due(watching.now + 5)

    assert [record.type for record in watching.events.read(STREAM)] == ["Paused", "Paused"]

    watching.view.allowed = True  # type: ignore[attr-defined]
    watching.core.judge_due(watching.now + 5 + REFUSED_BASE)

    assert watching.events.read(STREAM)[-1].type == "DriftDetected"
