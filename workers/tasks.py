"""The Celery tasks. They are thin, so that everything they do can be done without Celery.

    listener.poll              poll the control plane once
    listener.advance(stream)   advance the stream of a deployment
    operator.advance(stream)   advance the stream of an LGP
    engine.sweep               renew the leases on our namespaces; request every stream that is due, and every stream
                               that has been dirty for longer than its message should take

An outage of Redis ends a task with a log line and nothing else: what the task was about to do is in the event log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import structlog
from celery import Celery  # type: ignore[import-untyped]

from engine.bootstrap import Engine, UnknownStream
from engine.errors import LogUnavailable
from engine.runtime.advance import Outcome
from workers.dispatch import LISTENER_ADVANCE, OPERATOR_ADVANCE, route_of

log = structlog.get_logger(__name__)

POLL, SWEEP = "listener.poll", "engine.sweep"

FORGOTTEN_SWEEPS = 2
"""Sweeps that a dirty stream may wait for its message before a sweep requests it again."""
MOST_WAITING = 32
"""Messages in a queue above which a sweep adds none.

What the sweep would request is most likely in that queue already; if not, a later sweep requests it when the queue is
shorter. More messages would only have workers look again and again at streams that wait for their turn: while 200
deployments came at once, half of all messages were such.
"""


class Sender(Protocol):
    """What a sweep needs of a dispatcher."""

    def dispatch(self, stream: str) -> None: ...

    def waiting(self) -> Mapping[str, int]: ...


def sweep(engine: Engine, sender: Sender) -> list[str]:
    """Renew our leases; request streams that are due or were forgotten, and return them. Raises LogUnavailable."""
    engine.renew_leases()
    due = engine.events.take_due(engine.ports.clock.now())
    forgotten = engine.events.take_dirty(older_than=FORGOTTEN_SWEEPS * engine.settings.sweep_seconds)
    room = {queue: MOST_WAITING - length for queue, length in sender.waiting().items()}
    requested = []
    for stream in dict.fromkeys([*due, *forgotten]):
        queue = route_of(stream, engine.settings).queue
        room[queue] = room.get(queue, MOST_WAITING) - 1
        if room[queue] >= 0:
            sender.dispatch(stream)
            requested.append(stream)
    if forgotten:
        log.info("swept", due=len(due), forgotten=len(forgotten), requested=len(requested))
    return requested


def register(app: Celery, engine: Callable[[], Engine], sender: Sender) -> None:
    """Register the tasks with `app`. `engine` returns the engine of this process."""

    def advance(stream: str) -> None:
        advance_stream(engine(), stream)

    # Beat sends polls and sweeps again and again: one that was lost with its worker need not be delivered again.
    app.task(outage_logged(POLL, lambda: engine().poll()), name=POLL, acks_late=False)
    app.task(outage_logged(SWEEP, lambda: sweep(engine(), sender)), name=SWEEP, acks_late=False)
    app.task(outage_logged(LISTENER_ADVANCE, advance), name=LISTENER_ADVANCE)
    app.task(outage_logged(OPERATOR_ADVANCE, advance), name=OPERATOR_ADVANCE)


def outage_logged(task: str, work: Callable[..., object]) -> Callable[..., None]:
    """Return `work` with LogUnavailable turned into a log line."""

    def run(*arguments: str) -> None:
        try:
            work(*arguments)
        except LogUnavailable as error:
            log.warning("Redis is away; left to the next sweep", task=task, arguments=arguments, reason=str(error))

    return run


def advance_stream(engine: Engine, stream: str) -> None:
    """Advance `stream`, if a component of this worker owns it. If this worker is stopping, request what is left again.

    Raises LogUnavailable.
    """
    try:
        advanced = engine.advance(stream)
    except UnknownStream as error:
        log.error("no component of this worker owns the stream", stream=stream, reason=str(error))
        return
    log.debug("advanced", stream=stream, version=advanced.version, acts=advanced.acts, outcome=advanced.outcome)
    if advanced.outcome is Outcome.INTERRUPTED:
        # A new message replaces ours: another worker continues without a sweep, and the queue shows the backlog.
        engine.dispatcher.dispatch(stream)
