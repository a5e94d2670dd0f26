"""`advance`: the only loop of the engine.

Take the stream's lock, fold its events, then decide → act → append until `decide` says wait or done. A crash
anywhere leaves a log from which the next worker decides the same way.

Why nothing is lost. The stream stays dirty until `settle` finds that neither an event nor a mark came since we
looked, so a crash before it leaves the stream to the next sweep. A worker that finds the lock held goes away at once;
whoever holds it looks at the mark once more after letting go, so what the other came for is done without a sweep.

Why nothing spins. An act leaves an event, or is deferred with a time. A stream that this program cannot fold or decide
(an event of a newer program, a defect) is stopped alone: it is looked at again after the longest backoff.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
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
from engine.runtime.fold import Fold
from engine.runtime.lock_renewal import hold_lock
from engine.runtime.machine import Act, Done, Machine, State, Wait
from engine.runtime.retry import ActDeferred, ActRefused, Backoff
from engine.runtime.values import Value

log = structlog.get_logger(__name__)

S = TypeVar("S", bound=State | Value)

MOST_ACTS = 100
"""Acts under one lock; a stream that wants more is a defect in its machine, and is deferred rather than spun."""
MOST_ROUNDS = 10
"""Times that one call takes the lock; a stream that is dirty all the same is left to the next sweep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """What one call of `advance` did."""

    stream: str
    version: int
    acts: int
    outcome: str
    """`acknowledged`, `waiting`, `namespace_held` (another data plane has the namespace: whoever leases it later
    marks the stream
    dirty), `busy` (another worker has it), `lost` (the lock), `interrupted` (the worker is to end; the stream stays
    dirty), `outdated` (another configuration is in force than this worker's; the stream stays dirty) or `stopped`
    (cannot be folded or decided by this program, or never ends; looked at again after the longest backoff)."""


Measure = Callable[[str, str], AbstractContextManager[None]]
"""Returns what measures one act, from the names of the machine and of the act."""


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
    """Bring `stream` as far as it goes now. `lock_ttl` is seconds: how long the lock of a worker outlives it.

    `stopping` is asked between acts: True ends the call there, and leaves the rest to another worker. `outdated` is
    asked before anything is read and before each decision: True leaves the stream to a worker of the configuration in
    force.

    Raises LogUnavailable when Redis is away; every other failure becomes an event or a retry.
    """
    acts = 0
    for _ in range(MOST_ROUNDS):
        try:
            with hold_lock(events, stream, lock_ttl) as lock:
                advanced = _Round(stream, machine, events, ports, lock, backoff, stopping, outdated, measure).run()
        except LockHeld:
            return Advanced(stream=stream, version=0, acts=acts, outcome="busy")
        except LockLost:
            # Whatever we wrote last may be older than what the new holder wrote: have it looked at again.
            events.mark_dirty(stream)
            log.warning("lock lost", stream=stream)
            return Advanced(stream=stream, version=0, acts=acts, outcome="lost")
        acts += advanced.acts
        if advanced.outcome in ("interrupted", "outdated", "stopped") or not events.work_token(stream):
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
        # The mark first: a configuration that is put in force after the question leaves another mark.
        mark = self._events.work_token(self._stream)
        if self._outdated():
            return self._advanced("outdated")
        try:
            return self._decide_and_act(mark)
        except (LockLost, LogUnavailable):
            raise
        except (FutureEvent, SnapshotUnreadable) as error:
            return self._stop(mark, str(error))
        except Exception as defect:
            return self._stop(mark, described(defect))

    def _decide_and_act(self, mark: int) -> Advanced:
        fold = Fold(self._machine, self._events, self._stream)
        fold.catch_up()
        until: datetime | None
        while self._acts < MOST_ACTS:
            self._version = fold.version
            if self._stopping():
                return self._advanced("interrupted")
            if self._outdated():
                return self._advanced("outdated")
            match self._machine.decide(fold.state, self._ports.clock.now()):
                case Act() as act:
                    try:
                        self._act(act, fold)
                    except NamespaceHeld as held_by_other:
                        until, outcome, reason = None, "namespace_held", str(held_by_other)
                    else:
                        self._acts += 1
                        continue
                case Wait(until, reason):
                    outcome = "waiting"
                case Done(reason):
                    until, outcome = None, "acknowledged"
            if self._settle(fold.version, mark, until, fold.last_id):
                fold.save()
                log.debug(outcome, stream=self._stream, version=fold.version, until=until, reason=reason)
                return self._advanced(outcome)
            mark = self._events.work_token(self._stream)
            fold.catch_up()
        return self._stop(mark, f"wants more than {MOST_ACTS} acts in a row, a defect of its machine")

    def _act(self, act: Act, fold: Fold[S]) -> None:
        """Perform `act` and append what happened. Raises NamespaceHeld before anything was done."""
        self._lock.keep()
        with bound_contextvars(stream=self._stream, version=fold.version, act=act.name):
            happened = self._perform(act, fold.state, fold.failures(act.name))
            log.info("acted", events=[event.type for event in happened])
        # It is a fact, so a writer that came between changes only the version it gets, and so does a log that came
        # back without its last second.
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
        """Perform `act`; turn what it raises into an event, save for a lost lock or log, or a namespace of others."""
        try:
            self._prove_claim(self._machine.namespace(state))
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

    def _prove_claim(self, namespace: str) -> None:
        holder = self._ports.other_holder(namespace) if namespace else None
        if holder is not None:
            raise NamespaceHeld(namespace, holder)

    def _deferred(self, act: Act, attempt: int, reason: str, at_least: float | None = None) -> ActDeferred:
        seconds = self._backoff.delay(attempt, self._ports.random(), at_least)
        log.warning("act deferred", attempt=attempt, seconds=round(seconds, 3), reason=reason)
        at = self._ports.clock.now() + timedelta(seconds=seconds)
        return ActDeferred(act=act.name, attempt=attempt, reason=reason, retry_at=at)

    def _settle(self, version: int, mark: int, until: datetime | None, last: str | None = None) -> bool:
        return self._events.acknowledge(self._stream, version, mark=mark, last=last, until=until, lock=self._lock)

    def _stop(self, mark: int, reason: str) -> Advanced:
        """Leave this stream alone for the longest backoff; an upgrade, or new input, may mend it."""
        log.error("stream stopped", stream=self._stream, version=self._version, reason=reason)
        until = self._ports.clock.now() + timedelta(seconds=self._backoff.cap)
        self._settle(self._events.version(self._stream), mark, until)
        return self._advanced("stopped")

    def _advanced(self, outcome: str) -> Advanced:
        return Advanced(stream=self._stream, version=self._version, acts=self._acts, outcome=outcome)


def described(defect: Exception) -> str:
    """Say where an unexpected exception arose, without its message: that may quote a secret."""
    frames = traceback.extract_tb(defect.__traceback__)
    where = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno} in {frames[-1].name}" if frames else "?"
    log.error("defect", error=type(defect).__name__, where=where, trace="".join(traceback.format_list(frames)))
    return f"a defect: {type(defect).__name__} at {where}"
