"""The tasks: thin, so that everything they do can be done without Celery.

    listener.poll              poll the control plane once
    listener.advance(stream)   bring a deployment as far as it goes now
    operator.advance(stream)   bring an LGP as far as it goes now
    engine.sweep               renew the leases on our namespaces; ask for every stream that is due, or dirty for
                               longer than its message should take

An outage of Redis ends a task with a log line and no more: whatever it was about to do is still in the event log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import structlog
from celery import Celery  # type: ignore[import-untyped]

from engine.bootstrap import Engine, UnknownStream
from engine.errors import LogUnavailable
from engine.runtime.advance import Outcome
from workers.dispatch import LISTENER_ADVANCE, OPERATOR_ADVANCE, route_of

log = structlog.get_logger(__name__)

POLL, SWEEP = "listener.poll", "engine.sweep"

FORGOTTEN_SWEEPS = 2
"""Sweeps that a dirty stream may wait for its message before it is asked for again."""
MOST_WAITING = 32
"""Messages in a queue above which a sweep adds none: what it would ask for is among them most likely, and is asked for
once the queue is shorter if not. More would only have streams looked at again and again that wait for their turn:
while 200 deployments came at once, half of all messages were such."""


class Sends(Protocol):
    """What a sweep needs of a dispatcher."""

    def dispatch(self, stream: str) -> None: ...

    def waiting(self) -> Mapping[str, int]: ...


def sweep(engine: Engine, sends: Sends) -> list[str]:
    """Keep our namespaces, ask for what is due and what was forgotten; return those streams. Raises LogUnavailable."""
    engine.renew_leases()
    due = engine.events.take_due(engine.ports.clock.now())
    forgotten = engine.events.take_dirty(older_than=FORGOTTEN_SWEEPS * engine.settings.sweep_seconds)
    room = {queue: MOST_WAITING - length for queue, length in sends.waiting().items()}
    asked = []
    for stream in dict.fromkeys([*due, *forgotten]):
        queue = route_of(stream, engine.settings).queue
        room[queue] = room.get(queue, MOST_WAITING) - 1
        if room[queue] >= 0:
            sends.dispatch(stream)
            asked.append(stream)
    if forgotten:
        log.info("swept", due=len(due), forgotten=len(forgotten), asked=len(asked))
    return asked


def register(app: Celery, engine: Callable[[], Engine], sends: Sends) -> None:
    """Make the tasks of `app`. `engine` returns the engine of this process."""

    def advance(stream: str) -> None:
        advance_stream(engine(), stream)

    # Polls and sweeps come again by themselves: one that was lost with its worker is not handed out again.
    again: dict[str, Any] = {"acks_late": False}
    app.task(surviving(POLL, lambda: engine().poll()), name=POLL, **again)
    app.task(surviving(SWEEP, lambda: sweep(engine(), sends)), name=SWEEP, **again)
    app.task(surviving(LISTENER_ADVANCE, advance), name=LISTENER_ADVANCE)
    app.task(surviving(OPERATOR_ADVANCE, advance), name=OPERATOR_ADVANCE)


def surviving(task: str, work: Callable[..., object]) -> Callable[..., None]:
    """Return `work` with an outage of Redis turned into a log line."""

    def run(*arguments: str) -> None:
        try:
            work(*arguments)
        except LogUnavailable as error:
            log.warning("left to the next sweep", task=task, arguments=arguments, reason=str(error))

    return run


def advance_stream(engine: Engine, stream: str) -> None:
    """Advance `stream`, if it is anybody's; what is left because this worker is to end is asked for again.

    Raises LogUnavailable.
    """
    try:
        advanced = engine.advance(stream)
    except UnknownStream as error:
        log.error("no component of this worker owns the stream", stream=stream, reason=str(error))
        return
    log.debug("advanced", stream=stream, version=advanced.version, acts=advanced.acts, outcome=advanced.outcome)
    if advanced.outcome is Outcome.INTERRUPTED:
        # A message takes the place of ours: another worker goes on without a sweep, and the queue is the backlog.
        engine.dispatcher.dispatch(stream)
