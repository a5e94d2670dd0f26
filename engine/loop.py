"""`advance`: the only loop of the engine.

Take the stream's lock, fold its events, then decide → act → append until `decide` says wait or done. A crash
anywhere leaves a log from which the next worker decides the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import structlog

from engine.errors import AgentplaneError, ConcurrencyConflict, FutureEvent, LockHeld, LockLost, LogUnavailable
from engine.event import Event
from engine.folding import Fold
from engine.log.contract import EventLog
from engine.machine import Act, Done, Machine, State, Wait
from engine.ports import Ports
from engine.retry import ActDeferred, ActRefused, Backoff

log = structlog.get_logger(__name__)

S = TypeVar("S", bound=State)

MOST_ACTS = 100
"""Acts in one call; a stream that wants more is a defect in its machine, and is deferred rather than spun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """What one call of `advance` did."""

    stream: str
    version: int
    acts: int
    outcome: str
    """`settled`, `waiting`, `busy` (another worker has it), `lost` (the lock) or `stopped` (needs a newer program)."""


def advance(
    stream: str,
    machine: Machine[S],
    events: EventLog,
    ports: Ports,
    *,
    lock_term: float,
    backoff: Backoff,
) -> Advanced:
    """Bring `stream` as far as it goes now. `lock_term` is seconds.

    Raises LogUnavailable when Redis is away; every other failure becomes an event or a retry.
    """
    try:
        with events.lock(stream, lock_term) as lock:
            return _advance(stream, machine, events, replace(ports, keep_lock=lock.keep), lock, backoff)
    except LockHeld:
        return Advanced(stream=stream, version=0, acts=0, outcome="busy")
    except LockLost:
        # Whatever we wrote last may be older than what the new holder wrote: have it looked at again.
        events.mark_dirty(stream)
        return Advanced(stream=stream, version=0, acts=0, outcome="lost")


def _advance(stream: str, machine: Machine[S], events: EventLog, ports: Ports, lock: Any, backoff: Backoff) -> Advanced:
    fold = Fold(machine, events, stream)
    try:
        fold.catch_up()
        for acts in range(MOST_ACTS):
            now = ports.clock.now()
            match machine.decide(fold.state, now):
                case Act() as act:
                    bound = log.bind(stream=stream, version=fold.version, act=act.name)
                    happened = _perform(machine, act, fold.state, ports, backoff, fold.failures(act.name))
                    _append(events, fold, machine.name, act, happened, lock)
                    bound.info("acted", events=[event.type for event in happened])
                case Wait(until, reason):
                    events.schedule(stream, until)
                    if events.settle(stream, fold.version):
                        log.debug("waiting", stream=stream, version=fold.version, until=until.isoformat(), reason=reason)
                        return Advanced(stream=stream, version=fold.version, acts=acts, outcome="waiting")
                    fold.catch_up()
                case Done(reason):
                    events.unschedule(stream)
                    if events.settle(stream, fold.version):
                        fold.save()
                        log.debug("settled", stream=stream, version=fold.version, reason=reason)
                        return Advanced(stream=stream, version=fold.version, acts=acts, outcome="settled")
                    fold.catch_up()
    except FutureEvent as error:
        log.error("stream stopped", stream=stream, version=fold.version, error=str(error))
        return Advanced(stream=stream, version=fold.version, acts=0, outcome="stopped")
    events.schedule(stream, ports.clock.now() + timedelta(seconds=backoff.cap))
    events.settle(stream, fold.version)
    log.error("stream wants too many acts in a row", stream=stream, version=fold.version, most=MOST_ACTS)
    return Advanced(stream=stream, version=fold.version, acts=MOST_ACTS, outcome="waiting")


def _perform(
    machine: Machine[S], act: Act, state: S, ports: Ports, backoff: Backoff, failures: int
) -> list[Event]:
    """Perform `act`; turn what it raises into an event, save for a lost lock or log."""
    try:
        return list(machine.perform(act, state, ports))
    except (LockLost, LogUnavailable):
        raise
    except AgentplaneError as error:
        if not error.retryable:
            return [ActRefused(act=act.name, reason=str(error))]
        asked = getattr(error, "retry_after", None)
        seconds = backoff.delay(failures + 1, ports.random(), asked)
        at = ports.clock.now() + timedelta(seconds=seconds)
        return [ActDeferred(act=act.name, attempt=failures + 1, reason=str(error), retry_at=at)]


def _append(events: EventLog, fold: Fold[Any], actor: str, act: Act, happened: list[Event], lock: Any) -> None:
    """Append what happened. It is a fact, so a writer that came between changes only the version it gets."""
    while True:
        try:
            events.append(fold.stream, fold.version, happened, actor=actor, cause=act.name, lock=lock)
        except ConcurrencyConflict:
            fold.catch_up()
            continue
        fold.catch_up()
        return
