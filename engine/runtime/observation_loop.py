"""The observation loop: what happens in the cluster, as events of the log.

Theory of operation. The engine has two loops. `advance` is the only one that acts: it decides, changes the outside
world and appends what it did. This one only observes: it compares the cluster with the log and appends what the log
does not know. Each append marks the stream dirty, so that `advance` looks at it.

A message (Changed: a line of a watch; Appended: a stream grew) makes the streams that it affects *pending*. When a
pending stream is compared, the component's observer compares everything that is known of the cluster with the newest
state of the stream. The events that result are appended on condition that the state is still the newest
(ConcurrencyConflict: compare again). So the order and the number of messages make no difference: an observation that
equals the log is no event.

Our own writes must not look like drift, and neither must a watch that lags behind the log. So an *unconfirmed*
observation is *debounced*: it is held for HOLD seconds and while a worker advances the stream. Then fresh reads confirm
it, and the stream is compared with the newest state once more.

A stream is compared again after every event that any process appends to it: an observation may matter only now.

Nothing is lost with the memory of the loop: after a restart everything is listed, and streams of LGPs that are not on
the complete list are compared too.

The loop has no thread, queue or clock of its own; `workers/watcher.py` has these. `now` is monotonic, in seconds.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog

from engine.errors import (
    AgentplaneError,
    ClusterUnavailable,
    ConcurrencyConflict,
    LogUnavailable,
    ObjectRefused,
)
from engine.event import Event
from engine.log.contract import EventLog
from engine.ports import Dispatcher, WatchEvent
from engine.runtime.backoff import REFUSED_BASE
from engine.runtime.fold import AnyFold, Fold
from engine.runtime.observation import SOON, AnyObserver, Observation, Watch

log = structlog.get_logger(__name__)

ACTOR = "watcher"

HOLD = 1.0
"""Seconds that an unconfirmed observation is held before it is confirmed."""
LOCKED = 0.25
"""Seconds before an unconfirmed observation of a stream that a worker advances is tried again."""
UNAVAILABLE = 1.0
"""Seconds before a comparison is tried again after the API server did not answer; with a jitter of ± 50 %."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A line of a watch."""

    watch: Watch
    namespace: str
    event: WatchEvent


@dataclass(frozen=True, slots=True)
class Appended:
    """A stream has new events."""

    stream: str


Message = Changed | Appended


