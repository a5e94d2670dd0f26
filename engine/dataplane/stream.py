"""The data plane's own stream, `dataplane/<listener id>`: read as a state, and appended to.

It has no worker that advances it: whoever appends to it acts on what it says. So an append settles it at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

from engine.dataplane.events import DATA_PLANE_EVENTS
from engine.dataplane.state import DataPlaneState, evolve
from engine.errors import ConcurrencyConflict
from engine.event import Event
from engine.log.contract import EventLog
from engine.runtime.fold import Fold

ACTOR = "dataplane"


class _DataPlaneFolding:
    """How the events of the own stream are folded."""

    name = ACTOR
    events = DATA_PLANE_EVENTS
    initial = DataPlaneState()

    def evolve(self, state: DataPlaneState, event: Event, at: datetime) -> DataPlaneState:
        return evolve(state, event, at)


class DataPlaneStream:
    """The own stream `name` in `events`; safe to share between threads."""

    def __init__(self, events: EventLog, name: str) -> None:
        self.name = name
        self._events = events
        self._mutex = threading.Lock()
        self._fold: Fold[DataPlaneState] | None = None

    def state(self) -> DataPlaneState:
        """Return what the stream adds up to now; costs one read of the log. Raises FutureEvent, LogUnavailable."""
        return self._read()[0]

    def append(self, event: Event, only_if: Callable[[DataPlaneState], bool] = lambda _: True) -> bool:
        """Append a fact, after whatever came meanwhile; return whether `only_if` held for that.

        Raises FutureEvent, LogUnavailable.
        """
        while True:
            state, at = self._read()
            if not only_if(state):
                return False
            try:
                at = self._events.append(self.name, at, [event], actor=ACTOR)
            except ConcurrencyConflict:
                continue
            self._events.acknowledge(self.name, at)
            return True

    def acknowledge(self) -> int:
        """Clean the stream; return its version. Raises LogUnavailable."""
        at = self._events.version(self.name)
        self._events.acknowledge(self.name, at)
        return at

    def _read(self) -> tuple[DataPlaneState, int]:
        with self._mutex:
            if self._fold is None:
                self._fold = Fold(_DataPlaneFolding(), self._events, self.name)
            self._fold.catch_up()
            return self._fold.state, self._fold.version
