"""`advance`: the only loop of the engine that acts. (The observation loop observes the cluster.)

`advance` takes the stream's lock, folds the stream's events, then decides, acts and appends until `decide` returns Wait
or Done. A crash at any point leaves a log from which the next worker makes the same decision.

Why nothing is lost. A stream stays dirty until a worker acknowledges it, which fails when there is a newer event or
work token. So a crash before the acknowledgement leaves the stream to the next sweep. A worker that finds the lock held
returns at once. The holder of the lock reads the work token again after it has released the lock, so the work that the
other worker came for is done without a sweep.

Why nothing spins. An act leaves an event, or is deferred to a later time. A stream that this program cannot fold or
decide (an event of a newer program, a defect) is set aside: workers try it again after the longest backoff. Other
streams are not affected.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Generic, TypeVar

import structlog
from structlog.contextvars import bound_contextvars

from engine.errors import (
    AgentplaneError,
    ConcurrencyConflict,
    FutureEvent,
    LockHeld,
    LockLost,
    LogUnavailable,
    NamespaceHeld,
    SnapshotUnreadable,
)
from engine.event import Event
from engine.log.contract import EventLog, Lock
from engine.ports import Ports
from engine.runtime.backoff import ActDeferred, ActRefused, Backoff
from engine.runtime.fold import Fold
from engine.runtime.lock_renewal import hold_lock
from engine.runtime.machine import Act, Done, Machine, Wait
from engine.runtime.values import Value

log = structlog.get_logger(__name__)

S = TypeVar("S", bound=Value)

MOST_ACTS = 100
"""Limit of acts in one hold of the lock. A machine that decides more acts has a defect; its stream is set aside."""
MOST_ROUNDS = 10
"""Limit of holds of the lock in one call. A stream that is still dirty then is left to the next sweep."""


class Outcome(StrEnum):
    """How a call of `advance` ended."""

    ACKNOWLEDGED = "acknowledged"
    """There is nothing to do until an event comes."""
    WAITING = "waiting"
    """There is nothing to do before the time of the stream's timer, unless an event comes."""
    NAMESPACE_HELD = "namespace_held"
    """Another data plane holds the namespace; the data plane that leases it next makes the stream dirty."""
    BUSY = "busy"
    """Another worker holds the stream's lock."""
    LOST = "lost"
    """The lock expired during the call, or another worker took it."""
    INTERRUPTED = "interrupted"
    """The worker is shutting down; the stream stays dirty."""
    OUTDATED = "outdated"
    """A configuration other than this worker's is in force; the stream stays dirty."""
    SET_ASIDE = "set_aside"
    """This program cannot fold or decide the stream; workers try again after the longest backoff."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """What one call of `advance` did."""

    stream: str
    version: int
    acts: int
    outcome: Outcome


Measure = Callable[[str, str], AbstractContextManager[None]]
"""Returns what measures one act, from the names of the machine and of the act."""


LEFT = (Outcome.INTERRUPTED, Outcome.OUTDATED, Outcome.SET_ASIDE)
"""Outcomes after which this call does not take the lock again, although the stream may be dirty."""


def never() -> bool:
    return False


def unmeasured(machine: str, act: str) -> AbstractContextManager[None]:
    return nullcontext()


def advance(
    stream: str,
    machine: Machine[S],
    events: EventLog,
    ports: Ports,
    *,
    lock_ttl: float,
    backoff: Backoff,
    stopping: Callable[[], bool] = never,
    outdated: Callable[[], bool] = never,
    measure: Measure = unmeasured,
) -> Advanced:
    """Perform acts of `stream` until its machine decides to wait, or that it is done.

    `lock_ttl` is seconds: after a crash of this worker, another worker can take the lock that much later. `stopping` is
    called between acts; True ends the call, and another worker continues. `outdated` is called before the events are
    read and before each decision; True leaves the stream to a worker of the configuration in force. `measure` measures
    each act.

    Raises LogUnavailable when Redis is not available. Every other failure becomes an event or a retry.
    """
    acts = 0
    for _ in range(MOST_ROUNDS):
        try:
            with hold_lock(events, stream, lock_ttl) as lock:
                advanced = _Round(stream, machine, events, ports, lock, backoff, stopping, outdated, measure).run()
        except LockHeld:
            return Advanced(stream=stream, version=0, acts=acts, outcome=Outcome.BUSY)
        except LockLost:
            # Our last write may have come after a write of the new holder, so the stream is advanced once more.
            events.mark_dirty(stream)
            log.warning("lock lost", stream=stream)
            return Advanced(stream=stream, version=0, acts=acts, outcome=Outcome.LOST)
        acts += advanced.acts
        if advanced.outcome in LEFT or not events.work_token(stream):
            break
    return replace(advanced, acts=acts)


class _Round(Generic[S]):
    """One hold of the lock."""

    def __init__(
        self,
        stream: str,
        machine: Machine[S],
        events: EventLog,
        ports: Ports,
        lock: Lock,
        backoff: Backoff,
        stopping: Callable[[], bool],
        outdated: Callable[[], bool],
        measure: Measure,
    ) -> None:
        self._stream = stream
        self._machine = machine
        self._events = events
        self._ports = replace(ports, keep_lock=lock.keep)
        self._lock = lock
        self._backoff = backoff
        self._stopping = stopping
        self._outdated = outdated
        self._measure = measure
        self._acts = 0
        self._version = 0

    def run(self) -> Advanced:
        # The token is read first: a configuration that is put in force after `outdated` sets another token.
        token = self._events.work_token(self._stream)
        if self._outdated():
            return self._advanced(Outcome.OUTDATED)
        try:
            return self._decide_and_act(token)
        except (LockLost, LogUnavailable):
            raise
        except (FutureEvent, SnapshotUnreadable) as error:
            return self._set_aside(token, str(error))
        except Exception as defect:
            return self._set_aside(token, described(defect))

    def _decide_and_act(self, token: int) -> Advanced:
        fold = Fold(self._machine, self._events, self._stream)
        fold.catch_up()
        until: datetime | None
        while self._acts < MOST_ACTS:
            self._version = fold.version
            if self._stopping():
                return self._advanced(Outcome.INTERRUPTED)
            if self._outdated():
                return self._advanced(Outcome.OUTDATED)
            match self._machine.decide(fold.state, self._ports.clock.now()):
                case Act() as act:
                    try:
                        self._act(act, fold)
                    except NamespaceHeld as held:
                        until, outcome, reason = None, Outcome.NAMESPACE_HELD, str(held)
                    else:
                        self._acts += 1
                        continue
                case Wait(until, reason):
                    outcome = Outcome.WAITING
                case Done(reason):
                    until, outcome = None, Outcome.ACKNOWLEDGED
            if self._acknowledge(fold.version, token, until, fold.last_id):
                fold.save()
                log.debug(outcome, stream=self._stream, version=fold.version, until=until, reason=reason)
                return self._advanced(outcome)
            token = self._events.work_token(self._stream)
            fold.catch_up()
        return self._set_aside(token, f"a defect: the machine decided more than {MOST_ACTS} acts in a row")

    def _act(self, act: Act, fold: Fold[S]) -> None:
        """Perform `act` and append its events. Raises NamespaceHeld before the act is performed."""
        self._lock.keep()
        with bound_contextvars(stream=self._stream, version=fold.version, act=act.name):
            happened = self._perform(act, fold.state, fold.failures(act.name))
            log.info("acted", events=[event.type for event in happened])
        # The act has happened: on a version conflict (another writer, or a Redis that lost its last second), append at
        # the current version.
        expected = fold.version
        while True:
            try:
                self._events.append(
                    self._stream, expected, happened, actor=self._machine.name, cause=act.name, lock=self._lock
                )
                break
            except ConcurrencyConflict as conflict:
                expected = conflict.actual
        fold.catch_up()

    def _perform(self, act: Act, state: S, failures: int) -> list[Event]:
        """Perform `act`. An error becomes an event, except LockLost, LogUnavailable and NamespaceHeld."""
        try:
            self._check_namespace(self._machine.namespace(state))
            with self._measure(self._machine.name, act.name):
                happened = list(self._machine.perform(act, state, self._ports))
        except (LockLost, LogUnavailable, NamespaceHeld):
            raise
        except AgentplaneError as error:
            if not error.retryable:
                log.warning("act refused", reason=str(error))
                return [ActRefused(act=act.name, reason=str(error))]
            return [self._deferred(act, failures + 1, str(error), getattr(error, "retry_after", None))]
        except Exception as defect:
            return [self._deferred(act, failures + 1, described(defect))]
        return happened or [self._deferred(act, failures + 1, "a defect: the act returned no event")]

    def _check_namespace(self, namespace: str) -> None:
        holder = self._ports.other_holder(namespace) if namespace else None
        if holder is not None:
            raise NamespaceHeld(namespace, holder)

    def _deferred(self, act: Act, attempt: int, reason: str, at_least: float | None = None) -> ActDeferred:
        seconds = self._backoff.delay(attempt, self._ports.random(), at_least)
        log.warning("act deferred", attempt=attempt, seconds=round(seconds, 3), reason=reason)
        at = self._ports.clock.now() + timedelta(seconds=seconds)
        return ActDeferred(act=act.name, attempt=attempt, reason=reason, retry_at=at)

    def _acknowledge(self, version: int, token: int, until: datetime | None, last: str | None = None) -> bool:
        return self._events.acknowledge(
            self._stream, version, work_token=token, last=last, until=until, lock=self._lock
        )

    def _set_aside(self, token: int, reason: str) -> Advanced:
        """Set the stream's timer to the longest backoff; an upgrade or new input may resolve the problem."""
        log.error("stream set aside", stream=self._stream, version=self._version, reason=reason)
        until = self._ports.clock.now() + timedelta(seconds=self._backoff.cap)
        self._acknowledge(self._events.version(self._stream), token, until)
        return self._advanced(Outcome.SET_ASIDE)

    def _advanced(self, outcome: Outcome) -> Advanced:
        return Advanced(stream=self._stream, version=self._version, acts=self._acts, outcome=outcome)


def described(defect: Exception) -> str:
    """Return the class and the place of an unexpected exception, not its message, which may contain a secret."""
    frames = traceback.extract_tb(defect.__traceback__)
    where = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno} in {frames[-1].name}" if frames else "?"
    log.error("defect", error=type(defect).__name__, where=where, trace="".join(traceback.format_list(frames)))
    return f"a defect: {type(defect).__name__} at {where}"
