"""When the watcher asks for a stream that it appended to, and when somebody was asked already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from engine.event import Event
from engine.listener import events as e
from engine.listener.config import ListenerConfig
from engine.listener.machine import ListenerMachine
from engine.log.memory import MemoryLog
from engine.operator.watching import Observation
from workers.watcher import Appended, Core

STREAM = "deployment/a"
CONFIG = ListenerConfig(listener_id="l", workspace_id="w", namespaces=("agents",), smith_url="http://smith")


class Sees:
    """A view that sees what it is told, once."""

    machine = ListenerMachine(CONFIG)

    def __init__(self) -> None:
        self.seen: list[Event] = []

    def more_watches(self, state: Any) -> Iterator[Any]:
        return iter(())

    def observe(self, stream: str, state: Any) -> Observation:
        seen, self.seen = tuple(self.seen), []
        return Observation(certain=seen)

    def confirm(self, stream: str, state: Any, suspected: Iterable[Event]) -> None: ...


class Watching:
    def __init__(self) -> None:
        self.events, self.view = MemoryLog(), Sees()
        self.asked: list[str] = []
        self.core = Core([self.view], self.events, self)  # type: ignore[list-item]
        self.now = 0.0

    def dispatch(self, stream: str) -> None:
        self.asked.append(stream)

    def see(self, by: str) -> None:
        self.now += 60
        self.view.seen = [e.Paused(by=by)]
        self.core.take(Appended(STREAM), self.now)
        self.now += 60
        self.core.judge_due(self.now)
        assert self.events.read(STREAM)[-1].data == {"by": by}

    def settle(self) -> None:
        assert self.events.settle(STREAM, self.events.version(STREAM))


@pytest.fixture
def watching() -> Watching:
    return Watching()


def test_a_stream_is_asked_for_when_it_becomes_dirty(watching: Watching) -> None:
    watching.see("one")
    watching.settle()
    watching.see("two")

    assert watching.asked == [STREAM, STREAM]


def test_a_stream_that_waits_for_its_turn_is_not_asked_for_again(watching: Watching) -> None:
    watching.see("one")
    watching.see("two")
    watching.see("three")

    assert watching.asked == [STREAM]


def test_a_stream_that_is_settled_while_the_watcher_appends_is_asked_for(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching.see("one")
    append = watching.events.append

    def settled_first(*arguments: Any, **named: Any) -> int:
        watching.settle()
        return append(*arguments, **named)

    monkeypatch.setattr(watching.events, "append", settled_first)
    watching.see("two")

    assert watching.asked == [STREAM, STREAM]
