"""The data plane's own stream, `dataplane/<listener id>`: read as a state, and appended to.

No worker advances this stream: a process that appends to it acts on its state itself. So each append acknowledges the
stream at once. A snapshot spares a new process the fold from the beginning.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from engine.dataplane.events import DATA_PLANE_EVENTS
from engine.dataplane.state import DataPlaneState, evolve
from engine.errors import ConcurrencyConflict
from engine.event import Event
from engine.log.contract import EventLog
from engine.names import DATA_PLANE_PREFIX
from engine.runtime.fold import Fold, StreamKind

ACTOR = "dataplane"


DATA_PLANES = StreamKind(ACTOR, DATA_PLANE_PREFIX, DATA_PLANE_EVENTS, DataPlaneState(), evolve)
"""The data planes' own streams."""


class DataPlaneStream:
    """The data plane's own stream `name` in `events`; safe to share between threads."""

    def __init__(self, events: EventLog, name: str) -> None:
        self.name = name
        self._events = events
        self._mutex = threading.Lock()
        self._fold: Fold[DataPlaneState] | None = None
        self._known: DataPlaneState | None = None

    @property
    def known(self) -> DataPlaneState:
        """The state as of the last read or append; costs no read, save for the first time."""
        return self.state() if self._known is None else self._known

    def state(self) -> DataPlaneState:
        """Return the state as it is now; costs one read of the log. Raises FutureEvent, LogUnavailable."""
        return self._read()[0]

    def append(
        self, event: Event, only_if: Callable[[DataPlaneState], bool] = lambda _: True, *, actor: str = ACTOR
    ) -> bool:
        """Append `event`, after any event that came meanwhile, if `only_if` holds for the state before it.

        Return whether it did. Raises FutureEvent, LogUnavailable.
        """
        while True:
            state, at = self._read()
            if not only_if(state):
                return False
            try:
                at = self._events.append(self.name, at, [event], actor=actor)
            except ConcurrencyConflict:
                continue
            self._events.acknowledge(self.name, at)
            self._read()
            return True

    def acknowledge(self) -> int:
        """Acknowledge the stream; return its version. Raises LogUnavailable."""
        at = self._events.version(self.name)
        self._events.acknowledge(self.name, at)
        return at

    def _read(self) -> tuple[DataPlaneState, int]:
        with self._mutex:
            if self._fold is None:
                self._fold = Fold(DATA_PLANES, self._events, self.name)
            self._fold.catch_up()
            self._fold.save()
            self._known = self._fold.state
            return self._known, self._fold.version
