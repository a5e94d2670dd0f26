"""Dispatch by class: what each class of events changes in a state, how a phase moves by it, how an act is performed.

The tables are checked as they are made: a class that is handled twice, or both handled and ignored, is an error at
import. mypy checks that a handler takes the events of its class. What a machine ignores on purpose is listed, so that a
test can prove that the handled and the ignored classes together are all classes of its streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from engine.event import Event
from engine.runtime.machine import Act

S = TypeVar("S")
E = TypeVar("E", bound=Event)
P = TypeVar("P", bound=StrEnum)
A = TypeVar("A", bound=Act)
C = TypeVar("C")

Handler = Callable[[S, E, datetime], S]
"""Returns the state after an event that happened at a time (UTC)."""


@dataclass(frozen=True, slots=True)
class On(Generic[S]):
    """One row of a table of handlers."""

    event: type[Event]
    handler: Callable[[S, Any, datetime], S]


def on(event: type[E], handler: Handler[S, E]) -> On[S]:
    """Return the row that lets `handler` handle the events of one class."""
    return On(event, handler)


class Handlers(Generic[S]):
    """What each class of events changes in a state."""

    def __init__(self, *rows: On[S], ignored: tuple[type[Event], ...] = ()) -> None:
        """`ignored` are the classes that change nothing. Raises TypeError for a class that has two rows."""
        self._handlers: dict[type[Event], Callable[[S, Any, datetime], S]] = {}
        self.ignored = frozenset(ignored)
        for row in rows:
            if row.event in self._handlers or row.event in self.ignored:
                raise TypeError(f"{row.event.__name__} has two rows in one table of handlers")
            self._handlers[row.event] = row.handler

    @property
    def handled(self) -> frozenset[type[Event]]:
        """The classes that have a handler."""
        return frozenset(self._handlers)

    def apply(self, state: S, event: Event, at: datetime) -> S:
        """Return the state after `event`, which happened `at` (UTC)."""
        handler = self._handlers.get(type(event))
        return state if handler is None else handler(state, event, at)


@dataclass(frozen=True, slots=True)
class When(Generic[E]):
    """The events of one class for which a condition holds."""

    event: type[E]
    condition: str
    """What holds, in a few words: shown in the pictures of the documentation."""
    holds: Callable[[E], bool]

    def __str__(self) -> str:
        return f"{self.event.__name__}({self.condition})"


Trigger = type[Event] | When[Any]
"""What moves a state: any event of a class, or one for which a condition holds."""


class Transitions(Generic[P]):
    """Every change of a phase. An event without a row leaves the phase as it is."""

    def __init__(self, rows: Mapping[tuple[P, Trigger], P]) -> None:
        self._rows = dict(rows)
        self._conditions: dict[type[Event], list[When[Any]]] = {}
        for _, trigger in self._rows:
            if isinstance(trigger, When) and trigger not in self._conditions.setdefault(trigger.event, []):
                self._conditions[trigger.event].append(trigger)

    def __iter__(self) -> Iterator[tuple[P, str, P]]:
        """Yield each row: the phase before, what moves it, the phase after."""
        for (before, trigger), after in self._rows.items():
            yield before, str(trigger) if isinstance(trigger, When) else trigger.__name__, after

    def after(self, phase: P, event: Event) -> P:
        """Return the phase after `event`. A condition that holds goes before the row of the event's class."""
        return self._rows.get((phase, self._trigger(event)), phase)

    def _trigger(self, event: Event) -> Trigger:
        for when in self._conditions.get(type(event), ()):
            if when.holds(event):
                return when
        return type(event)


Performer = Callable[[A, C], Sequence[Event]]
"""Performs an act in a context (the state, what the act may touch, the configuration); returns what happened."""


@dataclass(frozen=True, slots=True)
class By(Generic[C]):
    """One row of a table of performers."""

    act: type[Act]
    performer: Callable[[Any, C], Sequence[Event]]


def by(act: type[A], performer: Performer[A, C]) -> By[C]:
    """Return the row that lets `performer` perform the acts of one class."""
    return By(act, performer)


class Performers(Generic[C]):
    """Which function performs the acts of each class."""

    def __init__(self, *rows: By[C]) -> None:
        """Raises TypeError for a class that has two rows."""
        self._performers = {row.act: row.performer for row in rows}
        if len(self._performers) < len(rows):
            raise TypeError("a class of acts has two rows in one table of performers")

    @property
    def acts(self) -> frozenset[type[Act]]:
        """The classes that have a performer."""
        return frozenset(self._performers)

    def perform(self, act: Act, context: C) -> Sequence[Event]:
        """Perform `act`; return what happened, at least one event. Raises what the performer raises."""
        return self._performers[type(act)](act, context)