class ObservationLoop:
    """Takes messages in, and compares the streams that they affect. For one thread."""

    def __init__(
        self, observers: Sequence[AnyObserver], events: EventLog, dispatcher: Dispatcher, *, hold: float = HOLD
    ) -> None:
        """`hold` is how many seconds an unconfirmed observation is held."""
        self._observers = {observer.machine.stream_prefix: observer for observer in observers}
        self._events = events
        self._dispatcher = dispatcher
        self._hold = hold
        self._folds: dict[str, AnyFold] = {}
        self._stale: set[str] = set()
        """Streams of which the fold may be behind the log."""
        self._pending: dict[str, float] = {}
        """Stream → when to compare it."""
        self._unconfirmed: dict[str, float] = {}
        """Stream → since when it has an unconfirmed observation."""
        self.extra_watches: set[tuple[Watch, str]] = set()
        """Watches that states call for beyond the usual ones, with their namespaces."""

    # --- messages

    def take(self, message: Message, now: float) -> None:
        """Take one message in. Raises LogUnavailable; the message must then be taken again."""
        match message:
            case Appended(stream):
                self._stale.add(stream)
                if self._observer_of(stream) is not None:
                    self._schedule(stream, now + SOON)
            case Changed(watch, namespace, event):
                self._tell_observers(watch, namespace, event, now)

    def _tell_observers(self, watch: Watch, namespace: str, event: WatchEvent, now: float) -> None:
        for observer in self._observers.values():
            try:
                if event.type == "SYNCED":
                    affected = observer.on_synced(watch, namespace, self._events.streams)
                else:
                    exists = event.type != "DELETED"
                    affected = observer.on_change(watch, namespace, event.object, exists=exists)
                for stream, delay in affected:
                    self._schedule(stream, now + delay)
            except LogUnavailable:
                raise
            except Exception as error:
                name = event.object.get("metadata", {}).get("name", "?")
                log.error("object not understood", kind=watch.kind, object=name, error=type(error).__name__)

    def _schedule(self, stream: str, at: float) -> None:
        self._pending[stream] = min(at, self._pending.get(stream, at))

    def _observer_of(self, stream: str) -> AnyObserver | None:
        return next((observer for prefix, observer in self._observers.items() if stream.startswith(prefix)), None)

    # --- comparing

    def next_due(self) -> float | None:
        """Return when the next stream is to be compared, None when none is pending."""
        return min(self._pending.values(), default=None)

    def compare_due(self, now: float) -> int:
        """Compare every pending stream that is due; return how many events were appended. Raises LogUnavailable."""
        due = sorted((at, stream) for stream, at in self._pending.items() if at <= now)
        return sum(self._compare(stream, now) for _, stream in due)

    def compare_everything(self, now: float) -> None:
        """Fold and compare every known stream anew: the log may have come back without its last moment."""
        for stream in self._folds:
            self._schedule(stream, now)
        self._folds.clear()

    def _compare(self, stream: str, now: float) -> int:
        self._pending.pop(stream, None)
        observer = self._observer_of(stream)
        if observer is None:
            return 0
        try:
            return self._append_observed(stream, observer, now)
        except ConcurrencyConflict:
            self._stale.add(stream)
            self._schedule(stream, now)
        except LogUnavailable:
            self._schedule(stream, now)
            raise
        except ClusterUnavailable as error:
            log.warning("comparison postponed", stream=stream, error=str(error))
            self._schedule(stream, now + UNAVAILABLE * (0.5 + random.random()))
        except ObjectRefused as error:
            log.error("comparison refused", stream=stream, again_in=REFUSED_BASE, error=str(error))
            self._schedule(stream, now + REFUSED_BASE)
        except AgentplaneError as error:
            # For example an event of a newer program: only this stream stops, until something is appended to it.
            log.error("stream not compared", stream=stream, error=str(error))
            self._folds.pop(stream, None)
        return 0

    def _append_observed(self, stream: str, observer: AnyObserver, now: float) -> int:
        """Append the events that the observer adds to the stream; return how many."""
        fold = self._fold(stream, observer)
        self.extra_watches.update(observer.extra_watches(fold.state))
        observed = observer.observe(stream, fold.state)
        if not observed.unconfirmed:
            self._unconfirmed.pop(stream, None)
        # A read that is refused must not hold up what is certain, so that is appended first.
        elif self._debounced(stream, now) and not observed.certain:
            fold, observed = self._confirmed(stream, observer, fold, observed)
            return self._append(stream, fold.version, [*observed.certain, *observed.unconfirmed], now)
        return self._append(stream, fold.version, observed.certain, now)

    def _debounced(self, stream: str, now: float) -> bool:
        """Whether an unconfirmed observation was held long enough, and no worker advances the stream."""
        since = self._unconfirmed.setdefault(stream, now)
        if now - since < self._hold:
            self._schedule(stream, since + self._hold)
            return False
        if self._events.locked(stream):
            self._schedule(stream, now + LOCKED)
            return False
        return True

    def _confirmed(
        self, stream: str, observer: AnyObserver, fold: AnyFold, observed: Observation
    ) -> tuple[AnyFold, Observation]:
        """Return the newest fold and what the observer adds to it after fresh reads."""
        observer.confirm(stream, fold.state, observed.unconfirmed)
        fold = self._fold(stream, observer, fresh=True)
        confirmed = observer.observe(stream, fold.state)
        self._unconfirmed.pop(stream, None)
        return fold, confirmed

    def _append(self, stream: str, version: int, events: Iterable[Event], now: float) -> int:
        new = list(events)
        if not new:
            return 0
        # The fold stays as it is until it has read back what is appended here, like the events of any other process.
        self._stale.add(stream)
        work_token = self._events.work_token(stream)
        self._events.append(stream, version, new, actor=ACTOR)
        log.info("observed", stream=stream, version=version + len(new), events=[event.type for event in new])
        # A stream that was dirty before and is dirty still needs no message: one waits in a queue, or a worker advances
        # the stream and cannot acknowledge it without these events.
        if not work_token or self._events.work_token(stream) != work_token:
            self._dispatch(stream)
        self._schedule(stream, now + SOON)
        return len(new)

    def _dispatch(self, stream: str) -> None:
        try:
            self._dispatcher.dispatch(stream)
        except Exception as error:
            # The stream is dirty, so the next sweep finds it.
            log.warning("not dispatched", stream=stream, error=type(error).__name__)

    def _fold(self, stream: str, observer: AnyObserver, *, fresh: bool = False) -> AnyFold:
        fold = self._folds.get(stream)
        if fold is None:
            fold = self._folds[stream] = Fold(observer.machine, self._events, stream)
            fold.catch_up()
        elif fresh or stream in self._stale:
            fold.catch_up()
        self._stale.discard(stream)
        return fold
